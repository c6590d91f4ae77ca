"""The two halves of a diffusers autoencoder, with every model constant inside the graph.

The encoder takes a picture in 0 … 1 and gives the posterior of its latents, scaled and shifted as the
denoiser wants them; the decoder goes the other way. So a runtime needs no ``scaling_factor``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Component, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.weights import read_json

__all__ = [
    "Decoder",
    "Encoder",
    "decoder_component",
    "encoder_component",
    "graphs",
    "load_autoencoder",
    "spatial_compression",
]

Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny
_CLASSES: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


def load_autoencoder(folder: Path) -> Autoencoder:
    """Load a diffusers autoencoder folder in float32."""
    name = read_json(folder / "config.json").get("_class_name")
    if name not in _CLASSES:
        raise SourceError(f"{folder} holds a {name}; supported autoencoders: {', '.join(_CLASSES)}")
    try:
        vae, info = _CLASSES[name].from_pretrained(
            folder, torch_dtype=torch.float32, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{folder} cannot be loaded as {name}: {str(error).strip().splitlines()[0]}") from error
    # diffusers fills what is missing with random numbers, and only warns.
    for what, keys in (("lacks", info["missing_keys"]), ("has a strange", info["unexpected_keys"])):
        if keys:
            raise SourceError(f"{folder} {what} {sorted(keys)[0]}, and {len(keys) - 1} more tensors: no whole {name}")
    if info["mismatched_keys"]:
        raise SourceError(
            f"{folder}: the weights' shapes are not those of its config.json: {info['mismatched_keys'][0]}"
        )
    return vae.eval().requires_grad_(False)


def factors(vae: Autoencoder) -> tuple[float, float]:
    """Return ``scaling_factor`` and ``shift_factor``: latents = (z - shift) · scale."""
    return float(vae.config.scaling_factor), float(getattr(vae.config, "shift_factor", None) or 0.0)


def spatial_compression(vae: Autoencoder) -> int:
    """Return how many pixels one latent pixel stands for along an axis, measured on a small picture."""
    side = 64
    with torch.no_grad():
        latents = Encoder(vae)(torch.zeros(1, vae.config.in_channels, side, side))[0]
    return side // latents.shape[-1]


class Encoder(nn.Module):
    """Pictures [batch, 3, height, width] in 0 … 1 → ``mean`` and, for a variational encoder, ``std`` of the latents."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae
        self.scale, self.shift = factors(vae)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        encoded = self.vae.encode(images * 2 - 1, return_dict=False)[0]
        if isinstance(encoded, Tensor):  # AutoencoderTiny has no posterior
            return ((encoded - self.shift) * self.scale,)
        return (encoded.mean - self.shift) * self.scale, encoded.std * self.scale


class Decoder(nn.Module):
    """Latents [batch, channels, height, width] → pictures in 0 … 1 and beyond: a runtime blends, then clips."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae
        self.scale, self.shift = factors(vae)

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        decoded = self.vae.decode(latents / self.scale + self.shift, return_dict=False)[0]
        return (decoded / 2 + 0.5,)


def graphs(folder: Path, channels: int, sample_size: int) -> tuple[list[Graph], tuple[int, float, float]]:
    """Return the two halves to export, and the compression, scale and shift of the latents.

    Args:
        folder: of a diffusers autoencoder.
        channels: of the denoiser's latents, which must be the autoencoder's.
        sample_size: height and width of the latents at which the halves are proved.

    Raises:
        SourceError: the folder holds another class, cannot be loaded, or does not belong to the denoiser.
    """
    vae = load_autoencoder(folder)
    parts.check_channels(folder, vae.config.latent_channels, channels)
    compression = spatial_compression(vae)
    typical = {"batch": 2, "latent_height": sample_size, "latent_width": sample_size}
    halves = [
        Graph("vae_encoder", encoder_component(vae, compression), lambda: Encoder(load_autoencoder(folder)), typical),
        Graph("vae_decoder", decoder_component(vae, compression), lambda: Decoder(load_autoencoder(folder)), typical),
    ]
    return halves, (compression, *factors(vae))


def encoder_component(vae: Autoencoder, compression: int) -> Component:
    """Declare the encoder's input and outputs."""
    images, latents = parts.images_tensor(vae.config.in_channels, compression), _latents(vae)
    return parts.encoder_component(images, latents, deviation=isinstance(vae, AutoencoderKL))


def decoder_component(vae: Autoencoder, compression: int) -> Component:
    """Declare the decoder's input and output."""
    return parts.decoder_component(_latents(vae), parts.images_tensor(vae.config.out_channels, compression))


def _latents(vae: Autoencoder) -> TensorSpec:
    return parts.latents_tensor("latents", vae.config.latent_channels)
