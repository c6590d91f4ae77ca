"""Tiny random Wan pipelines, saved by diffusers, that draw something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, a head that three axes of rotary divide unevenly, five
latent channels, a VAE that compresses 4 × 4 pixels, or 8 × 8 with patches.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan

from tests.models import fill_zeros

__all__ = ["make_vae"]


def make_vae(*, residual: bool = False, channels: int = 5, seed: int = 0) -> AutoencoderKLWan:
    """Return a random autoencoder of Wan 2.1, or with ``residual`` of Wan 2.2's 5-billion model."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "base_dim": 8,
        "z_dim": channels,
        "dim_mult": [1, 2, 3],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "latents_mean": [0.3 * number - 0.5 for number in range(channels)],
        "latents_std": [1.5 + 0.2 * number for number in range(channels)],
        "scale_factor_spatial": 4,
    }
    if residual:
        sizes |= {
            "is_residual": True,
            "dim_mult": [1, 2, 2],
            "decoder_base_dim": 12,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "scale_factor_spatial": 8,
        }
    vae = AutoencoderKLWan(**sizes)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("gamma"):  # ones, so that leaving one out would not be seen
                parameter += 0.3 * torch.randn(parameter.shape)
    return fill_zeros(vae).eval()
