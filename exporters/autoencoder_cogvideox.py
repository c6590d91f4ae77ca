"""The causal video autoencoder of CogVideoX (Yang et al. 2024, arXiv 2408.06072), each half as one graph.

diffusers sends a video through it in chunks: two latent frames at a time, eight pictures, and what is left over goes
with the first chunk. Convolutions remember two frames of the chunk before, so that chunks do not show in them: with
the first frame three times in front, a convolution over the whole video is the same. They do show in

- group norms, whose mean and deviation are those of a chunk;
- layers that halve or double the number of frames, which leave the first frame of a chunk alone if its number is odd.

Here a number of latent frames is odd: 1, or 3 + 2 + 2 + …. Then only the first chunk is odd, and with it the video. So
a frame's chunk follows from its index, and every video has 8 k + 1 pictures. With an even number of latent frames
diffusers decodes four pictures of each, the first one too, which the model was not trained for.

One graph holds a whole video where diffusers' loop holds a chunk: large ones go through it in pieces, see
:func:`tiling`.

CogVideoX 1.5 patches two latent frames into one. An odd number then has one frame too many, in front, which is
dropped before decoding; an encoder puts its first frame there twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders import autoencoder_kl_cogvideox as theirs
from diffusers.models.downsampling import CogVideoXDownsample3D
from diffusers.models.upsampling import CogVideoXUpsample3D
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Axis, Component, TensorSpec, Tiling
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.source import Graph

__all__ = ["Decoder", "Encoder", "FirstFrame", "compression", "graphs", "image_graph", "read", "tiling"]

#: Pictures that a latent frame after the first stands for, and latent frames of a chunk after the first.
FRAMES, CHUNK = 4, 2
#: Latent frames (twice 2, less one) and pixels at which the halves are proved.
_PROVED = {"batch": 1, "latent_frames": 2, "latent_height": 4, "latent_width": 6}
_BATCH = Axis(name="batch")


def read(folder: Path, channels: int) -> dict[str, Any]:
    """Return the config of an ``AutoencoderKLCogVideoX`` with the class's defaults filled in; no weight is read.

    Args:
        channels: of the denoiser's latents, which must be the autoencoder's.

    Raises:
        SourceError: the folder holds another class, one that does not belong to the denoiser, or one with layers that
            no CogVideoX has.
    """
    config = read_config(AutoencoderKLCogVideoX, folder)
    parts.check_channels(folder, config["latent_channels"], channels)
    if config["temporal_compression_ratio"] != FRAMES or len(config["block_out_channels"]) < 3:
        raise SourceError(
            f"{folder} has temporal_compression_ratio {config['temporal_compression_ratio']} and "
            f"{len(config['block_out_channels'])} levels; expected {FRAMES}, which diffusers' chunks are made for, and "
            "at least 3"
        )
    for name in ("use_quant_conv", "use_post_quant_conv", "shift_factor"):
        if config[name]:
            raise SourceError(f"{folder} has {name}={config[name]}, which no CogVideoX has")
    return config


def compression(config: Mapping[str, Any]) -> int:
    """Return how many pixels a latent pixel stands for along a side."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def tiling(config: Mapping[str, Any]) -> Tiling:
    """Return the pieces that diffusers cuts: half of the usual picture, overlapping by a sixth and by a fifth."""
    height, width = (config[f"sample_{side}"] // 2 // compression(config) for side in ("height", "width"))
    return Tiling(
        tile_height=height,
        tile_width=width,
        stride_height=max(1, int(height * (1 - 1 / 6))),
        stride_width=max(1, int(width * (1 - 1 / 5))),
    )


def graphs(folder: Path, config: Mapping[str, Any], padding: int) -> list[Graph]:
    """Return the two halves of the autoencoder in ``folder`` to export.

    Args:
        config: what :func:`read` gives.
        padding: latent frames in front that are no part of the video, 0 or 1.
    """
    images, latents = _images(config), _latents(config, padding, "latents")
    return parts.halves(
        (parts.encoder_component(images, latents), parts.decoder_component(latents, images)),
        (partial(Encoder, padding=padding), partial(Decoder, padding=padding)),
        (partial(_EncoderReference, padding=padding), partial(_DecoderReference, padding=padding)),
        lambda: _load(folder),
        _PROVED,
    )


def image_graph(folder: Path, config: Mapping[str, Any], padding: int, name: str, output: str) -> Graph:
    """Return the graph ``name`` that makes the condition ``output`` of a video's first picture; see :func:`graphs`."""
    frames = _images(config).axes[2]
    picture = (_BATCH, config["latent_channels"], 1, Axis(name="latent_height"), Axis(name="latent_width"))
    component = Component(
        path=f"{name}/model.onnx",
        inputs=(
            parts.bounded(_images(config)),
            TensorSpec(
                name="given",
                dtype="int64",
                axes=(_BATCH, frames),
                minimum=0,
                maximum=1,
                description="1 where a picture is; the first one alone is looked at",
            ),
            TensorSpec(name="noise", dtype="float32", axes=picture, description="to draw from the posterior with"),
        ),
        outputs=(_latents(config, padding, output, "those of the first picture, then zeros"),),
    )
    return Graph(
        name,
        component,
        lambda: FirstFrame(_load(folder), padding),
        _PROVED,
        lambda: _FirstFrameReference(_load(folder), padding),
        feeds=_given,
    )


def _given(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return that pictures are given or not, the last sample's first one surely."""
    frames = FRAMES * CHUNK * (sizes["latent_frames"] - 1) + 1
    given = np.random.default_rng(seed).integers(0, 1, (sizes["batch"], frames), endpoint=True)
    given[-1, 0] = 1
    return {"given": given}


def _load(folder: Path) -> AutoencoderKLCogVideoX:
    return load_diffusers(AutoencoderKLCogVideoX, folder)


def _latents(config: Mapping[str, Any], padding: int, name: str, description: str = "") -> TensorSpec:
    """Declare latents, float32 [batch, channels, 2 · latent_frames − 1 + padding, latent_height, latent_width]."""
    frames = Axis(name="latent_frames", multiple=CHUNK, offset=padding - 1)
    return parts.latents_tensor(name, config["latent_channels"], description, frames=frames)


def _images(config: Mapping[str, Any]) -> TensorSpec:
    """Declare a video, float32 [batch, 3, 8 · latent_frames − 7, height, width]."""
    return parts.images_tensor(config["in_channels"], compression(config), frames=parts.video_frames(FRAMES * CHUNK))


class Encoder(nn.Module):
    """Videos [batch, 3, frames, height, width] in 0 … 1 → ``mean`` and ``std`` of the latents' posterior."""

    def __init__(self, vae: AutoencoderKLCogVideoX, padding: int) -> None:
        super().__init__()
        self.encoder, self.scale, self.padding = _WholeEncoder(vae.encoder), vae.config.scaling_factor, padding

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        moments = (part * self.scale for part in posterior(self.encoder, images))
        return tuple(torch.cat([part[:, :, : self.padding], part], dim=2) for part in moments)


class FirstFrame(nn.Module):
    """Videos of which the first picture is ``given`` → latents of a sample of that, and zeros for the other frames.

    5B's image-to-video was trained with latents divided by the scaling factor, which ``invert_scale_latents`` says.
    """

    def __init__(self, vae: AutoencoderKLCogVideoX, padding: int) -> None:
        super().__init__()
        self.encoder, self.padding = _WholeEncoder(vae.encoder), padding
        factor = vae.config.scaling_factor
        self.scale = 1 / factor if vae.config.invert_scale_latents else factor

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor]:
        mean, std = posterior(self.encoder, images[:, :, :1])  # [batch, channels, 1, latent height, latent width]
        first = (mean + std * noise) * self.scale * given[:, :1, None, None, None].to(mean.dtype)
        frames = (images.shape[2] - 1) // FRAMES + 1 + self.padding
        return (F.pad(first, (0, 0, 0, 0, 0, frames - 1)),)


class Decoder(nn.Module):
    """Latents [batch, channels, frames, height, width] → videos in 0 … 1 and beyond: a runtime blends, then clips."""

    def __init__(self, vae: AutoencoderKLCogVideoX, padding: int) -> None:
        super().__init__()
        self.decoder, self.scale, self.padding = _WholeDecoder(vae.decoder), vae.config.scaling_factor, padding

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return (self.decoder(1 / self.scale * latents[:, :, self.padding :]) / 2 + 0.5,)


def posterior(encoder: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation that an encoder gives pictures in 0 … 1."""
    return parts.moments(encoder(images * 2 - 1))


class _WholeEncoder(nn.Module):
    """diffusers' encoder for whole videos [batch, 3, frames, height, width]; it shares the weights."""

    def __init__(self, encoder: theirs.CogVideoXEncoder3D) -> None:
        super().__init__()
        self.conv_in, self.conv_out = _CausalConv(encoder.conv_in), _CausalConv(encoder.conv_out)
        frames = FRAMES
        levels: list[nn.Module] = []
        for block in encoder.down_blocks:
            levels.append(_Level(block.resnets, frames))
            for layer in block.downsamplers or ():
                levels.append(_Halve(layer))
                frames //= 2 if layer.compress_time else 1
        assert frames == 1
        self.levels = nn.Sequential(*levels, _Level(encoder.mid_block.resnets, frames))
        self.norm_out, self.conv_act = _ChunkNorm(encoder.norm_out), encoder.conv_act

    def forward(self, x: Tensor) -> Tensor:
        x = self.levels(self.conv_in(x))
        return self.conv_out(self.conv_act(self.norm_out(x, same_chunk(x.shape[2], CHUNK))))


class _WholeDecoder(nn.Module):
    """diffusers' decoder for whole latents [batch, channels, frames, height, width]; it shares the weights."""

    def __init__(self, decoder: theirs.CogVideoXDecoder3D) -> None:
        super().__init__()
        self.conv_in, self.conv_out = _CausalConv(decoder.conv_in), _CausalConv(decoder.conv_out)
        frames, side = 1, 1
        self.levels = nn.ModuleList([_Level(decoder.mid_block.resnets, frames, side)])
        for block in decoder.up_blocks:
            self.levels.append(_Level(block.resnets, frames, side))
            for layer in block.upsamplers or ():
                self.levels.append(_Double(layer))
                frames, side = frames * (2 if layer.compress_time else 1), 2 * side
        assert frames == FRAMES
        self.norm_out, self.conv_act = _SpatialNorm(decoder.norm_out, frames, side), decoder.conv_act

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for level in self.levels:
            x = level(x, z)
        return self.conv_out(self.conv_act(self.norm_out(x, same_chunk(x.shape[2], CHUNK * FRAMES), z)))


class _Level(nn.Module):
    """Residual blocks of one size, [batch, channels, frames, height, width]; a decoder's see the latents ``z`` too.

    ``frames`` and ``side`` are the frames and pixels along a side that a latent one has become here.
    """

    def __init__(self, resnets: Iterable[theirs.CogVideoXResnetBlock3D], frames: int, side: int = 1) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_Resnet(resnet, frames, side) for resnet in resnets)
        self.chunk = CHUNK * frames

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        share = same_chunk(x.shape[2], self.chunk)
        for resnet in self.resnets:
            x = resnet(x, share, z)
        return x


class _Resnet(nn.Module):
    def __init__(self, resnet: theirs.CogVideoXResnetBlock3D, frames: int, side: int) -> None:
        super().__init__()
        norms = (
            _SpatialNorm(norm, frames, side) if isinstance(norm, theirs.CogVideoXSpatialNorm3D) else _ChunkNorm(norm)
            for norm in (resnet.norm1, resnet.norm2)
        )
        self.norm1, self.norm2 = norms
        self.conv1, self.conv2 = _CausalConv(resnet.conv1), _CausalConv(resnet.conv2)
        self.nonlinearity = resnet.nonlinearity
        self.conv_shortcut = plain(resnet.conv_shortcut) if resnet.in_channels != resnet.out_channels else None

    def forward(self, x: Tensor, share: Tensor, z: Tensor | None) -> Tensor:
        made = self.conv1(self.nonlinearity(self.norm1(x, share, z)))
        made = self.conv2(self.nonlinearity(self.norm2(made, share, z)))
        return made + (x if self.conv_shortcut is None else self.conv_shortcut(x))


def plain(*convolutions: nn.Conv3d) -> nn.Conv3d:
    """Return a convolution that gives what these give, one after the other; large videos are not cut into pieces."""
    first = convolutions[0]
    assert first.stride == first.dilation == (1, 1, 1) and first.groups == 1 and first.bias is not None
    with torch.device("meta"):
        made = nn.Conv3d(
            first.in_channels,
            first.out_channels * len(convolutions),
            first.kernel_size,  # type: ignore[arg-type]
            padding=first.padding,  # type: ignore[arg-type]
        )
    for name in ("weight", "bias"):
        values = [getattr(convolution, name) for convolution in convolutions]
        joined = values[0] if len(values) == 1 else torch.cat(values)
        setattr(made, name, nn.Parameter(joined, requires_grad=False))
    return made


class _CausalConv(nn.Module):
    """A convolution that sees the first frame as often before it as its kernel is long."""

    def __init__(self, convolution: theirs.CogVideoXCausalConv3d) -> None:
        super().__init__()
        assert convolution.pad_mode != "replicate"
        self.conv, self.before = plain(convolution.conv), convolution.time_kernel_size - 1

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x.narrow(2, 0, 1)] * self.before + [x], dim=2))


def same_chunk(frames: int, chunk: int) -> Tensor:
    """Return [frames, frames], in each column the share that frames have in the mean of that frame's chunk.

    The first chunk has 1 + ``chunk`` frames, the others ``chunk``.
    """
    number = torch.div(torch.arange(-1, frames - 1).clamp(min=0), chunk, rounding_mode="floor")
    together = (number.unsqueeze(1) == number).float()
    return together / together.sum(dim=0)


class _ChunkNorm(nn.Module):
    """Group norm of [batch, channels, frames, height, width] over each chunk, see :func:`same_chunk`."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = norm.weight, norm.bias, norm.num_groups, norm.eps

    def forward(self, x: Tensor, share: Tensor, z: None = None) -> Tensor:
        batch, channels, frames, height, width = x.shape
        each = (batch, self.groups, 1, frames, 1)
        grouped = x.reshape(batch, self.groups, channels // self.groups, frames, height * width)
        centred = grouped - (grouped.mean(dim=(2, 4)) @ share).reshape(each)
        variance = centred.square().mean(dim=(2, 4)) @ share  # [batch, groups, frames]
        normed = (centred * torch.rsqrt(variance + self.eps).reshape(each)).reshape(x.shape)
        return normed * self.weight.reshape(-1, 1, 1, 1) + self.bias.reshape(-1, 1, 1, 1)


class _SpatialNorm(nn.Module):
    """Group norm whose weight and bias are made of the latents (Zheng et al. 2022, arXiv 2209.09002).

    A convolution over one pixel is made before pixels are repeated, which changes nothing but the work.
    """

    def __init__(self, norm: theirs.CogVideoXSpatialNorm3D, frames: int, side: int) -> None:
        super().__init__()
        self.norm_layer = _ChunkNorm(norm.norm_layer)
        self.conv, self.frames, self.side = plain(norm.conv_y.conv, norm.conv_b.conv), frames, side

    def forward(self, x: Tensor, share: Tensor, z: Tensor) -> Tensor:
        weight, bias = repeat(self.conv(z), self.frames, self.side).chunk(2, dim=1)
        return self.norm_layer(x, share) * weight + bias


class _Double(nn.Module):
    """Twice the height and width, and where time is compressed twice the frames, all but the first.

    The convolution works frame by frame, so it need not see a frame twice.
    """

    def __init__(self, layer: CogVideoXUpsample3D) -> None:
        super().__init__()
        self.conv, self.frames = layer.conv, 2 if layer.compress_time else 1

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return repeat(_frame_by_frame(self.conv, repeat(x, 1, 2)), self.frames, 1)


class _Halve(nn.Module):
    """Half the height and width, and where time is compressed half the frames: the first, then means of two."""

    def __init__(self, layer: CogVideoXDownsample3D) -> None:
        super().__init__()
        self.conv, self.compress_time = layer.conv, layer.compress_time

    def forward(self, x: Tensor) -> Tensor:
        if self.compress_time:
            batch, channels, frames, height, width = x.shape
            twice = torch.cat([x.narrow(2, 0, 1), x], dim=2)  # the mean of a frame with itself is that frame
            x = twice.reshape(batch, channels, (frames + 1) // 2, 2, height, width).mean(dim=3)
        return _frame_by_frame(self.conv, F.pad(x, (0, 1, 0, 1)))


def _frame_by_frame(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return what a convolution of two dimensions makes of the frames of [batch, channels, frames, height, width]."""
    batch, channels, frames, height, width = x.shape
    made = convolution(x.transpose(1, 2).reshape(batch * frames, channels, height, width))
    return made.reshape(batch, frames, *made.shape[1:]).transpose(1, 2)


def repeat(x: Tensor, frames: int, side: int) -> Tensor:
    """Repeat pixels ``side`` times down and across, and each frame but the first ``frames`` times."""
    if frames == side == 1:
        return x
    repeated = F.interpolate(x, scale_factor=(float(frames), float(side), float(side)))  # the nearest
    return repeated.narrow(2, frames - 1, frames * (x.shape[2] - 1) + 1) if frames > 1 else repeated


class _EncoderReference(nn.Module):
    """diffusers' autoencoder, called as ``CogVideoXVideoToVideoPipeline`` calls it."""

    def __init__(self, vae: AutoencoderKLCogVideoX, padding: int) -> None:
        super().__init__()
        self.vae, self.padding = vae, padding

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.vae.encode(images * 2 - 1).latent_dist
        scaled = (part * self.vae.config.scaling_factor for part in (found.mean, found.std))
        return tuple(torch.cat([part[:, :, : self.padding], part], dim=2) for part in scaled)


class _FirstFrameReference(nn.Module):
    """diffusers' autoencoder, called as ``CogVideoXImageToVideoPipeline`` calls it."""

    def __init__(self, vae: AutoencoderKLCogVideoX, padding: int) -> None:
        super().__init__()
        self.vae, self.padding = vae, padding

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor]:
        found = self.vae.encode(images[:, :, :1] * 2 - 1).latent_dist
        factor = self.vae.config.scaling_factor
        factor = 1 / factor if self.vae.config.invert_scale_latents else factor
        latents = (found.mean + found.std * noise) * factor * given[:, 0, None, None, None, None]
        batch, channels, _, height, width = latents.shape
        others = torch.zeros(batch, channels, (images.shape[2] - 1) // FRAMES + self.padding, height, width)
        return (torch.cat([latents, others], dim=2),)


class _DecoderReference(nn.Module):
    """diffusers' autoencoder, called as ``CogVideoXPipeline`` calls it, but for its clamp, which the runtime does."""

    def __init__(self, vae: AutoencoderKLCogVideoX, padding: int) -> None:
        super().__init__()
        self.vae, self.padding = vae, padding

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        z = 1 / self.vae.config.scaling_factor * latents[:, :, self.padding :]
        return (self.vae.decode(z).sample / 2 + 0.5,)
