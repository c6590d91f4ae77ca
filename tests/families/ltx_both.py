"""LTX-Video twice: diffusers' pipelines, and ours from one bundle of the same folder; for two files of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from diffusers import LTXImageToVideoPipeline, LTXPipeline
from PIL import Image

from dit_deploy import Pipeline
from dit_deploy.exporters import export
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import call, example_inputs, traced_sizes
from tests.families import ltx

__all__ = [
    "VAE_SIZES",
    "Case",
    "autoencoder_difference",
    "difference",
    "onnx_difference",
    "picture",
    "transformer_difference",
]

#: (batch, latent frames, latent height, latent width)
VAE_SIZES = [(1, 1, 1, 1), (3, 2, 3, 1), (2, 5, 2, 4)]


class Case:
    """The pipelines of diffusers, and ours from one bundle."""

    def __init__(self, base: Path, version: str, **options: Any) -> None:
        self.folder = ltx.make_ltx(base / "source", version, **options)
        self.bundle = export(self.folder, base / "bundle")
        self.ours = Pipeline(self.bundle, "onnx", threads=1)
        self.text = LTXPipeline.from_pretrained(self.folder, low_cpu_mem_usage=False)
        self.image = LTXImageToVideoPipeline(**self.text.components)
        for pipeline in (self.text, self.image):
            pipeline.set_progress_bar_config(disable=True)

    def draw(self, output_type: str, **arguments: Any) -> np.ndarray:
        """Return latents [batch, channels, frames, height, width] or frames [batch, frames, height, width, 3]."""
        pipeline = self.image if "image" in arguments else self.text
        made = np.asarray(pipeline(**arguments, output_type=output_type).frames)
        if output_type != "latent":
            return made
        space, time = pipeline.vae_spatial_compression_ratio, pipeline.vae_temporal_compression_ratio
        sizes = (arguments["num_frames"] - 1) // time + 1, arguments["height"] // space, arguments["width"] // space
        return made.transpose(0, 2, 1).reshape(len(made), -1, *sizes)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and expected.any()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def picture(width: int, height: int, seed: int = 5) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def onnx_difference(file: Path, graph: Graph, free: dict[str, int]) -> float:
    """Hold a graph's file, run by ONNX Runtime alone at sizes not traced, against what diffusers gives."""
    assert free != traced_sizes(graph.component)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    feeds = example_inputs(graph.component, free, sum(free.values()), graph.feeds)
    assert graph.reference is not None
    found, expected = session.run(None, feeds), call(graph.reference(), feeds)
    return max(difference(*pair) for pair in zip(found, expected, strict=True))


def transformer_difference(case: Case, sizes: tuple[int, ...]) -> float:
    """Hold the denoiser's file at (batch, frames, height, width, tokens) against diffusers' transformer."""
    names = ("batch", "patch_frames", "patch_height", "patch_width", "sequence_length")
    return onnx_difference(
        case.bundle.component_path("denoiser"), _graph(case, "denoiser"), dict(zip(names, sizes, strict=True))
    )


def autoencoder_difference(case: Case, name: str, sizes: tuple[int, ...]) -> float:
    """Hold the file of a half, or of the first picture, at one of ``VAE_SIZES`` against diffusers' autoencoder."""
    names = ("batch", "latent_frames", "latent_height", "latent_width")
    return onnx_difference(case.bundle.component_path(name), _graph(case, name), dict(zip(names, sizes, strict=True)))


def _graph(case: Case, name: str) -> Graph:
    return next(graph for graph in open_source(case.folder).graphs if graph.name == name)
