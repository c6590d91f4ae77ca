"""Tiny random PixArt pipelines, as diffusers saves them, with no parameter at zero.

``alpha`` has what the large α models have: 128 latent pixels in training, so that size and aspect are conditions and
positions are interpolated, and a learned variance. ``sigma`` has neither. Head counts are odd, and widths are unlike
those of diffusers' own tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
)
from transformers import T5EncoderModel, T5Tokenizer

from tests.families.parts import autoencoder_kl, t5_config
from tests.families.tokenizers import t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "alpha", "sigma", "transformer"]

CHANNELS = 4
_TEXT_WIDTH = 20


def alpha(folder: Path, **options: Any) -> Path:
    """Save a ``PixArtAlphaPipeline`` whose sizes are multiples of 16 pixels, and return its folder."""
    model = transformer(sample_size=128, patch_size=4, heads=3, head_dim=20, learned_variance=True, **options)
    return _save(PixArtAlphaPipeline, folder, model)


def sigma(folder: Path, **options: Any) -> Path:
    """Save a ``PixArtSigmaPipeline`` whose sizes are multiples of 8 pixels, and return its folder."""
    return _save(PixArtSigmaPipeline, folder, transformer(**options))


def transformer(
    *,
    sample_size: int = 12,
    patch_size: int = 2,
    heads: int = 5,
    head_dim: int = 12,
    learned_variance: bool = False,
    text_width: int = _TEXT_WIDTH,
    seed: int = 0,
    **options: Any,
) -> PixArtTransformer2DModel:
    """Return a random transformer of two blocks for texts of ``text_width`` channels."""
    torch.manual_seed(seed)
    model = PixArtTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=CHANNELS,
        out_channels=CHANNELS * (2 if learned_variance else 1),
        num_layers=2,
        sample_size=sample_size,
        patch_size=patch_size,
        cross_attention_dim=heads * head_dim,
        caption_channels=text_width,
        **options,
    )
    return fill_zeros(model).eval()


def _save(kind: type[Any], folder: Path, model: PixArtTransformer2DModel) -> Path:
    torch.manual_seed(1)
    text = t5_config(t5_tokenizer(folder / "tokenizer"), _TEXT_WIDTH)
    vae = autoencoder_kl(
        CHANNELS,
        (8, 12, 12),
        norm_num_groups=4,
        mid_block_add_attention=False,  # at 128 latent pixels it would take a gigabyte
        scaling_factor=0.3,
    )
    kind(
        tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=T5EncoderModel(text).eval(),
        vae=fill_zeros(vae).eval(),
        transformer=model,
        scheduler=DPMSolverMultistepScheduler(beta_schedule="linear"),
    ).save_pretrained(folder)
    return folder
