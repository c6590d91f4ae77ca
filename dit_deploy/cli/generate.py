"""``dit-deploy generate``: pictures and videos from a bundle, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from dit_deploy.cli._console import step_bar
from dit_deploy.cli._labels import class_indices
from dit_deploy.cli._options import BundleFolder, Engine, Threads
from dit_deploy.cli._pictures import contact_sheet, plan_files, write_pictures
from dit_deploy.cli._videos import plan_videos, write_videos
from dit_deploy.errors import InputError

if TYPE_CHECKING:
    from dit_deploy.bundle import Bundle
    from dit_deploy.runtimes.pipeline import Output

__all__ = ["generate"]

Item = TypeVar("Item")

_MODEL = "the model's own"
#: Of a video whose model has none of its own.
_FRAME_RATE = 8.0


def generate(
    bundle: BundleFolder,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A .png, .jpg or .webp file for one picture or a grid; a folder (0000.png, …) for several. A "
            ".mp4, .mkv, .mov, .gif or .webp file for one video; a folder for its frames, or several (0000.mp4, …).",
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
    prompt_2: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What the second text encoder reads instead.", show_default="the prompt"),
    ] = None,
    prompt_3: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What the third text encoder reads instead.", show_default="the prompt"),
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
        typer.Option(
            metavar="X",
            help="The model's main knob: mostly classifier-free guidance, none at 1 and below.",
            show_default=_MODEL,
        ),
    ] = None,
    guidance_scale_2: Annotated[
        float | None,
        typer.Option(
            "--guidance-scale-2",
            metavar="X",
            help="Of the second of two denoisers (Wan 2.2).",
            show_default="that of the first",
        ),
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
            help="One for all pictures, or again for each. Several with one class or prompt draw it once each.",
            show_default="random, and printed",
        ),
    ] = None,
    height: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Height.", show_default="the training size")
    ] = None,
    width: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Width.", show_default="the training size")
    ] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Pictures of a video.", show_default=_MODEL)] = None,
    fps: Annotated[
        float | None, typer.Option(metavar="X", help="Pictures a second of a video.", show_default=_MODEL)
    ] = None,
    init_image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Picture to start from, or that a video begins with. One, or again for each sample.",
            show_default=False,
        ),
    ] = None,
    last_image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Picture that a video ends with, where the model can.", show_default=False),
    ] = None,
    init_video: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Video to start from.", show_default=False)
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(metavar="X", help="How much of what it starts from is redrawn, 0 to 1.", show_default="0.8"),
    ] = None,
    window_frames: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Pictures of a long video that the denoiser sees at a time.", show_default="all"
        ),
    ] = None,
    window_overlap: Annotated[
        int | None,
        typer.Option(metavar="N", help="Pictures that neighbouring windows share.", show_default="about a quarter"),
    ] = None,
    vae_tile: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS|model",
            help="Larger pictures go through the VAE in pieces of this size, in the memory of one; model: in those "
            "that diffusers has for this model.",
            show_default="in one piece",
        ),
    ] = None,
    vae_memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="What the VAE may take beside its weights, such as 2G: pieces that fit are chosen by it.",
            show_default="no limit",
        ),
    ] = None,
    decode_timestep: Annotated[
        float | None,
        typer.Option(metavar="X", help="For a VAE decoder that removes noise itself (LTX-Video).", show_default="0"),
    ] = None,
    decode_noise_scale: Annotated[
        float | None,
        typer.Option(metavar="X", help="How much noise it is given.", show_default="--decode-timestep"),
    ] = None,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Keep one component in memory at a time; slower.")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="All pictures on one contact sheet; a row for each video.")
    ] = False,
    columns: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Columns of the contact sheet.", show_default="nearly square")
    ] = None,
    engine: Engine = "auto",
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Draw pictures or videos, one for each --class-label, or --images-per-prompt for each --prompt."""
    from dit_deploy import Bundle, Pipeline
    from dit_deploy.runtimes.frames import latent_frames, pixel_frames

    opened = Bundle.open(bundle)
    latent = latent_frames(opened.manifest, frames)
    video = latent is not None
    labels = None if prompt and not class_label else _labels(opened, class_label or [], seed or [])
    if len(prompt or []) == 1 and images_per_prompt == 1 and seed:
        images_per_prompt = len(seed)
    wanted = len(prompt or []) * images_per_prompt if labels is None else len(labels)
    if columns is not None and not grid:
        raise InputError(f"--columns {columns} is for --grid; add it, or leave --columns out")
    if latent is None:
        files = plan_files(out, wanted, grid=grid, overwrite=overwrite)
    else:
        count = pixel_frames(opened.manifest, latent)
        files = plan_videos(out, wanted, count, grid=grid, overwrite=overwrite)
    pipe = Pipeline(opened, engine, threads=threads, low_memory=low_memory, vae_memory=vae_memory)
    if engine == "auto" and opened.engine_names():
        typer.echo(f"engine {pipe.engine_reason}", err=True)
    start: Any = _one_or_all(init_image)
    last: Any = _one_or_all(last_image)
    with step_bar("denoising") as advance:
        result = pipe(
            class_labels=labels,
            prompt=prompt or None,
            negative_prompt=negative_prompt or None,
            prompt_2=prompt_2 or None,
            prompt_3=prompt_3 or None,
            num_images_per_prompt=images_per_prompt,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            guidance_scale_2=guidance_scale_2,
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
            num_frames=frames,
            height=height,
            width=width,
            frame_rate=fps,
            scheduler=scheduler,
            eta=eta,
            image=start,
            last_image=last,
            video=init_video,
            strength=strength,
            window_frames=window_frames,
            window_overlap=window_overlap,
            vae_tile=_tile(vae_tile),
            decode_timestep=decode_timestep,
            decode_noise_scale=decode_noise_scale,
            progress=lambda what, done, total: advance(done, total, what),
        )
    if video:
        videos: Any = result.frames
        write_videos(videos, files, result.frame_rate or _FRAME_RATE, grid=grid, overwrite=overwrite)
        made = "1 video" if len(videos) == 1 else f"{len(videos)} videos"
        typer.echo(f"{_where(files)}: {made} of {len(videos[0])} frames, {_ending(result)}")
        return
    pictures: list[Any] = list(result.images)
    write_pictures([contact_sheet(pictures, columns)] if grid else pictures, files, overwrite=overwrite)
    made = "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
    typer.echo(f"{_where(files)}: {made}, {_ending(result)}")


def _where(files: list[Path]) -> str:
    return str(files[0]) if len(files) == 1 else f"{files[0].parent}: {files[0].name} … {files[-1].name}"


def _ending(result: Output) -> str:
    return f"seed {_seed_text(result.seed)}, {result.seconds['total']:.2f} s"


def _tile(text: str | None) -> int | Literal["model"] | None:
    if text is None:
        return None
    if text == "model":
        return "model"
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--vae-tile: {text!r} came, expected a number of pixels, or model") from None


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
