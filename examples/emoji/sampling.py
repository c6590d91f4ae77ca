"""Drawing samples: with diffusers' own pipeline, the reference, or with the project's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import PixArtSigmaPipeline
from shared import PromptSampler, to_uint8


class Sampler(Protocol):
    """Whatever makes pictures of captions."""

    name: str

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """Images, uint8 [len(captions), 64, 64, 3]; equal seeds give equal images."""
        ...


class TorchSampler:
    """`PixArtSigmaPipeline` as it is, in float32; noise is drawn on the CPU, the same for any device."""

    def __init__(self, folder: Path, device: str) -> None:
        self.name = f"diffusers ({device})"
        self.pipeline = PixArtSigmaPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        images = self.pipeline(
            captions,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            clean_caption=False,
            use_resolution_binning=False,  # its bins are of 256 pixels and more
            output_type="np",
        ).images
        return to_uint8(images)


class BundleSampler(PromptSampler):
    """The project's own runtime on a bundle made of the same model."""

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        return to_uint8(np.asarray(self.draw(captions, steps, guidance_scale, seed).images))
