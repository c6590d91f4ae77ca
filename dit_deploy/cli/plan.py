"""``dit-deploy plan``: what a run costs, before it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_deploy.cli._console import print_results
from dit_deploy.errors import InputError

if TYPE_CHECKING:
    from dit_deploy.planning import Comparison, Plan

__all__ = ["plan"]

_OWN = "the model's own"
_COUNTS = ("", "k", "M", "G", "T", "P", "E")


def plan(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|NAME",
            help="A bundle's folder, or a published model: DiT-XL/2, FLUX.1, Wan2.1-14B.",
            show_default=False,
        ),
    ],
    height: Annotated[int | None, typer.Option(metavar="PIXELS", help="Height.", show_default=_OWN)] = None,
    width: Annotated[int | None, typer.Option(metavar="PIXELS", help="Width.", show_default=_OWN)] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Frames of a video.", show_default=_OWN)] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures or videos at once.")] = 1,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Denoising steps.", show_default=_OWN)] = None,
    guided: Annotated[
        bool | None, typer.Option("--guided/--unguided", help="Whether two halves are computed.", show_default=_OWN)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(metavar="M", help="What if each patch saw its M nearest alone.", show_default="all patches"),
    ] = None,
    experts: Annotated[
        str, typer.Option(metavar="both|one", help="Of a model with two experts: how many are in memory at once.")
    ] = "both",
    precision: Annotated[str, typer.Option(metavar="fp32|fp16|bf16|int8|fp8", help="Of products.")] = "fp16",
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as H100 or RTX-4090.", show_default=False)
    ] = None,
    tflops: Annotated[
        float | None, typer.Option(metavar="X", help="10¹² operations a second, instead of a name.", show_default=False)
    ] = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="Memory, instead of a name.", show_default=False)
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(metavar="GB/S", help="Bytes a second, instead of a name.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run costs: tokens, operations, bytes, the shortest time on a device, and how many of it hold the run.

    Of a bundle every graph is counted; of a published model the denoiser's blocks, by formula. With --steps or
    --window the run without is said beside it.
    """
    from dit_deploy import Bundle
    from dit_deploy.planning import ARCHITECTURES, device_of, find_architecture, plan_architecture, plan_bundle

    on = device_of(device, tflops=tflops, memory=memory, bandwidth=bandwidth)
    known = find_architecture(subject) is not None
    if not known and not Path(subject).exists():
        raise InputError(f"{subject}: is no bundle and no published model; known are {', '.join(ARCHITECTURES)}")
    options: dict[str, Any] = {"height": height, "width": width, "frames": frames, "batch": batch, "steps": steps}
    options |= {"guided": guided, "window": window, "experts": experts, "precision": precision, "device": on}
    made = plan_architecture(subject, **options) if known else plan_bundle(Bundle.open(subject), **options)
    if json_:
        typer.echo(json.dumps(made.to_dict(), indent=1, ensure_ascii=False))
    else:
        _print(made)


def _print(made: Plan) -> None:
    from rich.table import Table

    table = Table(title=f"{made.subject}: {made.tokens:,} tokens, {made.precision}", title_justify="left")
    for name in ("component", "calls", "operations a call", "attention", "weights", "activations", "shortest time"):
        table.add_column(name, justify="left" if name == "component" else "right")
    for one in made.components:
        table.add_row(
            one.name,
            str(one.calls),
            _scaled(one.operations, _COUNTS),
            f"{100 * one.attention:.0f} %",
            _scaled(one.weights) + "B",
            _scaled(one.activations) + "B",
            "" if one.seconds is None else f"{one.seconds:.3g} s",
        )
    print_results(table)
    for note in made.notes:
        typer.echo(note)
    typer.echo(f"operations of the run: {_scaled(made.operations, _COUNTS)}")
    for other in made.compared:
        typer.echo(f"{other.what}: {_scaled(other.operations, _COUNTS)}{_times(other, made)}")
    typer.echo(f"memory at once, at least: {_scaled(made.memory)}B")
    if made.seconds is not None:
        typer.echo(f"shortest time on {made.device}: {made.seconds:.3g} s (no device reaches its stated peaks)")
    if made.fits is not None:
        typer.echo(f"{'fits' if made.fits else 'does not fit'} {made.device}{_pieces(made)}")
    if made.gpus is not None and not made.fits:
        typer.echo(
            f"{_scaled(made.gpus.memory)}B each, weights sharded: {_gpus(made.gpus.weights_sharded)}; "
            f"with the tokens split among them too: {_gpus(made.gpus.tokens_split)}"
        )


def _times(other: Comparison, made: Plan) -> str:
    more = f", {other.operations / made.operations:.3g} times as many"
    return more if other.seconds is None else f"{more}, {other.seconds:.3g} s at least"


def _pieces(made: Plan) -> str:
    if made.vae_tile is None:
        return ""
    size = "the model's own size" if made.vae_tile == "model" else f"{made.vae_tile} pixels"
    return f", with the VAE in pieces of {size} (--vae-tile {made.vae_tile})"


def _gpus(count: int | None) -> str:
    return "no number of GPUs holds it" if count is None else f"{count} GPU{'s' if count > 1 else ''}"


def _scaled(value: float, units: tuple[str, ...] = ("", "k", "M", "G", "T")) -> str:
    index = 0
    while value >= 999.5 and index < len(units) - 1:
        value, index = value / 1000, index + 1
    return f"{value:.3g} {units[index]}"
