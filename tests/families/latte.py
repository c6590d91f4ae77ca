"""A tiny random Latte pipeline, saved by diffusers, with no parameter at zero.

Sizes are unlike diffusers' own tests: five heads, seven frames, patches of 2 × 2, positions that are interpolated, and
a VAE that compresses 4 × 4 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel
from transformers import T5EncoderModel, T5Tokenizer

from tests.families.parts import autoencoder_kl, t5_config
from tests.families.tokenizers import t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "FRAMES", "make_latte", "make_transformer"]

CHANNELS = 3
FRAMES = 7
_TEXT_WIDTH = 20


def make_transformer(*, frames: int = FRAMES, text_width: int = _TEXT_WIDTH, **options: Any) -> LatteTransformer3DModel:
    """Return a random transformer of two spatial and two temporal blocks; ``frames`` is its only number of them."""
    torch.manual_seed(0)
    model = LatteTransformer3DModel(
        **{
            "num_attention_heads": 5,
            "attention_head_dim": 12,
            "in_channels": CHANNELS,
            "out_channels": 2 * CHANNELS,
            "num_layers": 2,
            "cross_attention_dim": 60,
            "attention_bias": True,
            "sample_size": 128,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "norm_eps": 1e-6,
            "caption_channels": text_width,
            "video_length": frames,
            **options,
        }
    )
    return fill_zeros(model).eval()


def make_latte(folder: Path, **options: Any) -> Path:
    """Save a ``LattePipeline`` whose sizes are multiples of 8 pixels, and return its folder."""
    pieces = t5_tokenizer(folder / "tokenizer")
    model = make_transformer(**options)
    torch.manual_seed(1)
    text = t5_config(pieces, _TEXT_WIDTH)
    vae = autoencoder_kl(
        CHANNELS,
        (8, 12, 12),
        norm_num_groups=4,
        mid_block_add_attention=False,  # at 128 latent pixels it would take a gigabyte
        scaling_factor=0.3,
    )
    LattePipeline(
        tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=T5EncoderModel(text).eval(),
        vae=fill_zeros(vae).eval(),
        transformer=model,
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False),
    ).save_pretrained(folder)
    return folder
