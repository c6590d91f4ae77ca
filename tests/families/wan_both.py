"""Draw one video with a bundle and with diffusers' own pipeline of Wan, and say how far the two are apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from diffusers.pipelines.wan import pipeline_wan_i2v, pipeline_wan_video2video
from PIL import Image

from dit_deploy import Pipeline
from dit_deploy.exporters import export
from dit_deploy.exporters.sources import open_source
from tests.families import checks
from tests.families.wan import Kind, make_pipeline

__all__ = ["Case", "check_graphs", "made", "picture"]

for _module in (pipeline_wan_i2v, pipeline_wan_video2video):
    if not hasattr(_module, "ftfy"):
        # These import ftfy where it is installed, and call it in any case: without it they could read no prompt.
        _module.ftfy = SimpleNamespace(fix_text=lambda text: text)


class Case(checks.Case):
    """A pipeline of one kind, whose bundle may be without the VAE's decoder."""

    def draw(
        self,
        frames: int,
        height: int,
        width: int,
        *,
        theirs: dict[str, Any] | None = None,
        reference: Any = None,
        seed: int = 5,
        **arguments: Any,
    ) -> None:
        """Draw with both and hold them together; ``theirs`` are arguments in place of ours, for diffusers alone."""
        shared = {"num_frames": frames, "height": height, "width": width, **arguments}
        decoded = "vae_decoder" in self.bundle.manifest.components
        output = self.ours(seed=seed, output_type="numpy" if decoded else "latent", **shared)
        shared |= theirs or {}
        shared = {name: value for name, value in shared.items() if value is not None}
        pipeline = reference or self.theirs
        if decoded:
            latents, video = checks.draw(pipeline, generator=checks.seeded(seed), **shared)
            assert video.shape == (len(latents), frames, height, width, 3)
        if not decoded or (pipeline.config.get("expand_timesteps") and "image" in shared):
            # In the second case the first frame of the latents is put back after the last step.
            latents = pipeline(generator=checks.seeded(seed), output_type="latent", **shared).frames.numpy()
        if decoded:
            checks.assert_drawn(output, latents, video)
        else:
            checks.assert_near(output.latents, latents, checks.LATENTS)


def made(folder: Path, kind: Kind, *, decodes: bool = True) -> Case:
    """Make a random pipeline of ``kind``, save it in ``folder``, and export it.

    Every kind but ``ti2v`` has the same VAE; one that does not decode is exported sooner, and compared in latents.
    """
    theirs = checks.quiet(make_pipeline(folder, kind))
    theirs.save_pretrained(folder / kind)
    opened = open_source(folder / kind)
    # The usual size, at which engines are built and calibrated, is that of the released models; 9 × 32 × 48 here.
    side = opened.latents.spatial_compression
    small = opened.latents.model_copy(update={"frames": 3, "height": 32 // side, "width": 48 // side})
    graphs = tuple(graph for graph in opened.graphs if decodes or graph.name != "vae_decoder")
    bundle = export(replace(opened, latents=small, graphs=graphs), folder / "bundle")
    return Case(folder / kind, bundle, Pipeline(bundle, "onnx", threads=1), theirs)


def check_graphs(case: Case, sizes: tuple[int, ...], *names: str) -> None:
    """Hold these components' files at (batch, frames, rows, columns, tokens) against diffusers' networks."""
    for graph in open_source(case.folder).graphs:
        if graph.name in names:
            unit = "patch" if graph.name == "denoiser" else "latent"
            axes = ("batch", f"{unit}_frames", f"{unit}_height", f"{unit}_width", "sequence_length")[: len(sizes)]
            constant = graph.name == "image_conditions"
            checks.check_graph(case.bundle.component_path(graph.name), graph, axes, [sizes], seed=9, constant=constant)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return a picture of soft colours: noise would be another picture at each size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
