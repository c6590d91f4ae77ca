"""The video autoencoder of LTX-Video (HaCohen et al. 2024, arXiv 2501.00103): a latent pixel for 32 × 32 × 8.

Each half is one graph of all frames. The first frame stands for itself: n latent frames are 8·n − 7 frames.

From 0.9.1 on the decoder denoises too: it is told a timestep, and is given latents that noise was mixed into. 0.9.1
also adds noise to the states of its layers, one picture of it for all samples, channels and frames. diffusers draws
that from torch's global generator, whatever generator a pipeline is given; here all noise is an input of the graph.

Latents are brought to mean 0 and deviation 1 channel by channel; that is inside the graphs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo
from diffusers.models.autoencoders import autoencoder_kl_ltx as theirs
from torch import Tensor, nn

from dit_deploy.bundle import Axis, Component, TensorSpec, Tiling
from dit_deploy.bundle.shapes import shape_of
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.modules import empty_diffusers, load_diffusers
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph

__all__ = ["Decoder", "Encoder", "FirstFrame", "Halves", "halves"]

#: Channels of a timestep's sinusoid.
_SINUSOID = 256


@dataclass(frozen=True)
class Halves:
    """What a folder's autoencoder gives to a bundle.

    Attributes:
        graphs: ``vae_encoder``, ``vae_decoder``, and ``image_conditions``, see :class:`FirstFrame`.
        spatial, temporal: pixels along an axis, and frames, that a latent pixel stands for.
        scale: latents = (z − mean) · scale / deviation.
        tiling: the pieces of ``enable_tiling`` and ``use_framewise_decoding``.
    """

    graphs: tuple[Graph, ...]
    spatial: int
    temporal: int
    scale: float
    tiling: Tiling


def halves(folder: Path, channels: int, typical: Mapping[str, int]) -> Halves:
    """Return the halves to export.

    Args:
        folder: of an ``AutoencoderKLLTXVideo``.
        channels: of the denoiser's latents, which must be the autoencoder's.
        typical: sizes at which the halves are proved: latent_frames, latent_height, latent_width.

    Raises:
        SourceError: the folder holds another class, one that does not belong to the denoiser, or one of a form that
            diffusers cannot run.
    """
    empty = empty_diffusers(AutoencoderKLLTXVideo, folder)
    config = empty.config
    parts.check_channels(folder, config["latent_channels"], channels)
    if config["patch_size_t"] != 1:
        raise SourceError(f"{folder} has patch_size_t {config['patch_size_t']}; expected 1, as a first frame is alone")
    conditioned = bool(config["timestep_conditioning"])
    if conditioned and any(block.conv_in is not None for block in empty.decoder.up_blocks):
        raise SourceError(
            f"{folder} has timestep_conditioning and decoder_block_out_channels that change before an upsampler, which "
            "diffusers cannot run"
        )
    spatial, temporal = empty.spatial_compression_ratio, empty.temporal_compression_ratio
    images = _images(config["in_channels"], spatial, temporal)
    planes = _number_planes(empty.decoder)
    encoder = parts.encoder_component(images, _latents("latents", channels))
    decoder = parts.decoder_component(
        _latents("latents", channels),
        _images(config["out_channels"], spatial, temporal),
        *_decoder_inputs(channels, conditioned, planes),
    )
    conditions = Component(
        path="image_conditions/model.onnx",
        inputs=(
            parts.bounded(images),
            TensorSpec(
                name="given",
                dtype="int64",
                axes=(Axis(name="batch"), images.axes[2]),
                minimum=0,
                maximum=1,
                description="1 where a picture is given; only the first frame's is read",
            ),
            TensorSpec(
                name="noise",
                dtype="float32",
                axes=(Axis(name="batch"), channels, 1, Axis(name="latent_height"), Axis(name="latent_width")),
                description="standard normal, to draw the first frame's latents from their posterior with",
            ),
        ),
        outputs=(
            _latents("image_latents", channels, "of the first frame's picture; zeros elsewhere"),
            TensorSpec(
                name="image_mask",
                dtype="float32",
                axes=(Axis(name="batch"), 1, Axis(name="latent_frames"), 1, 1),
                minimum=0,
                maximum=1,
                description="1 for latent frames that are given",
            ),
        ),
    )
    sizes, load = {"batch": 2, **typical}, partial(_load, folder)
    first_frame = Graph(
        "image_conditions",
        conditions,
        lambda: FirstFrame(load()),
        sizes,
        reference=lambda: _FirstFrameReference(load()),
        feeds=partial(_given, conditions.input("given")),
    )
    both = parts.halves((encoder, decoder), (Encoder, Decoder), (_EncoderReference, _DecoderReference), load, sizes)
    return Halves(
        graphs=(*both, first_frame),
        spatial=spatial,
        temporal=temporal,
        scale=float(config["scaling_factor"]),
        tiling=_tiling(empty),
    )


def _load(folder: Path) -> AutoencoderKLLTXVideo:
    return load_diffusers(AutoencoderKLLTXVideo, folder)


def _latents(name: str, channels: int, description: str = "") -> TensorSpec:
    return parts.latents_tensor(name, channels, description, frames=Axis(name="latent_frames"))


def _images(channels: int, spatial: int, temporal: int) -> TensorSpec:
    return parts.images_tensor(channels, spatial, frames=parts.video_frames(temporal))


def _decoder_inputs(channels: int, conditioned: bool, planes: int) -> tuple[TensorSpec, ...]:
    """Declare what a decoder takes beside latents."""
    batch, height, width = (Axis(name=name) for name in ("batch", "latent_height", "latent_width"))
    inputs: tuple[TensorSpec, ...] = ()
    if conditioned:
        noise = _latents("noise", channels, "standard normal, mixed into the latents")
        numbers = (
            ("decode_timestep", "how noisy the decoder shall take the latents for"),
            ("decode_noise_scale", "how much of the latents noise replaces"),
        )
        inputs = (
            noise,
            *(
                TensorSpec(
                    name=name, dtype="float32", axes=(batch,), unit="0 … 1", minimum=0, maximum=1, description=text
                )
                for name, text in numbers
            ),
        )
    if planes:
        text = "standard normal, for the states of layers; a layer of k times the latents' sides has k² of the planes"
        inputs += (TensorSpec(name="noise_inner", dtype="float32", axes=(planes, height, width), description=text),)
    return inputs


def _tiling(vae: AutoencoderKLLTXVideo) -> Tiling:
    spatial, temporal = vae.spatial_compression_ratio, vae.temporal_compression_ratio
    return Tiling(
        tile_height=max(vae.tile_sample_min_height // spatial, 1),
        tile_width=max(vae.tile_sample_min_width // spatial, 1),
        stride_height=max(vae.tile_sample_stride_height // spatial, 1),
        stride_width=max(vae.tile_sample_stride_width // spatial, 1),
        tile_frames=max(vae.tile_sample_min_num_frames // temporal, 1),
        stride_frames=max(vae.tile_sample_stride_num_frames // temporal, 1),
    )


class _Normalisation(nn.Module):
    """z [batch, channels, frames, height, width] ↔ latents of mean 0 and deviation 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, vae: AutoencoderKLLTXVideo, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", vae.latents_mean[:, None, None, None].float(), persistent=False)
        self.register_buffer("std", vae.latents_std[:, None, None, None].float(), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) * self.scale / self.std

    def back(self, latents: Tensor) -> Tensor:
        return latents * self.std / self.scale + self.mean


class Encoder(nn.Module):
    """Frames [batch, 3, frames, height, width] in 0 … 1 → ``mean`` and ``std`` of the latents' posterior."""

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.normalise = _Normalisation(vae, vae.config.scaling_factor)
        self.encoder = _with_own_layers(vae.encoder)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = parts.moments(self.encoder(images * 2 - 1))
        return self.normalise(mean), std * self.normalise.scale / self.normalise.std


class FirstFrame(nn.Module):
    """The picture of the first frame → ``image_latents`` and ``image_mask``, as ``LTXImageToVideoPipeline`` has them.

    That pipeline leaves ``scaling_factor``, which is 1 in released models, out of these latents.
    """

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.normalise = _Normalisation(vae, 1.0)
        self.encoder = _with_own_layers(vae.encoder)
        self.temporal_compression = vae.temporal_compression_ratio

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the first frame.

        Args:
            images: [batch, 3, frames, height, width] in 0 … 1.
            given: int64 [batch, frames].
            noise: [batch, channels, 1, latent height, latent width].

        Returns:
            latents [batch, channels, latent frames, latent height, latent width], and a mask [batch, 1, latent frames,
            1, 1].
        """
        mean, std = parts.moments(self.encoder(images[:, :, :1] * 2 - 1))
        first = self.normalise(mean + std * noise)  # [batch, channels, 1, height, width]
        frames = (images.shape[2] - 1) // self.temporal_compression + 1
        is_first = (torch.arange(frames) == 0).float()[:, None, None]
        mask = is_first * given[:, 0].float()[:, None, None, None, None]  # [batch, 1, frames, 1, 1]
        return first * mask, mask


class Decoder(nn.Module):
    """Latents [batch, channels, frames, height, width] → frames in 0 … 1 and beyond: a runtime blends, then clips."""

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.normalise = _Normalisation(vae, vae.config.scaling_factor)
        self.conditioned = bool(vae.config.timestep_conditioning)
        self.decoder = _with_own_layers(vae.decoder)
        planes = 0
        for layer, side in _layers(self.decoder):
            if layer.per_channel_scale1 is not None:
                layer.first_plane, layer.side = planes, side
                planes += 2 * side**2

    def forward(
        self,
        latents: Tensor,
        noise: Tensor | None = None,
        decode_timestep: Tensor | None = None,
        decode_noise_scale: Tensor | None = None,
        noise_inner: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Decode; a decoder that takes no timestep, but noise for its layers, has that as its second input."""
        network: Any = self.decoder
        z, timestep, inner = self.normalise.back(latents), None, noise_inner if self.conditioned else noise
        if decode_timestep is not None:
            z, timestep = _mixed(z, noise, decode_noise_scale), decode_timestep * network.timestep_scale_multiplier
        x = network.conv_in(z)
        for block in (network.mid_block, *network.up_blocks):
            time = None if timestep is None else block.time_embedder(timestep)  # [batch, 4 · channels]
            if (widen := getattr(block, "conv_in", None)) is not None:
                x = widen(x, None, inner)
            for upsampler in getattr(block, "upsamplers", None) or ():
                x = upsampler(x)
            for layer in block.resnets:
                x = layer(x, time, inner)
        x = network.norm_out(x.movedim(1, -1)).movedim(-1, 1)
        if timestep is not None:
            shift, scale = _modulation(network.time_embedder(timestep), network.scale_shift_table)
            x = x * (1 + scale) + shift
        x = network.conv_out(network.conv_act(x))
        batch, _, frames, height, width = x.shape
        side = network.patch_size
        x = x.reshape(batch, -1, side, side, frames, height, width).permute(0, 1, 4, 5, 3, 6, 2)
        return (x.reshape(batch, -1, frames, height * side, width * side) / 2 + 0.5,)


def _mixed(z: Tensor, noise: Tensor | None, scale: Tensor | None) -> Tensor:
    """Return ``z`` [batch, …] of which ``noise`` replaces a share of ``scale`` [batch], as the pipelines do it."""
    assert noise is not None and scale is not None
    share = scale[:, None, None, None, None]
    return (1 - share) * z + share * noise


def _modulation(embedded: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of ``embedded`` [batch, rows · channels] + ``table``, each [batch, channels, 1, 1, 1]."""
    rows = embedded.reshape(embedded.shape[0], *table.shape) + table
    return rows[..., None, None, None].unbind(dim=1)


def _layers(decoder: nn.Module) -> Iterator[tuple[Any, int]]:
    """Return a decoder's residual layers in the order of their calls, and how many of their pixels a latent one is."""
    blocks: Any = (decoder.mid_block, *decoder.up_blocks)  # type: ignore[misc]
    side = 1
    for block in blocks:
        if getattr(block, "conv_in", None) is not None:
            yield block.conv_in, side
        for upsampler in getattr(block, "upsamplers", None) or ():
            side *= upsampler.stride[1]
        for layer in block.resnets:
            yield layer, side


def _number_planes(decoder: nn.Module) -> int:
    """Return how many pictures of noise of the latents' size the layers of a decoder take."""
    return sum(2 * side**2 for layer, side in _layers(decoder) if layer.per_channel_scale1 is not None)


def _with_own_layers(module: nn.Module) -> nn.Module:
    """Return ``module``, changed: its residual layers and embeddings of time are those below, with its weights."""
    for name, child in module.named_children():
        if isinstance(child, theirs.LTXVideoResnetBlock3d):
            setattr(module, name, _Layer(child))
        elif isinstance(child, theirs.PixArtAlphaCombinedTimestepSizeEmbeddings):
            setattr(module, name, nn.Sequential(Sinusoid(_SINUSOID), child.timestep_embedder))
        else:
            _with_own_layers(child)
    return module


class _Layer(nn.Module):
    """diffusers' residual layer on [batch, channels, frames, height, width], its noise and channels where they are.

    Attributes:
        first_plane: of the noise that the layer adds, where it does.
        side: pixels of the layer that a latent pixel stands for along an axis.
    """

    def __init__(self, layer: theirs.LTXVideoResnetBlock3d) -> None:
        super().__init__()
        assert layer.norm1.weight is None and layer.norm2.weight is None
        self.eps = layer.norm1.eps
        self.nonlinearity, self.conv1, self.conv2 = layer.nonlinearity, layer.conv1, layer.conv2
        self.norm3, self.conv_shortcut = layer.norm3, layer.conv_shortcut
        self.per_channel_scale1, self.per_channel_scale2 = layer.per_channel_scale1, layer.per_channel_scale2
        self.scale_shift_table = layer.scale_shift_table
        self.first_plane, self.side = 0, 1

    def forward(self, x: Tensor, time: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        rows: tuple[Tensor, ...] = () if time is None else _modulation(time, self.scale_shift_table)
        changed = x
        steps = ((self.conv1, self.per_channel_scale1), (self.conv2, self.per_channel_scale2))
        for index, (convolution, scale) in enumerate(steps):
            changed = changed * torch.rsqrt(changed.pow(2).mean(1, keepdim=True) + self.eps)
            if rows:
                shift, factor = rows[2 * index : 2 * index + 2]
                changed = changed * (1 + factor) + shift
            changed = convolution(self.nonlinearity(changed))
            if scale is not None:
                assert noise is not None
                first = self.first_plane + index * self.side**2
                picture = noise[first : first + self.side**2].reshape(changed.shape[-2:])
                changed = changed + (picture * scale)[None, :, None]
        if self.norm3 is not None:
            x = self.norm3(x.movedim(1, -1)).movedim(-1, 1)
        return changed + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class _EncoderReference(nn.Module):
    """diffusers' autoencoder, called as ``LTXImageToVideoPipeline`` calls it, on any number of frames."""

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.vae, self.normalise = vae, _Normalisation(vae, vae.config.scaling_factor)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images * 2 - 1).latent_dist
        return self.normalise(posterior.mean), posterior.std * self.normalise.scale / self.normalise.std


class _FirstFrameReference(nn.Module):
    """The latents and the mask of ``LTXImageToVideoPipeline``, of samples whose first picture is given."""

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.vae, self.normalise = vae, _Normalisation(vae, 1.0)

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images[:, :, :1] * 2 - 1).latent_dist
        first = self.normalise(posterior.mean + posterior.std * noise)
        frames = (images.shape[2] - 1) // self.vae.temporal_compression_ratio + 1
        mask = first.new_zeros(len(images), 1, frames, 1, 1)
        mask[given[:, 0] == 1, :, 0] = 1
        return first.repeat(1, 1, frames, 1, 1) * mask, mask


class _DecoderReference(nn.Module):
    """diffusers' autoencoder, called as the pipelines call it, but for their clamp, which the runtime does."""

    def __init__(self, vae: AutoencoderKLLTXVideo) -> None:
        super().__init__()
        self.vae, self.normalise = vae, _Normalisation(vae, vae.config.scaling_factor)

    def forward(
        self,
        latents: Tensor,
        noise: Tensor | None = None,
        decode_timestep: Tensor | None = None,
        decode_noise_scale: Tensor | None = None,
        noise_inner: Tensor | None = None,
    ) -> tuple[Tensor]:
        z, inner = self.normalise.back(latents), noise
        if self.vae.config.timestep_conditioning:
            z, inner = _mixed(z, noise, decode_noise_scale), noise_inner
        with _drawn(inner if inner is not None else torch.empty(0)):
            return (self.vae.decode(z, decode_timestep, return_dict=False)[0] / 2 + 0.5,)


@contextmanager
def _drawn(noise: Tensor) -> Iterator[None]:
    """Let ``torch.randn`` return the next numbers of ``noise``: diffusers' layers draw from the global generator."""
    original, numbers, done = torch.randn, noise.flatten(), 0

    def randn(size: tuple[int, ...], **options: Any) -> Tensor:
        nonlocal done
        done += (count := math.prod(size))
        return numbers[done - count : done].reshape(size)

    torch.randn = randn  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn = original


def _given(spec: TensorSpec, sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return which pictures are given: the first sample's first, and others at random, int64 [batch, frames]."""
    given = np.random.default_rng(seed).integers(0, 2, shape_of(spec, sizes))
    given[0, 0] = 1
    return {spec.name: given}
