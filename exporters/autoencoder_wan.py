"""The causal video autoencoders of Wan 2.1 (Wan Team 2025, arXiv 2503.20314) and of Wan 2.2's 5-billion model.

diffusers sends a video through them in chunks, one frame and then four at a time, and keeps the last two frames of what
each convolution saw for the next chunk. Here a video goes through at once. That is the same network, because every
convolution is causal, with zeros in front of the first frame, and the rest of a layer works frame by frame. Two layers
ask which chunk they are in: those that halve or double the number of frames leave the first frame alone, and the one
that doubles it does not let the others see it. Both are written out below for the whole video.

Latents are brought to mean 0 and deviation 1 channel by channel; that is inside the graphs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl_wan as theirs
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Axis, TensorSpec, Tiling
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.source import Graph

__all__ = [
    "FRAMES",
    "Decoder",
    "Encoder",
    "at_once",
    "graphs",
    "images_tensor",
    "latents_tensor",
    "load",
    "read",
    "tiling",
]

#: Frames that a latent frame after the first stands for; diffusers reads frames by so many, whatever the config says.
FRAMES = 4
#: Latent frames and pixels at which the halves are proved.
_PROVED = {"batch": 1, "latent_frames": 2, "latent_height": 4, "latent_width": 6}


def read(folder: Path, channels: int) -> dict[str, Any]:
    """Return the config of an ``AutoencoderKLWan`` with the class's defaults filled in; the weights are not read.

    Args:
        channels: of the denoiser's latents, which must be the autoencoder's.

    Raises:
        SourceError: the folder holds another class, one that does not belong to the denoiser, or one that diffusers
            itself does not decode to what it encoded.
    """
    config = read_config(AutoencoderKLWan, folder)
    parts.check_channels(folder, config["z_dim"], channels)
    parts.check_statistics(folder, config, channels)
    frames = 2 ** sum(map(bool, config["temperal_downsample"]))
    pixels = 2 ** (len(config["dim_mult"]) - 1) * (config["patch_size"] or 1)
    for name, made in (("scale_factor_temporal", frames), ("scale_factor_spatial", pixels)):
        if config[name] != made:
            raise SourceError(f"{folder}: {name} is {config[name]}, its layers make {made}")
    if frames != FRAMES:
        raise SourceError(f"{folder} compresses time by {frames}; diffusers reads {FRAMES} frames at a time")
    return config


def load(folder: Path) -> AutoencoderKLWan:
    """Return the autoencoder in ``folder`` as diffusers has it, in float32."""
    return load_diffusers(AutoencoderKLWan, folder)


def graphs(folder: Path, config: Mapping[str, Any]) -> list[Graph]:
    """Return the two halves of the autoencoder in ``folder`` to export; ``config`` is what :func:`read` gives."""
    images, latents = images_tensor(config), latents_tensor("latents", config["z_dim"])
    # Without the deviation: the pipelines of Wan take the posterior's mode.
    encoder = parts.encoder_component(images, latents, deviation=False)
    return parts.halves(
        (encoder, parts.decoder_component(latents, images)),
        (Encoder, Decoder),
        (_EncoderReference, _DecoderReference),
        lambda: load(folder),
        _PROVED,
    )


def tiling(config: Mapping[str, Any]) -> Tiling | None:
    """Return the pieces that diffusers cuts by default: 256 pixels on a side, 192 from one to the next.

    ``None`` for an autoencoder with patches: there diffusers blends patches before it lays out their pixels, and cuts
    other pieces to encode than to decode.
    """
    if (config["patch_size"] or 1) > 1:
        return None
    side = config["scale_factor_spatial"]
    tile, stride = 256 // side, 192 // side
    return Tiling(tile_height=tile, tile_width=tile, stride_height=stride, stride_width=stride)


def latents_tensor(name: str, channels: int, description: str = "") -> TensorSpec:
    """Declare latents, float32 [batch, channels, latent_frames, latent_height, latent_width]."""
    return parts.latents_tensor(name, channels, description, frames=Axis(name="latent_frames"))


def images_tensor(config: Mapping[str, Any]) -> TensorSpec:
    """Declare a video, float32 [batch, 3, 4 · latent_frames − 3, height, width]."""
    channels = config["in_channels"] // (config["patch_size"] or 1) ** 2
    return parts.images_tensor(channels, config["scale_factor_spatial"], frames=parts.video_frames(FRAMES))


class Encoder(nn.Module):
    """Videos [batch, 3, frames, height, width] in 0 … 1 → ``mean`` of the latents' posterior."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.patch = vae.config.patch_size or 1
        self.statistics = parts.Statistics(vae.config, 3)
        self.encoder, self.quant_conv = at_once(vae.encoder), vae.quant_conv

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.encode(images * 2 - 1),)

    def encode(self, video: Tensor) -> Tensor:
        """Return the mean of the posterior of a video in −1 … 1."""
        mean, _ = self.quant_conv(self.encoder(theirs.patchify(video, self.patch))).chunk(2, dim=1)
        return self.statistics.normalised(mean)


class Decoder(nn.Module):
    """Latents [batch, channels, frames, height, width] → videos in 0 … 1 and beyond: a runtime blends, then clips."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.patch = vae.config.patch_size or 1
        self.statistics = parts.Statistics(vae.config, 3)
        self.decoder, self.post_quant_conv = at_once(vae.decoder), vae.post_quant_conv

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        z = self.post_quant_conv(self.statistics.back(latents))
        return (theirs.unpatchify(self.decoder(z, first_chunk=True), self.patch) / 2 + 0.5,)


def at_once(module: nn.Module) -> nn.Module:
    """Return ``module`` with the layers that look at chunks replaced by what they do to a whole video.

    ``module`` itself is changed, its weights are shared.
    """
    if isinstance(module, theirs.WanResample):
        module.resample = at_once(module.resample)
        kinds = {"upsample3d": _TwiceAsManyFrames, "downsample3d": _HalfAsManyFrames}
        return kinds.get(module.mode, _FrameByFrame)(module)
    if isinstance(module, theirs.AvgDown3D):
        return _Averages(module)
    if isinstance(module, nn.Upsample):
        # By whole factors "nearest-exact" is "nearest", which ONNX has.
        return nn.Upsample(scale_factor=module.scale_factor, mode="nearest")
    for name, child in module.named_children():
        setattr(module, name, at_once(child))
    return module


class _FrameByFrame(nn.Module):
    """A layer of pictures, for each frame of [batch, channels, frames, height, width]."""

    def __init__(self, layer: theirs.WanResample) -> None:
        super().__init__()
        self.resample = layer.resample

    def forward(self, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
        batch, frames = x.shape[0], x.shape[2]
        x = self.resample(x.transpose(1, 2).flatten(0, 1))
        return x.reshape(batch, frames, *x.shape[1:]).transpose(1, 2)


class _TwiceAsManyFrames(_FrameByFrame):
    """Frames 0, 1, 2, … → 0, and two for each of the others; those are made without frame 0, as if it were zeros."""

    def __init__(self, layer: theirs.WanResample) -> None:
        super().__init__(layer)
        self.time_conv = layer.time_conv

    def forward(self, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
        # The convolution pads two frames itself.
        others = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 1, 0)))  # [batch, 2 · channels, frames, …]
        pairs = others.reshape(x.shape[0], 2, *x.shape[1:]).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        return super().forward(torch.cat([x[:, :, :1], pairs[:, :, 2:]], dim=2))


class _HalfAsManyFrames(_FrameByFrame):
    """Frames 0, 1, 2, … → 0, and one for each two of the others, made of these and the one before."""

    def __init__(self, layer: theirs.WanResample) -> None:
        super().__init__(layer)
        self.time_conv = layer.time_conv

    def forward(self, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
        x = super().forward(x)
        halved = self.time_conv(F.pad(x, (0, 0, 0, 0, 2, 0)))
        return torch.cat([x[:, :, :1], halved[:, :, 1:]], dim=2)


class _Averages(nn.Module):
    """Means over channels and neighbours in space and time; frame 0 is paired with zeros, as it is the only one."""

    def __init__(self, layer: theirs.AvgDown3D) -> None:
        super().__init__()
        self.frames, self.side, self.out_channels = layer.factor_t, layer.factor_s, layer.out_channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, 0, self.frames - 1, 0))
        batch, channels, frames, height, width = x.shape
        neighbours = (self.frames, self.side, self.side)
        frames, height, width = (size // count for size, count in zip((frames, height, width), neighbours, strict=True))
        x = x.reshape(batch, channels, frames, self.frames, height, self.side, width, self.side)
        x = x.permute(0, 1, 3, 5, 7, 2, 4, 6)  # [batch, channels, neighbours, frames, height, width]
        groups = channels * math.prod(neighbours) // self.out_channels
        return x.reshape(batch, self.out_channels, groups, frames, height, width).mean(dim=2)


class _EncoderReference(nn.Module):
    """diffusers' autoencoder, called as its pipelines call it."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae, self.statistics = vae, parts.Statistics(vae.config, 3)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        mode = self.vae.encode(images * 2 - 1).latent_dist.mode()
        return (self.statistics.normalised(mode),)


class _DecoderReference(nn.Module):
    """diffusers' loop over latent frames, but for the clamp at its end, which the runtime does."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae, self.statistics = vae, parts.Statistics(vae.config, 3)

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        self.vae.clear_cache()
        z = self.vae.post_quant_conv(self.statistics.back(latents))
        chunks = [
            self.vae.decoder(z[:, :, [frame]], feat_cache=self.vae._feat_map, feat_idx=[0], first_chunk=frame == 0)
            for frame in range(z.shape[2])
        ]
        self.vae.clear_cache()
        video = theirs.unpatchify(torch.cat(chunks, dim=2), self.vae.config.patch_size or 1)
        return (video / 2 + 0.5,)
