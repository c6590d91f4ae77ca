"""The plan of a published architecture: its denoiser alone, by formula."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dit_deploy.errors import InputError
from dit_deploy.planning.architectures import architecture_of
from dit_deploy.planning.formulas import transformer_costs
from dit_deploy.planning.grids import patch_grid
from dit_deploy.planning.plan import Plan, Run, make_plan, plan_component

__all__ = ["plan_architecture"]


def plan_architecture(name: str, **asked: Any) -> Plan:
    """Plan the denoiser of a published architecture.

    Args:
        asked: fields of :class:`~dit_deploy.planning.plan.Run`. Sizes that are no whole patches are rounded up, and a
            note says so.

    Raises:
        InputError: the name is not known, or a number is out of range.
    """
    run = Run(**asked)
    one = architecture_of(name)
    pixels = one.patch_size * one.compression
    frames = run.frames or (one.video.frames if one.video else 1)
    grid = patch_grid(run.height or one.height, run.width or one.width, pixels, frames, one.video)
    steps = run.steps or one.steps
    both = one.guided if run.guided is None else run.guided
    batch = run.batch * (2 if both else 1)
    costs = transformer_costs(one, batch, grid, run.bytes_[1], run.window)
    everywhere = None
    if run.window is not None:
        everywhere = plan_component("denoiser", steps, transformer_costs(one, batch, grid, run.bytes_[1]), run)
    notes = list(grid.notes)
    held = one.experts if run.experts == "both" else 1
    if one.experts == 1 and run.experts == "one":
        raise InputError(f"experts: one came, but {name} has a single transformer; leave it out")
    if one.experts > 1:
        whole = costs.weights * run.bytes_[0] / 1e9
        notes.append(
            f"{one.experts} experts of {whole:.3g} GB, one for each part of the schedule: {held} in memory at once; "
            + ("the other is loaded once in a run" if held == 1 else "one at a time (--experts one) takes half")
        )
    if one.video is not None:
        notes.append(
            f"attention is {100 * costs.attention / costs.operations:.0f} % of the operations: each of {grid.tokens:,} "
            f"patches with {_partners(one.factorised, grid.rows * grid.columns, grid.frames, grid.tokens, run.window)}"
        )
    denoiser = plan_component("denoiser", steps, costs, run)
    planned = [replace(denoiser, weights=denoiser.weights * held)]
    size = f"{grid.height} × {grid.width} pixels"
    if one.video is not None:
        size = f"{grid.num_frames} frames of {size}"
    subject = f"{name}, the denoiser alone, {size}, batch {run.batch}, {steps} steps"
    return make_plan(subject, grid.tokens, planned, run, usual_steps=one.steps, everywhere=everywhere, notes=notes)


def _partners(factorised: bool, frame: int, frames: int, tokens: int, window: int | None) -> str:
    if factorised:
        return f"{frame:,} of its frame, then with {frames:,} at its place"
    return f"{min(window, tokens):,} neighbours" if window is not None else "all of them"
