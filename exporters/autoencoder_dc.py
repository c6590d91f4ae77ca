"""The deep-compression autoencoder of Sana (Chen et al. 2024, arXiv 2410.10733): 32 pixels a latent pixel.

diffusers' ``AutoencoderDC`` attends linearly where a picture has more latent pixels than a head has channels, and
quadratically otherwise: a choice in Python that a trace would bake. The two are one sum in two orders. With queries and
keys that ReLU made non-negative,

    out_j = Σ_i v_i (k_i · q_j) / (Σ_i k_i · q_j + ε),

every term of the denominator is non-negative, so that either order knows it to a few roundings; and the numerator's
error is a few roundings of max |v| · Σ_i k_i · q_j. So they differ by roundings of max |v| at any size, and the graph
always attends linearly; the tests hold it against diffusers on both sides of the limit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Component
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_parts as parts
from dit_deploy.exporters.autoencoders import Decoder, Encoder
from dit_deploy.exporters.linear_attention import relu_linear_attention
from dit_deploy.exporters.modules import load_diffusers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.weights import read_json

__all__ = ["graphs"]


def graphs(folder: Path, channels: int, sample_size: int) -> tuple[list[Graph], tuple[int, float]]:
    """Return the two halves to export, and the compression and scale of the latents.

    The encoder is deterministic: its one output is ``mean``, and a runtime draws no noise for it.

    Args:
        folder: of an ``AutoencoderDC``.
        channels: of the denoiser's latents, which must be the autoencoder's.
        sample_size: height and width of the latents in training.

    Raises:
        SourceError: the folder holds no such autoencoder, or one with other channels.
    """
    config = dict(load_diffusers(AutoencoderDC, folder).config)
    parts.check_channels(folder, config["latent_channels"], channels)
    if read_json(folder / "config.json").get("shift_factor"):
        raise SourceError(f"{folder} has a shift_factor, which AutoencoderDC does not apply")
    compression = 2 ** (len(config["encoder_block_out_channels"]) - 1)
    images = parts.images_tensor(int(config["in_channels"]), compression)
    latents = parts.latents_tensor("latents", channels)
    encoder = Component(
        path="vae_encoder/model.onnx",
        inputs=(parts.bounded(images),),
        outputs=(parts.latents_tensor("mean", channels, "ready for the denoiser"),),
    )
    halves = parts.halves(
        (encoder, parts.decoder_component(latents, images)),
        (lambda vae: Encoder(_traceable(vae)), lambda vae: Decoder(_traceable(vae))),
        (Encoder, Decoder),
        lambda: load_diffusers(AutoencoderDC, folder),
        {"batch": 2, "latent_height": sample_size, "latent_width": sample_size},
    )
    return halves, (compression, float(config["scaling_factor"]))


def _traceable(vae: AutoencoderDC) -> AutoencoderDC:
    """Give every attention of this one autoencoder a form without a choice by size."""
    for module in vae.modules():
        if isinstance(getattr(module, "to_qkv_multiscale", None), nn.ModuleList):
            module.processor = _LinearAttention()
    return vae


class _LinearAttention:
    """diffusers' ``SanaMultiscaleAttnProcessor2_0`` that attends linearly at any size."""

    def __call__(self, attn: Any, hidden_states: Tensor) -> Tensor:
        batch, _, height, width = hidden_states.shape
        x = hidden_states.movedim(1, -1)
        x = torch.cat([attn.to_q(x), attn.to_k(x), attn.to_v(x)], dim=3).movedim(-1, 1)
        x = torch.cat([x, *(project(x) for project in attn.to_qkv_multiscale)], dim=1)
        x = x.reshape(batch, -1, 3 * attn.attention_head_dim, height * width)  # [batch, heads · scales, …, pixels]
        q, k, v = x.chunk(3, dim=2)
        x = relu_linear_attention(q, k, v).reshape(batch, -1, height, width)
        x = attn.to_out(x.movedim(1, -1))  # channels last
        x = attn.norm_out(x).movedim(-1, 1) if attn.norm_type == "rms_norm" else attn.norm_out(x.movedim(-1, 1))
        return x + hidden_states if attn.residual_connection else x
