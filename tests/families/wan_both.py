"""Draw one video with a bundle and with diffusers' own pipeline of Wan, and say how far the two are apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.wan import pipeline_wan_i2v, pipeline_wan_video2video
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.exporters import export
from dit_deploy.exporters.sources import open_source
from tests.families.wan import Kind, make_pipeline

__all__ = ["LATENTS", "PICTURES", "Both", "Difference", "both", "picture"]

#: Largest differences allowed: of latents relative to the largest, of frames in 0 … 1.
LATENTS, PICTURES = 1e-3, 1 / 255

for _module in (pipeline_wan_i2v, pipeline_wan_video2video):
    if not hasattr(_module, "ftfy"):
        # These import ftfy where it is installed, and call it in any case: without it they could read no prompt.
        _module.ftfy = SimpleNamespace(fix_text=lambda text: text)


@dataclass(frozen=True)
class Difference:
    """How far ours are from diffusers': latents relative to the largest value, frames in 0 … 1, where there are any."""

    latents: float
    frames: float = 0.0


@dataclass(frozen=True)
class Both:
    """A pipeline's folder, the bundle that was made of it, and who runs either."""

    folder: Path
    bundle: Bundle
    pipeline: Pipeline
    reference: Any

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
    ) -> Difference:
        """Draw with both and hold them together; ``theirs`` are arguments in place of ours, for diffusers alone."""
        shared = {"num_frames": frames, "height": height, "width": width, **arguments}
        decoded = "vae_decoder" in self.bundle.manifest.components
        output = self.pipeline(seed=seed, output_type="numpy" if decoded else "latent", **shared)
        shared |= theirs or {}
        shared = {name: value for name, value in shared.items() if value is not None}

        def draw(kind: str) -> Any:
            generator = torch.Generator("cpu").manual_seed(seed)
            return (reference or self.reference)(generator=generator, output_type=kind, **shared).frames

        latents = draw("latent").numpy()
        assert output.latents.shape == latents.shape
        found = Difference(float(np.abs(output.latents - latents).max() / np.abs(latents).max()))
        if decoded:
            video = draw("np")
            assert np.asarray(output.frames).shape == video.shape == (len(latents), frames, height, width, 3)
            found = replace(found, frames=float(np.abs(output.frames - video).max()))
        assert found.latents <= LATENTS and found.frames <= PICTURES, found
        return found


def both(folder: Path, kind: Kind, *, decodes: bool = True) -> Both:
    """Make a random pipeline of ``kind``, save it in ``folder``, and export it.

    Every kind but ``ti2v`` has the same VAE; one that does not decode is exported sooner, and compared in latents.
    """
    reference = make_pipeline(folder, kind)
    reference.save_pretrained(folder / kind)
    reference.set_progress_bar_config(disable=True)
    opened = open_source(folder / kind)
    # The usual size, at which engines are built and calibrated, is that of the released models; 9 × 32 × 48 here.
    side = opened.latents.spatial_compression
    small = opened.latents.model_copy(update={"frames": 3, "height": 32 // side, "width": 48 // side})
    graphs = tuple(graph for graph in opened.graphs if decodes or graph.name != "vae_decoder")
    bundle = export(replace(opened, latents=small, graphs=graphs), folder / "bundle")
    return Both(folder / kind, bundle, Pipeline(bundle, "onnx", threads=1), reference)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Return a picture of soft colours: noise would be another picture at each size."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
