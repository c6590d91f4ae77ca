"""Drawing clips: with the PyTorch networks, the reference, or with the project's runtime."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from networks import LATENT_CHANNELS, LATENT_SIZE, TOKENS, build_scheduler
from safetensors.torch import load_file
from shared import PromptSampler
from transformers import AutoTokenizer, T5EncoderModel

from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig


class Sampler(Protocol):
    """Whatever makes clips of captions."""

    name: str

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """Clips, float32 [len(captions), 17, 64, 64, 3] in 0..1; equal seeds give equal clips."""
        ...


@torch.no_grad()
def draw(
    parts: tuple[Any, Any, SpacetimeDiT], captions: list[str], steps: int, guidance_scale: float, seed: int
) -> torch.Tensor:
    """Latents [n, 16, 5, 8, 8] of captions by Euler steps with classifier-free guidance, the DiT's two halves in one.

    Args:
        parts: tokenizer, text encoder and DiT.
    """
    tokenizer, text_encoder, dit = parts
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    encoded = tokenizer(
        [""] * len(captions) + captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    text = text_encoder(encoded.input_ids, attention_mask=encoded.attention_mask)[0]
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(captions), LATENT_CHANNELS, *LATENT_SIZE, generator=generator)
    for timestep in scheduler.timesteps:
        both = torch.cat([latents, latents])
        velocity = dit(both, timestep.expand(len(both)), text, encoded.attention_mask)[0]
        unguided, guided = velocity.chunk(2)
        velocity = unguided + guidance_scale * (guided - unguided)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return latents


@torch.no_grad()
def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> np.ndarray:
    """Clips of latents, float32 [n, 17, 64, 64, 3] in 0..1."""
    mean, std = (
        torch.tensor(values)[None, :, None, None, None] for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    clips = [vae.decode(one[None] * std + mean).sample[0] for one in latents]
    return torch.stack(clips).permute(0, 2, 3, 4, 1).add(1).div(2).clamp(0, 1).numpy()


class TorchSampler:
    """The PyTorch networks of the folder in float32; noise is drawn on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.name = "PyTorch"
        dit = SpacetimeDiT(SpacetimeDiTConfig.from_dict(json.loads((folder / "transformer/config.json").read_text())))
        weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        dit.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
        self.parts = AutoTokenizer.from_pretrained(folder / "tokenizer"), text_encoder.eval(), dit.eval()
        self.vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        return decode(self.vae, draw(self.parts, captions, steps, guidance_scale, seed))


class BundleSampler(PromptSampler):
    """The project's own runtime on a bundle made of the same model."""

    def __init__(self, bundle: Path, engine: str) -> None:
        super().__init__(bundle, engine)
        self.name = engine

    def sample(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> np.ndarray:
        """See `Sampler.sample`."""
        return np.asarray(self.draw(captions, steps, guidance_scale, seed).frames)


class ComputedSampler(BundleSampler):
    """The runtime on what an engine of another machine computes: its graphs on this CPU, rounded as they say."""

    def __init__(self, bundle: Path, backend: str, precision: str, prompts: tuple[str, ...]) -> None:
        from dit_deploy import Bundle, Pipeline
        from dit_deploy.exporters.builders import CalibrationOptions
        from dit_deploy.exporters.builders.planning import make_plan
        from dit_deploy.exporters.builders.quality import runners_here

        opened = Bundle.open(bundle)
        calibration = CalibrationOptions(prompts=prompts)
        plan = make_plan(opened, backend=backend, precision=precision, calibration=calibration)
        self.name = f"{plan.name}, computed on a CPU"
        self.files = ExitStack()  # the graphs last as long as the sampler
        runners = self.files.enter_context(runners_here(opened, plan))
        self.pipeline = Pipeline(opened, engine="onnx", runners=runners)
