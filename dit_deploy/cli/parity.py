"""``dit-deploy parity``: how far a bundle is from the PyTorch model that it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dit_deploy.cli._console import print_results, show_lines
from dit_deploy.cli._labels import class_indices
from dit_deploy.cli._options import Arch, BundleFolder, ClipSkip, Engine, ImageSize, MaxSequenceLength, Vae
from dit_deploy.errors import InputError

__all__ = ["parity"]


#: Of a video smaller, where the training size has more patches than a CPU draws in minutes.
_SIZE = "the training size, less of a large video"


def parity(
    bundle: BundleFolder,
    reference: Annotated[
        Path,
        typer.Option(
            metavar="SOURCE", help="The checkpoint that the bundle was exported from.", show_default="required"
        ),
    ],
    arch: Arch = None,
    image_size: ImageSize = None,
    vae: Vae = None,
    max_sequence_length: MaxSequenceLength = None,
    clip_skip: ClipSkip = None,
    engine: Engine = "auto",
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Denoising steps.", show_default="the model's own")
    ] = None,
    class_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|NAME", help="Class to draw; again for more pictures.", show_default="a few of the model's"
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What to draw; again for more pictures.", show_default="two of its own"),
    ] = None,
    negative_prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="What to keep away from: one, or one a prompt.", show_default="the model's own"
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(metavar="X", help="The model's main knob.", show_default="the model's own")
    ] = None,
    height: Annotated[int | None, typer.Option(metavar="PIXELS", help="Height.", show_default=_SIZE)] = None,
    width: Annotated[int | None, typer.Option(metavar="PIXELS", help="Width.", show_default=_SIZE)] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Pictures of a video.", show_default=_SIZE)] = None,
    init_image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Picture that a video begins with, or that image to image starts from. One, or again for each sample.",
            show_default="waves made here, or what PyTorch drew",
        ),
    ] = None,
    last_image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Picture that a video ends with, where the model can.",
            show_default="none, or waves where it needs one",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the noise that both start from.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write an HTML page with pictures and plots here, too.", show_default="none"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No lines about progress.")] = False,
) -> None:
    """Compare a bundle with its source in PyTorch.

    Each graph, the trajectory step by step, the pictures. A model that makes videos of pictures is given some.

    Writes parity/NAME.json into the bundle. Exits with 1 past the limits of its precision, and says where the
    first excess is. Needs the extra: pip install 'dit-deploy[export]'.
    """
    from dit_deploy.bundle import Bundle
    from dit_deploy.parity import parity as compare
    from dit_deploy.parity import write_report
    from dit_deploy.runtimes.torch import TorchReference

    opened = Bundle.open(bundle)
    labels = class_indices(class_label, opened.manifest.labels) if class_label else None
    if report is not None and report.exists() and not report.is_dir():
        raise InputError(f"--report {report} is a file; give a folder, which may exist")
    say = show_lines(quiet)
    say(f"opening {reference}")
    source = TorchReference.open(
        reference,
        arch=arch,
        image_size=image_size,
        vae=vae,
        max_sequence_length=max_sequence_length,
        clip_skip=clip_skip,
    )
    found = compare(
        opened,
        source,
        engine=engine,
        num_inference_steps=steps,
        class_labels=labels,
        prompts=prompt or None,
        negative_prompt=negative_prompt or None,
        guidance_scale=guidance_scale,
        height=height,
        width=width,
        num_frames=frames,
        image=init_image or None,
        last_image=last_image or None,
        seed=seed,
        progress=say,
    )
    print_results(found.table())  # ends in the verdict, and where the first excess is
    typer.echo(str(opened.write_parity(found.engine, found.to_dict())))
    if report is not None:
        typer.echo(str(write_report(found, report)))
    if not found.passed:
        raise typer.Exit(1)
