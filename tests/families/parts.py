"""Parts that several families' tiny pipelines have: configurations of T5 and CLIP, and diffusers' autoencoder of SD.

Configurations rather than networks: what a network's random weights are depends on when it is made, and each family
says that itself.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, T5Config

__all__ = ["autoencoder_kl", "clip_config", "t5_config", "t5_sizes"]


def t5_sizes(pieces: int, width: int = 28) -> dict[str, Any]:
    """Return options of a T5, or a UMT5, of two layers of three heads; heads are narrower than ``width / 3``."""
    return {
        "vocab_size": pieces + 3,  # released models round their vocabulary up
        "d_model": width,
        "d_kv": 12,
        "d_ff": 44,
        "num_layers": 2,
        "num_heads": 3,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
    }


def t5_config(pieces: int, width: int) -> T5Config:
    """Return a T5 encoder of two layers of three heads, which together are wider than ``width``."""
    return T5Config(
        vocab_size=pieces,
        d_model=width,
        d_kv=16,
        d_ff=36,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )


def clip_config(words: int, width: int, heads: int, **options: Any) -> CLIPTextConfig:
    """Return a CLIP text encoder whose two last words begin and end a text."""
    sizes = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "projection_dim": 16,
        "hidden_act": "quick_gelu",
        "bos_token_id": words - 2,
        "eos_token_id": 2,  # as in released configs: the pooled state is that of the largest id
        "pad_token_id": 1,
    }
    return CLIPTextConfig(**{**sizes, **options})


def autoencoder_kl(channels: int, widths: tuple[int, ...], **options: Any) -> AutoencoderKL:
    """Return a random autoencoder of ``channels`` latent channels that halves a side between two of ``widths``."""
    return AutoencoderKL(
        latent_channels=channels,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        **options,
    )
