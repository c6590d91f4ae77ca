"""Tiny random Sana pipelines, as diffusers saves them, with no parameter at zero.

Sana's linear attention jumps where a query has no positive channel: where one is all but zero, roundings alone decide
what comes out, and nothing can be compared. So heads are wide (20 and 12 channels: all of a random query are negative
once in a million, once in four thousand), and weights are as torch draws them, so that queries are of order one. Head
counts are odd, and widths are unlike those of diffusers' own tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

from tests.families.tokenizers import gemma_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "autoencoder", "sana", "transformer"]

CHANNELS = 4
_TEXT_WIDTH = 30


def sana(folder: Path, *, vae: dict[str, Any] | None = None, **options: Any) -> Path:
    """Save a ``SanaPipeline`` whose sizes are multiples of 32 pixels, and return its folder."""
    model = transformer(**options)
    torch.manual_seed(1)
    text = Gemma2Config(
        vocab_size=gemma_tokenizer(folder / "tokenizer"),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        query_pre_attn_scalar=7,
        attn_logit_softcapping=2.0,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    SanaPipeline(
        tokenizer=GemmaTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=fill_zeros(Gemma2Model(text)).eval(),
        vae=autoencoder(**(vae or {})),
        transformer=model,
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
        ),
    ).save_pretrained(folder)
    return folder


def transformer(
    *, text_width: int = _TEXT_WIDTH, out_channels: int = CHANNELS, seed: int = 0, **options: Any
) -> SanaTransformer2DModel:
    """Return a random transformer of two blocks for texts of ``text_width`` channels."""
    torch.manual_seed(seed)
    config = {
        "num_attention_heads": 3,
        "attention_head_dim": 20,
        "num_cross_attention_heads": 5,
        "cross_attention_head_dim": 12,
        "num_layers": 2,
        "sample_size": 16,
        "patch_size": 1,
        "mlp_ratio": 2.5,
        **options,
    }
    model = SanaTransformer2DModel(
        in_channels=CHANNELS,
        out_channels=out_channels,
        cross_attention_dim=config["num_attention_heads"] * config["attention_head_dim"],
        caption_channels=text_width,
        **config,
    )
    return fill_zeros(model).eval()


def autoencoder(*, stages: int = 2, **options: Any) -> AutoencoderDC:
    """Return a random autoencoder, 2 ** (``stages`` - 1) pixels a latent pixel; the last stage attends (12 a head)."""
    torch.manual_seed(2)
    widths, scales = (18,) * (stages - 1) + (36,), ((),) * (stages - 1) + ((5,),)
    blocks = ("ResBlock",) * (stages - 1) + ("EfficientViTBlock",)
    config: dict[str, Any] = {
        "latent_channels": CHANNELS,
        "attention_head_dim": 12,
        "encoder_block_types": blocks,
        "decoder_block_types": blocks,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "encoder_layers_per_block": (1,) * stages,
        "decoder_layers_per_block": (1,) * stages,
        "encoder_qkv_multiscales": scales,
        "decoder_qkv_multiscales": scales,
        "upsample_block_type": "interpolate",
        "downsample_block_type": "conv",
        "scaling_factor": 0.41407,
        **options,
    }
    return fill_zeros(AutoencoderDC(**config)).eval()
