"""What one run consists of, and who computes its steps: the device where it can, the host everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Manifest
from dit_deploy.runtimes.components import Components
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.device_loop import DeviceSteps, device_of, why_not
from dit_deploy.runtimes.experts import ExpertDenoiser
from dit_deploy.runtimes.guided import Denoiser, GuidedDenoiser
from dit_deploy.runtimes.plan import Plan
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.runtimes.steps import HostSteps, Steps
from dit_deploy.runtimes.windows import WindowedDenoiser
from dit_deploy.sampling import Guidance, SolverState

__all__ = ["Run", "open_denoiser", "open_steps"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Run:
    """A run, checked.

    Attributes:
        plan: the sampler's table.
        conditions: every input of the denoiser but ``latents`` and ``timestep``.
        guidance: of the denoiser, or of the first of two.
        second_guidance: of the second of two.
        windows: latent frames of each window of a long video; ``None``: it is not cut.
    """

    plan: Plan
    conditions: Conditions
    guidance: Guidance
    second_guidance: Guidance | None = None
    windows: list[slice] | None = None


def open_steps(components: Components, manifest: Manifest, run: Run, start: Floats, *, alone: bool = False) -> Steps:
    """Return the steps of a run that begins with ``start`` [batch, channels, …]: on the device where that is possible.

    Args:
        alone: of two denoisers, keep only the one in use in memory.
    """
    table, scale = run.plan.table, run.plan.timestep_scale
    if manifest.experts is None and run.windows is None:
        denoiser = components.pool("denoiser")
        solver = None if device_of(denoiser) is None else components.solver()
        if solver is not None and not why_not(denoiser, solver, run.guidance, table, run.conditions):
            return DeviceSteps(denoiser, solver, run.conditions, run.guidance, table, start, scale)

    state = SolverState(table, start.shape)
    state.reset(start)

    def released(name: str) -> None:
        if alone:
            components.release(name)

    return HostSteps(open_denoiser(components.pool, manifest, run, start.shape, released), state)


def open_denoiser(
    pool: Callable[[str], BindingPool],
    manifest: Manifest,
    run: Run,
    shape: tuple[int, ...],
    released: Callable[[str], None] = lambda name: None,
) -> Denoiser:
    """Return what predicts the rows of a run on latents of ``shape``: of two denoisers, the one whose time it is.

    Args:
        pool: (component's name) → its bindings.
        released: called with the name of the one of two that was closed.
    """

    def evaluated(name: str, guidance: Guidance) -> Denoiser:
        return _windowed(pool(name), run, guidance, shape)

    if manifest.experts is None:
        return evaluated("denoiser", run.guidance)
    second, experts = run.second_guidance or run.guidance, manifest.experts
    names = {True: "denoiser", False: experts.component}
    return ExpertDenoiser(
        lambda: evaluated("denoiser", run.guidance),
        lambda: evaluated(experts.component, second),
        experts.boundary * run.plan.num_train_timesteps,
        lambda first: released(names[first]),
    )


def _windowed(pool: BindingPool, run: Run, guidance: Guidance, shape: tuple[int, ...]) -> Denoiser:
    def make(conditions: Conditions, size: tuple[int, ...]) -> Denoiser:
        return GuidedDenoiser(pool, conditions, guidance, size, run.plan.timestep_scale)

    if run.windows is None:
        return make(run.conditions, shape)
    return WindowedDenoiser(make, pool.runner.component, run.conditions, shape, run.windows)
