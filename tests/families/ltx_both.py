"""LTX-Video twice: diffusers' pipelines, and ours from one bundle of the same folder; for two files of tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import LTXImageToVideoPipeline, LTXPipeline

from tests.families import checks, ltx

__all__ = ["VAE_SIZES", "Case", "check_autoencoder", "check_transformer", "made"]

#: (batch, latent frames, latent height, latent width)
VAE_SIZES = [(1, 1, 1, 1), (3, 2, 3, 1), (2, 5, 2, 4)]


@dataclass(frozen=True)
class Case(checks.Case):
    """``theirs`` makes videos of texts, ``image`` of a picture too."""

    image: LTXImageToVideoPipeline

    def draw(self, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return latents [batch, channels, frames, height, width] and frames [batch, frames, height, width, 3]."""
        pipeline = self.image if "image" in arguments else self.theirs
        packed, video = checks.draw(pipeline, **arguments)
        space, time = pipeline.vae_spatial_compression_ratio, pipeline.vae_temporal_compression_ratio
        sizes = (arguments["num_frames"] - 1) // time + 1, arguments["height"] // space, arguments["width"] // space
        return packed.transpose(0, 2, 1).reshape(len(packed), -1, *sizes), video


def made(base: Path, version: str, **options: Any) -> Case:
    """Save a random pipeline of ``version`` in ``base``, and export it."""
    one = checks.exported(ltx.make_ltx(base / "source", version, **options), LTXPipeline, base / "bundle")
    image = checks.quiet(LTXImageToVideoPipeline(**one.theirs.components))
    return Case(one.folder, one.bundle, one.ours, one.theirs, image)


def check_transformer(case: Case, sizes: tuple[int, ...]) -> None:
    """Hold the denoiser's file at (batch, frames, height, width, tokens) against diffusers' transformer."""
    axes = ("batch", "patch_frames", "patch_height", "patch_width", "sequence_length")
    checks.check_graph(case.bundle.component_path("denoiser"), checks.graph_of(case.folder, "denoiser"), axes, [sizes])


def check_autoencoder(case: Case, name: str, sizes: tuple[int, ...]) -> None:
    """Hold the file of a half, or of the first picture, at one of ``VAE_SIZES`` against diffusers' autoencoder."""
    axes, graph = ("batch", "latent_frames", "latent_height", "latent_width"), checks.graph_of(case.folder, name)
    checks.check_graph(case.bundle.component_path(name), graph, axes, [sizes], constant=name == "image_conditions")
