"""How given pictures become conditions of Wan: latents and a mask, beside the denoiser's latents or in their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Axis, Component, TensorSpec
from dit_deploy.exporters import autoencoder_wan
from dit_deploy.exporters.autoencoder_parts import bounded
from dit_deploy.exporters.autoencoder_wan import FRAMES
from dit_deploy.exporters.source import Feeds, Graph

__all__ = [
    "LATENTS",
    "MASK",
    "NAME",
    "STATES",
    "Beside",
    "FirstFrame",
    "beside_graph",
    "first_frame_graph",
    "mask_feeds",
]

#: The component that reads pictures, what it gives, and what CLIP gives: inputs of the denoiser.
NAME, LATENTS, MASK, STATES = "image_conditions", "image_latents", "image_mask", "encoder_hidden_states_image"
_PROVED = {"batch": 2, "latent_frames": 4, "latent_height": 4, "latent_width": 6}


def beside_graph(vae: Path, config: Mapping[str, Any]) -> Graph:
    """Return the graph for a denoiser that gets mask and latents beside its own; ``config`` is the autoencoder's."""
    return Graph(
        NAME,
        _component(config, autoencoder_wan.latents_tensor(LATENTS, FRAMES + config["z_dim"])),
        lambda: Beside(autoencoder_wan.load(vae)),
        _PROVED,
        reference=lambda: _Reference(autoencoder_wan.load(vae), masked=False),
        feeds=_given,
    )


def first_frame_graph(vae: Path, config: Mapping[str, Any]) -> Graph:
    """Return the graph for a denoiser whose first latent frame a picture's replaces."""
    return Graph(
        NAME,
        _component(
            config, autoencoder_wan.latents_tensor(LATENTS, config["z_dim"]), autoencoder_wan.latents_tensor(MASK, 1)
        ),
        lambda: FirstFrame(autoencoder_wan.load(vae)),
        _PROVED,
        reference=lambda: _Reference(autoencoder_wan.load(vae), masked=True),
        feeds=lambda sizes, seed: {"given": _first(sizes)},
    )


def _component(config: Mapping[str, Any], *outputs: TensorSpec) -> Component:
    images = bounded(autoencoder_wan.images_tensor(config))
    frames = images.axes[2]
    given = TensorSpec(
        name="given",
        dtype="int64",
        axes=(Axis(name="batch"), frames),
        minimum=0,
        maximum=1,
        description="1 where the frame is a picture that is given",
    )
    return Component(path=f"{NAME}/model.onnx", inputs=(images, given), outputs=outputs)


class Beside(nn.Module):
    """``images``, ``given`` → ``image_latents`` [batch, 4 + channels, frames, height, width].

    The latents are those of a video that is grey where no picture is given. In front of them stand four channels that
    say which of the four frames of a latent one are given; the first frame, which has a latent one for itself, counts
    four times.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.encoder = autoencoder_wan.Encoder(vae)

    def forward(self, images: Tensor, given: Tensor) -> tuple[Tensor]:
        known = given.to(images.dtype)  # [batch, frames]
        latents = self.encoder.encode((images * 2 - 1) * known[:, None, :, None, None])
        known = torch.cat([known[:, :1].expand(-1, FRAMES - 1), known], dim=1)
        mask = known.reshape(known.shape[0], latents.shape[2], FRAMES).transpose(1, 2)[..., None, None]
        return (torch.cat([mask.expand(-1, -1, -1, *latents.shape[3:]), latents], dim=1),)


class FirstFrame(nn.Module):
    """``images``, ``given`` → ``image_latents`` [batch, channels, frames, height, width], and where they count.

    A picture as a first frame has the first latent frame for itself; the other frames are not looked at.
    """

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.encoder = autoencoder_wan.Encoder(vae)

    def forward(self, images: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        known = given[:, :1].to(images.dtype)[:, None, :, None, None]  # [batch, 1, 1, 1, 1]
        latents = self.encoder.encode(images[:, :, :1] * 2 - 1)
        others = (0, 0, 0, 0, 0, (given.shape[1] - 1) // FRAMES)
        mask = known.expand(-1, -1, -1, *latents.shape[3:])
        return F.pad(latents * known, others), F.pad(mask, others)


class _Reference(nn.Module):
    """What ``WanImageToVideoPipeline`` prepares, sample by sample: it takes one first and one last picture for all."""

    def __init__(self, vae: AutoencoderKLWan, *, masked: bool) -> None:
        super().__init__()
        self.vae, self.masked = vae, masked
        absent = dict.fromkeys(("tokenizer", "text_encoder", "scheduler"))
        self.pipeline = WanImageToVideoPipeline(vae=vae, expand_timesteps=masked, **absent)

    def forward(self, images: Tensor, given: Tensor) -> tuple[Tensor, ...]:
        made = [self._prepare(video * 2 - 1, known) for video, known in zip(images, given, strict=True)]
        return tuple(torch.cat(tensors) for tensors in zip(*made, strict=True))

    def _prepare(self, video: Tensor, given: Tensor) -> tuple[Tensor, ...]:
        last = video[None, :, -1] if not self.masked and len(given) > 1 and given[-1] else None
        _, *conditions = self.pipeline.prepare_latents(
            video[None, :, 0],
            batch_size=1,
            num_channels_latents=self.vae.config.z_dim,
            height=video.shape[2],
            width=video.shape[3],
            num_frames=video.shape[1],
            dtype=video.dtype,
            device=video.device,
            last_image=last,
        )
        if not self.masked:
            return tuple(conditions)
        latents, first_frame_mask = conditions
        mask = (1 - first_frame_mask) * given[0]
        return latents * mask, mask


def _first(sizes: Mapping[str, int]) -> np.ndarray:
    """Return ``given`` of videos whose first frame is."""
    given = np.zeros((sizes["batch"], FRAMES * sizes["latent_frames"] - FRAMES + 1), np.int64)
    given[:, 0] = 1
    return given


def _given(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return ``given`` of videos whose first frame is, and the last one too in every other sample."""
    given = _first(sizes)
    given[seed % 2 :: 2, -1] = 1
    return {"given": given}


def mask_feeds(patch: tuple[int, int, int]) -> Feeds:
    """Return a maker of the denoiser's mask: in every other sample the first latent frame is a picture's."""

    def feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
        grid = [sizes[f"patch_{side}"] * size for side, size in zip(("frames", "height", "width"), patch, strict=True)]
        mask = np.zeros((sizes["batch"], 1, *grid), np.float32)
        mask[seed % 2 :: 2, :, 0] = 1
        return {MASK: mask}

    return feeds
