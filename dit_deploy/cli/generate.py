"""``dit-deploy generate``: pictures from a bundle, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from dit_deploy.cli._console import step_bar
from dit_deploy.cli._labels import class_indices
from dit_deploy.cli._options import BundleFolder, Engine, Threads
from dit_deploy.cli._pictures import contact_sheet, plan_files, write_pictures
from dit_deploy.errors import InputError

if TYPE_CHECKING:
    from dit_deploy.bundle import Bundle

__all__ = ["generate"]

Item = TypeVar("Item")

_MODEL = "the model's own"


def generate(
    bundle: BundleFolder,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A .png, .jpg or .webp file for one picture or a grid; a folder (0000.png, …) for several.",
            show_default=False,
        ),
    ],
    class_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|NAME",
            help="Class to draw, by number or name. Again for each further picture.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What to draw, for a bundle with text encoders. Again for each further prompt.",
            show_default=False,
        ),
    ] = None,
    negative_prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What to keep away from. One for all prompts, or again for each.",
            show_default=_MODEL,
        ),
    ] = None,
    images_per_prompt: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures of each prompt.")] = 1,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Denoising steps.", show_default=_MODEL)] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A diffusers scheduler, such as DPMSolverMultistepScheduler.", show_default=_MODEL
        ),
    ] = None,
    eta: Annotated[float, typer.Option(metavar="X", help="Stochasticity of DDIM, 0 to 1.")] = 0.0,
    guidance_scale: Annotated[
        float | None,
        typer.Option(metavar="X", help="Classifier-free guidance; 1 and below is none.", show_default=_MODEL),
    ] = None,
    true_cfg_scale: Annotated[
        float,
        typer.Option(metavar="X", help="Classifier-free guidance of a model whose own is embedded, or none (FLUX)."),
    ] = 1.0,
    guidance_channels: Annotated[
        str, typer.Option(metavar="N|all|model", help="How many leading latent channels are guided.")
    ] = "model",
    guidance_interval: Annotated[
        tuple[float, float], typer.Option(metavar="FROM TO", help="Guide in this part of the steps only, as fractions.")
    ] = (0.0, 1.0),
    guidance_rescale: Annotated[
        float, typer.Option(metavar="X", help="Pull the guided prediction back to its former deviation, 0 to 1.")
    ] = 0.0,
    guidance_batched: Annotated[
        bool,
        typer.Option(
            "--guidance-batched/--guidance-apart", help="Both halves in one call, or in two with half the memory."
        ),
    ] = True,
    skip_guidance_layer: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Skip-layer guidance: a block that a third call leaves out; again for each (SD 3.5 Medium: 7, 8, 9).",
            show_default="none",
        ),
    ] = None,
    skip_layer_guidance_scale: Annotated[
        float, typer.Option(metavar="X", help="How strongly skip-layer guidance acts.")
    ] = 2.8,
    skip_layer_guidance_interval: Annotated[
        tuple[float, float],
        typer.Option(metavar="FROM TO", help="Skip-layer guidance in this part of the steps only, as fractions."),
    ] = (0.01, 0.2),
    seed: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="One for all pictures, or again for each. Several with one class draw that class once each.",
            show_default="random, and printed",
        ),
    ] = None,
    height: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Height.", show_default="the training size")
    ] = None,
    width: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Width.", show_default="the training size")
    ] = None,
    init_image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Picture to start from. One, or again for each class label.", show_default=False
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(metavar="X", help="How much of --init-image is redrawn, 0 to 1.", show_default="0.8")
    ] = None,
    vae_tile: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Larger pictures go through the VAE in pieces of this size, in the memory of one.",
            show_default="in one piece",
        ),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="All pictures on one contact sheet.")] = False,
    columns: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Columns of the contact sheet.", show_default="nearly square")
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Draw pictures, one for each --class-label, or --images-per-prompt for each --prompt."""
    from dit_deploy import Bundle, Pipeline

    opened = Bundle.open(bundle)
    labels = None if prompt and not class_label else _labels(opened, class_label or [], seed or [])
    wanted = len(prompt or []) * images_per_prompt if labels is None else len(labels)
    if columns is not None and not grid:
        raise InputError(f"--columns {columns} is for --grid; add it, or leave --columns out")
    files = plan_files(out, wanted, grid=grid, overwrite=overwrite)
    pipe = Pipeline(opened, engine, threads=threads)
    if engine == "auto" and opened.engine_names():
        typer.echo(f"engine {pipe.engine_reason}", err=True)
    start: Any = _one_or_all(init_image)
    with step_bar("denoising") as advance:
        result = pipe(
            class_labels=labels,
            prompt=prompt or None,
            negative_prompt=negative_prompt or None,
            num_images_per_prompt=images_per_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            true_cfg_scale=true_cfg_scale,
            guidance_channels=_channels(guidance_channels),
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            guidance_batched=guidance_batched,
            skip_guidance_layers=skip_guidance_layer,
            skip_layer_guidance_scale=skip_layer_guidance_scale,
            skip_layer_guidance_start=skip_layer_guidance_interval[0],
            skip_layer_guidance_stop=skip_layer_guidance_interval[1],
            seed=_one_or_all(seed),
            height=height,
            width=width,
            scheduler=scheduler,
            eta=eta,
            image=start,
            strength=strength,
            vae_tile=vae_tile,
            callback=lambda step, total, latents: advance(step + 1, total),
        )
    pictures: list[Any] = list(result.images)
    write_pictures([contact_sheet(pictures, columns)] if grid else pictures, files, overwrite=overwrite)
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent}: {files[0].name} … {files[-1].name}"
    count = "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
    typer.echo(f"{where}: {count}, seed {_seed_text(result.seed)}, {result.seconds['total']:.2f} s")


def _labels(bundle: Bundle, class_label: list[str], seeds: list[int]) -> list[int]:
    labels = class_indices(class_label, bundle.manifest.labels)
    if not labels:
        if bundle.manifest.prompts is not None:
            raise InputError("--prompt: none came; say what to draw")
        raise InputError("--class-label: none came; give one for each picture, by number or name")
    return labels * len(seeds) if len(labels) == 1 and len(seeds) > 1 else labels


def _channels(text: str) -> int | Literal["model"] | None:
    if text == "model":
        return "model"
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--guidance-channels: {text!r} came, expected a number, all, or model") from None


def _one_or_all(given: list[Item] | None) -> Item | list[Item] | None:
    return given[0] if given is not None and len(given) == 1 else given or None


def _seed_text(seed: int | list[int]) -> str:
    return str(seed) if isinstance(seed, int) else " ".join(map(str, seed))
