"""Tiny random HunyuanDiT pipelines, as diffusers saves them, with no parameter at zero.

``hunyuan`` is what 1.1 is: conditions by size and style, a scheduler that draws noise each step, v-prediction; and
blocks enough for one long skip. ``plain`` is what 1.2 is, without those conditions, and has two long skips. Head counts
are odd, and widths unlike those of diffusers' own tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from transformers import BertConfig, BertModel, BertTokenizer, T5EncoderModel, T5Tokenizer
from transformers.models.mt5 import MT5Config

from tests.families.parts import autoencoder_kl
from tests.families.tokenizers import bert_tokenizer, t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "hunyuan", "plain", "transformer"]

CHANNELS = 4
_BERT_WIDTH, _T5_WIDTH = 20, 24


def hunyuan(folder: Path, **options: Any) -> Path:
    """Save a ``HunyuanDiTPipeline`` whose sizes are multiples of 16 pixels, and return its folder."""
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.03,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        steps_offset=1,
    )
    return _save(folder, transformer(**options), scheduler)


def plain(folder: Path) -> Path:
    """Save one without conditions by size and style, and return its folder."""
    return hunyuan(folder, use_style_cond_and_image_meta_size=False, num_layers=6, seed=3)


def transformer(*, heads: int = 3, head_dim: int = 20, seed: int = 0, **options: Any) -> HunyuanDiT2DModel:
    """Return a random transformer; of four blocks, the last takes the states of the first."""
    torch.manual_seed(seed)
    sizes = {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "hidden_size": heads * head_dim,
        "in_channels": CHANNELS,
        "patch_size": 2,
        "sample_size": 6,
        "num_layers": 4,
        "mlp_ratio": 1.5,
        "cross_attention_dim": _BERT_WIDTH,
        "cross_attention_dim_t5": _T5_WIDTH,
        "pooled_projection_dim": 28,
    }
    return fill_zeros(HunyuanDiT2DModel(**{**sizes, **options})).eval()


def _save(folder: Path, model: HunyuanDiT2DModel, scheduler: Any) -> Path:
    torch.manual_seed(1)
    words = bert_tokenizer(folder / "tokenizer"), t5_tokenizer(folder / "tokenizer_2")
    first = BertConfig(
        vocab_size=words[0],
        hidden_size=_BERT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=5,
        intermediate_size=36,
        max_position_embeddings=90,
    )
    second = MT5Config(
        vocab_size=words[1],
        d_model=_T5_WIDTH,
        d_kv=12,
        d_ff=36,
        num_layers=1,
        num_heads=3,
        relative_attention_num_buckets=12,
        relative_attention_max_distance=20,
        is_encoder_decoder=False,
    )
    vae = autoencoder_kl(
        CHANNELS,
        (8, 8, 12, 12),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        scaling_factor=0.3,
    )
    HunyuanDiTPipeline(
        vae=fill_zeros(vae).eval(),
        text_encoder=fill_zeros(BertModel(first, add_pooling_layer=False)).eval(),
        tokenizer=BertTokenizer.from_pretrained(folder / "tokenizer"),
        transformer=model,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=T5EncoderModel(second).eval(),
        tokenizer_2=T5Tokenizer.from_pretrained(folder / "tokenizer_2"),
    ).save_pretrained(folder)
    return folder
