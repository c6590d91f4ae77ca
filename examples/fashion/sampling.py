"""Drawing samples: with plain PyTorch and diffusers modules, the reference, or with the project's runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from networks import LATENT_CHANNELS, LATENT_SIZE, NULL_CLASS
from shared import to_uint8


class Sampler(Protocol):
    """Whatever makes pictures of class labels."""

    name: str
    workers: int  # how many threads may call `sample` at once

    def sample(self, labels: list[int], seed: int) -> np.ndarray:
        """Images, uint8 [len(labels), 32, 32, 3], of labels in 0..9; equal seeds give equal images."""
        ...


class TorchSampler:
    """DDIM (Song et al. 2021, arXiv:2010.02502) with classifier-free guidance on all four latent channels.

    The loop is here, not `DiTPipeline`'s, as that one's null class is ImageNet's 1000 whatever the model.
    """

    name = "torch"

    def __init__(self, folder: Path, steps: int, guidance_scale: float, workers: int = 1) -> None:
        self.workers = workers
        self.transformer = DiTTransformer2DModel.from_pretrained(folder / "transformer").float().eval()
        self.vae = AutoencoderKL.from_pretrained(folder / "vae").float().eval()
        self.scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        self.scheduler.set_timesteps(steps)
        self.guidance_scale = guidance_scale

    @torch.no_grad()
    def sample(self, labels: list[int], seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(len(labels), LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)
        return self.decode(self.denoise(latents, torch.tensor(labels)))

    def denoise(self, latents: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        """Scaled latents [n, 4, 8, 8] of standard normal noise of that shape, for labels [n] in 0..9."""
        labels = torch.cat([class_labels, torch.full_like(class_labels, NULL_CLASS)])
        for timestep in self.scheduler.timesteps:
            output = self.transformer(
                torch.cat([latents, latents]), timestep=timestep.expand(len(labels)), class_labels=labels
            ).sample
            # The other half of the channels is the learned variance, which DDIM has no use for.
            conditional, unconditional = output[:, :LATENT_CHANNELS].chunk(2)
            epsilon = unconditional + self.guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(epsilon, timestep, latents).prev_sample
        return latents

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Images, uint8 [n, 32, 32, 3], of scaled latents [n, 4, 8, 8]."""
        images = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return to_uint8((images / 2.0 + 0.5).permute(0, 2, 3, 1).numpy())


class BundleSampler:
    """The project's own runtime on a bundle made of the same model."""

    workers = 1

    def __init__(self, bundle: Path, engine: str, steps: int, guidance_scale: float) -> None:
        # Imported here, as the scores of the PyTorch model must not need the runtime.
        from dit_deploy import Bundle, Pipeline

        self.pipeline = Pipeline(Bundle.open(bundle), engine=engine)
        self.name = f"dit_deploy ({engine})"
        self.steps = steps
        self.guidance_scale = guidance_scale

    def sample(self, labels: list[int], seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        result = self.pipeline(
            class_labels=labels,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            seed=seed,
            output_type="numpy",
        )
        return to_uint8(np.asarray(result.images))
