"""Drawing samples: with diffusers' own pipeline, the reference, or with the project's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import PixArtSigmaPipeline


class Sampler(Protocol):
    """Whatever makes pictures of captions."""

    name: str

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """Images, uint8 [len(captions), 64, 64, 3]; equal seeds give equal images."""
        ...


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float images in 0..1, any shape, rounded to uint8 in 0..255."""
    return np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


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


class BundleSampler:
    """The project's own runtime on a bundle made of the same model."""

    def __init__(self, bundle: Path, engine: str) -> None:
        # Imported here, as the scores of the PyTorch model must not need the runtime.
        from dit_deploy import Bundle, Pipeline

        self.pipeline = Pipeline(Bundle.open(bundle), engine=engine)
        self.name = f"dit_deploy ({engine})"

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        result = self.pipeline(
            prompt=captions,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            output_type="numpy",
        )
        return to_uint8(np.asarray(result.images))
