"""``dit-deploy export``: from a checkpoint to a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from dit_deploy.cli._console import show_lines
from dit_deploy.cli._options import Arch, ClipSkip, ImageSize, MaxSequenceLength, Vae

__all__ = ["export"]


def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A diffusers pipeline or DiTTransformer2DModel folder, or a facebookresearch/DiT checkpoint file.",
            show_default=False,
        ),
    ],
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="Folder to make; the one around it exists.", show_default=False)
    ],
    arch: Arch = None,
    image_size: ImageSize = None,
    vae: Vae = None,
    max_sequence_length: MaxSequenceLength = None,
    clip_skip: ClipSkip = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|bf16",
            help="What weights are stored as; 16 bits halve the bundle. Computation stays in float32.",
        ),
    ] = "fp32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there. What is no bundle is never replaced.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No lines about progress.")] = False,
) -> None:
    """Export a checkpoint as a bundle.

    Each graph is compared with its source at three sizes before anything is written.

    A killed export leaves nothing that opens. Needs the extra: pip install 'dit-deploy[export]'.
    """
    from dit_deploy.exporters import export as export_bundle

    started = time.perf_counter()
    made = export_bundle(
        source,
        bundle,
        arch=arch,
        image_size=image_size,
        vae=vae,
        max_sequence_length=max_sequence_length,
        clip_skip=clip_skip,
        dtype=dtype,
        overwrite=overwrite,
        progress=show_lines(quiet),
    )
    size = sum(record.size for record in made.manifest.files.values())
    typer.echo(f"{made.path}: {size / 1e6:.1f} MB in {time.perf_counter() - started:.1f} s")
