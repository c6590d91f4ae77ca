"""A tiny random Z-Image pipeline, saved by diffusers, that draws something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, three axes of rotary of different sizes, more layers
than refiners, a VAE that compresses 2 × 2 pixels with a shift.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from tests.families.parts import autoencoder_kl
from tests.families.tokenizers import qwen_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "SIDE", "WIDTH", "make_transformer", "make_z_image"]

CHANNELS, WIDTH = 5, 28
#: Positions of rows and of columns.
SIDE = 50


def make_transformer(*, seed: int = 0, **options: Any) -> ZImageTransformer2DModel:
    """Return a random transformer: one refining block for pictures and texts each, two for both, of three heads."""
    torch.manual_seed(seed)
    sizes = {
        "in_channels": CHANNELS,
        "dim": 60,
        "n_layers": 2,
        "n_refiner_layers": 1,
        "n_heads": 3,
        "n_kv_heads": 3,
        "cap_feat_dim": WIDTH,
        "axes_dims": [4, 6, 10],
        "axes_lens": [600, SIDE, SIDE + 2],
    }
    return fill_zeros(ZImageTransformer2DModel(**{**sizes, **options})).eval()


def make_z_image(folder: Path, *, seed: int = 0) -> Path:
    """Save a random ``ZImagePipeline`` in ``folder`` and return it."""
    vocabulary = qwen_tokenizer(folder / "made_tokenizer")
    torch.manual_seed(seed)
    text = Qwen3Config(
        vocab_size=vocabulary,
        bos_token_id=0,
        eos_token_id=1,
        hidden_size=WIDTH,
        intermediate_size=50,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
    )
    vae = autoencoder_kl(
        CHANNELS,
        (16, 24),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=0.36,
        shift_factor=0.12,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    pipeline = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=fill_zeros(vae).eval(),
        text_encoder=fill_zeros(Qwen3Model(text)).eval(),
        tokenizer=Qwen2Tokenizer.from_pretrained(folder / "made_tokenizer"),
        transformer=make_transformer(seed=seed),
    )
    pipeline.save_pretrained(folder / "source")
    return folder / "source"
