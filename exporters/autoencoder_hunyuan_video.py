"""The causal video autoencoder of HunyuanVideo (Kong et al. 2024, arXiv 2412.03603), each half in one graph.

It compresses 8 × 8 pixels and 4 frames, but for the first frame, which is encoded alone: 1, 5, 9, … frames are 1, 2, 3,
… latent ones. Convolutions see no later frame; what lies outside is the nearest pixel of the nearest frame. Pixels of
the middle attend to all of their own frame and of those before it.

diffusers cuts latents of more than four frames in time, whether it is asked to or not, and in space where
``enable_tiling`` was called. The graphs know nothing of it: :func:`tiling` tells the runtimes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders import autoencoder_kl_hunyuan_video as theirs
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Axis, Component, TensorSpec, Tiling, shape_of
from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.masks import MASKED
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.source import Graph

__all__ = ["TEMPORAL", "Decoder", "Encoder", "PictureEncoder", "graphs", "picture_graph", "tiling"]

#: Frames that a latent frame stands for, but the first: the only number that diffusers' decoder knows.
TEMPORAL = 4
#: Pixels and frames of a piece, and from the beginning of one to the next, as diffusers' class has them from the start.
_PIECE, _STRIDE = {"space": 256, "time": 16}, {"space": 192, "time": 12}


def graphs(folder: Path, channels: int, frames: int, sample_size: int) -> tuple[list[Graph], int, float]:
    """Return the two halves to export, how many pixels a latent one stands for along a side, and ``scaling_factor``.

    Args:
        folder: of an ``AutoencoderKLHunyuanVideo``.
        channels: of the denoiser's latents, which must be the autoencoder's.
        frames, sample_size: frames, and height and width, of the latents at which the halves are proved.

    Raises:
        SourceError: the folder holds another class, or one that does not belong to the denoiser.
    """
    config = read_config(AutoencoderKLHunyuanVideo, folder)
    parts.check_channels(folder, config["latent_channels"], channels)
    compression, scale = int(config["spatial_compression_ratio"]), float(config["scaling_factor"])
    images, latents = _images(config["in_channels"], compression), _latents("latents", channels)
    halves = parts.halves(
        (
            parts.encoder_component(images, latents),
            parts.decoder_component(latents, _images(config["out_channels"], compression)),
        ),
        (Encoder, Decoder),
        (_EncoderReference, _DecoderReference),
        lambda: _load(folder),
        {"batch": 2, "latent_frames": frames, "latent_height": sample_size, "latent_width": sample_size},
    )
    return halves, compression, scale


def picture_graph(folder: Path, component: str, output: str, sample_size: int) -> Graph:
    """Return the graph that makes latents of a video's first picture, and zeros for the frames after it.

    Args:
        component: its name in the bundle.
        output: the name of the latents, float32 [batch, channels, latent_frames, latent_height, latent_width].
        sample_size: height and width of the latents at which it is proved.
    """
    config = read_config(AutoencoderKLHunyuanVideo, folder)
    channels = config["latent_channels"]
    images = parts.bounded(_images(config["in_channels"], config["spatial_compression_ratio"]))
    latents = _latents(output, channels)
    given = TensorSpec(name="given", dtype="int64", axes=(images.axes[0], images.axes[2]), minimum=0, maximum=1)
    noise = (images.axes[0], channels, 1, *latents.axes[3:])

    def feeds(sizes: Mapping[str, int], _: int) -> dict[str, Any]:
        return {"given": np.ones(shape_of(given, sizes))}

    return Graph(
        component,
        Component(
            path=f"{component}/model.onnx",
            inputs=(images, given, TensorSpec(name="noise", dtype="float32", axes=noise)),
            outputs=(latents,),
        ),
        lambda: PictureEncoder(_load(folder)),
        {"batch": 2, "latent_frames": 2, "latent_height": sample_size, "latent_width": sample_size},
        reference=lambda: _PictureReference(_load(folder)),
        feeds=feeds,
    )


def tiling(compression: int) -> Tiling:
    """Return the pieces of diffusers' class for a spatial ``compression``, in latents."""
    tile, stride = _PIECE["space"] // compression, _STRIDE["space"] // compression
    return Tiling(
        tile_height=tile,
        tile_width=tile,
        stride_height=stride,
        stride_width=stride,
        tile_frames=_PIECE["time"] // TEMPORAL,
        stride_frames=_STRIDE["time"] // TEMPORAL,
        always_in_time=True,
    )


def _load(folder: Path) -> AutoencoderKLHunyuanVideo:
    return load_diffusers(AutoencoderKLHunyuanVideo, folder)


def _latents(name: str, channels: int) -> TensorSpec:
    return parts.latents_tensor(name, channels, frames=Axis(name="latent_frames"))


def _images(channels: int, compression: int) -> TensorSpec:
    return parts.images_tensor(channels, compression, frames=parts.video_frames(TEMPORAL))


class Encoder(nn.Module):
    """Frames [batch, 3, frames, height, width] in 0 … 1 → ``mean`` and ``std`` of the latents' posterior."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        self.scale = float(vae.config.scaling_factor)
        self.encoder, self.quant_conv = for_any_size(vae.encoder), vae.quant_conv

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = parts.moments(self.quant_conv(self.encoder(images * 2 - 1)))
        return mean * self.scale, std * self.scale


class Decoder(nn.Module):
    """Latents [batch, channels, frames, height, width] → pictures in 0 … 1 and beyond: a runtime blends, then clips."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        self.scale = float(vae.config.scaling_factor)
        self.decoder, self.post_quant_conv = for_any_size(vae.decoder), vae.post_quant_conv

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (self.decoder(self.post_quant_conv(latents / self.scale)) / 2 + 0.5,)


class PictureEncoder(nn.Module):
    """A video's frames, of which the first counts, and noise → its latents, drawn; zeros for the frames after it."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        self.encoder = Encoder(vae)

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor]:
        """Return latents [batch, channels, latent_frames, height, width], 0 where no picture is given.

        Args:
            images: [batch, 3, frames, height, width] in 0 … 1.
            given: int64 [batch, frames], 1 where a picture is.
            noise: [batch, channels, 1, height, width].
        """
        mean, std = self.encoder(images[:, :, :1])
        latents = (mean + std * noise) * given[:, :1, None, None, None].to(images.dtype)
        later = (images.shape[2] + TEMPORAL - 1) // TEMPORAL - 1
        return (F.pad(latents, (0, 0, 0, 0, 0, later)),)


def for_any_size(module: nn.Module) -> nn.Module:
    """Return ``module`` with every layer replaced that computes a size in Python; it is changed, weights are shared."""
    if isinstance(module, theirs.HunyuanVideoUpsampleCausal3D):
        return _Upsample(module)
    if isinstance(module, theirs.HunyuanVideoMidBlock3D):
        return _MidBlock(module)
    for name, child in module.named_children():
        setattr(module, name, for_any_size(child))
    return module


class _Upsample(nn.Module):
    """Twice the height and width, and frames 1 + 2·(frames − 1) where it is one of time: the first is not doubled."""

    def __init__(self, layer: theirs.HunyuanVideoUpsampleCausal3D) -> None:
        super().__init__()
        self.frames, *sides = layer.upsample_factor
        self.sides = tuple(float(side) for side in sides)
        self.conv = layer.conv

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frames, height, width = x.shape
        if self.frames == 2:
            x = x[:, :, :, None].expand(-1, -1, -1, 2, -1, -1).reshape(batch, channels, 2 * frames, height, width)
            x = x[:, :, 1:]
        if self.sides != (1.0, 1.0):
            flat = F.interpolate(x.flatten(0, 1), scale_factor=self.sides, mode="nearest")
            x = flat.reshape(batch, channels, *flat.shape[1:])
        return self.conv(x)


class _MidBlock(nn.Module):
    """Residual blocks with causal attention between them."""

    def __init__(self, block: theirs.HunyuanVideoMidBlock3D) -> None:
        super().__init__()
        self.resnets = block.resnets
        self.attentions = nn.ModuleList(
            nn.Identity() if attention is None else _Attention(attention) for attention in block.attentions
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention, resnet in zip(self.attentions, self.resnets[1:], strict=True):
            x = resnet(attention(x))
        return x


class _Attention(nn.Module):
    """Attention of one head over the pixels of [batch, channels, frames, height, width], to no later frame.

    The head is as wide as there are channels, 512 in the released model, for which backends have no fused kernel: it is
    written out.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        assert attention.heads == 1 and attention.residual_connection and attention.rescale_output_factor == 1
        self.group_norm, self.to_out = attention.group_norm, attention.to_out[0]
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.scale = float(attention.scale)

    def forward(self, x: Tensor) -> Tensor:
        _, _, frames, height, width = x.shape
        pixels = self.group_norm(x.flatten(2)).transpose(1, 2)  # [batch, frames · height · width, channels]
        frame = torch.arange(frames)[:, None].expand(frames, height * width).reshape(-1)
        later = frame[None, :] > frame[:, None]  # [queries, keys]
        scores = (self.to_q(pixels) * self.scale) @ self.to_k(pixels).transpose(1, 2) + later.to(x.dtype) * MASKED
        attended = scores.softmax(dim=-1) @ self.to_v(pixels)
        return x + self.to_out(attended).transpose(1, 2).reshape(x.shape)


class _EncoderReference(nn.Module):
    """diffusers' autoencoder, which is not told to cut what it gets; :mod:`dit_deploy.runtimes` does that."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        vae.use_framewise_encoding = False
        self.vae = vae

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior, scale = self.vae.encode(images * 2 - 1).latent_dist, self.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale


class _DecoderReference(nn.Module):
    """diffusers' autoencoder, called as ``HunyuanVideoPipeline`` calls it, but in one piece; see the encoder's."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        vae.use_framewise_decoding = False
        self.vae = vae

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0] / 2 + 0.5,)


class _PictureReference(nn.Module):
    """diffusers' autoencoder, called as ``HunyuanSkyreelsImageToVideoPipeline`` calls it."""

    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor]:
        posterior = self.vae.encode(images[:, :, :1] * 2 - 1).latent_dist
        latents = (posterior.mean + posterior.std * noise) * self.vae.config.scaling_factor
        frames = (images.shape[2] - 1) // self.vae.temporal_compression_ratio
        return (torch.cat([latents, latents.new_zeros(*latents.shape[:2], frames, *latents.shape[3:])], dim=2),)
