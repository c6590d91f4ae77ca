"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Arch", "BundleFolder", "ClipSkip", "Engine", "ImageSize", "MaxSequenceLength", "Threads", "Vae"]

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)]

Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="DiT-XL/2 and so on, for a checkpoint file of facebookresearch/DiT.",
        show_default="found from the tensors",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Size that a checkpoint file was trained at.",
        show_default="found from its position table",
    ),
]
Vae = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A diffusers autoencoder folder.",
        show_default="the source's own, or the folder vae beside it",
    ),
]
MaxSequenceLength = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens of a prompt that the longest text encoder reads (PixArt, Stable Diffusion 3, FLUX).",
        show_default="the pipeline's own",
    ),
]
ClipSkip = Annotated[
    int | None,
    typer.Option(metavar="N", help="Layers of CLIP left out beside the last (Stable Diffusion 3).", show_default="0"),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="An engine of the bundle; onnx for the plain graphs; auto for the best that runs here."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads within an operator.", show_default="one a core"),
]
