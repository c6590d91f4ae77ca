"""Tiny random Wan pipelines, saved by diffusers, that draw something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, heads that three axes of rotary divide unevenly, five
latent channels, a VAE that compresses 4 × 4 pixels, or 8 × 8 with patches, pictures of 4 × 4 patches for CLIP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from tests.families.parts import t5_sizes
from tests.families.tokenizers import t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "IMAGE_SIZE", "TEXT_WIDTH", "Kind", "make_pipeline", "make_transformer", "make_vae", "make_wan"]

#: Wan 2.1's text to video, image to video, first and last frame to video; 2.2's 14-billion models; its 5-billion model.
Kind = Literal["t2v", "i2v", "flf2v", "t2v-2.2", "i2v-2.2", "ti2v"]
CHANNELS = 5
TEXT_WIDTH = 28
#: Pixels on a side of what CLIP sees, and its hidden states.
IMAGE_SIZE, _IMAGE_TOKENS, _IMAGE_WIDTH = 28, 17, 36
_HEADS, _HEAD = 3, 20


def make_vae(*, residual: bool = False, channels: int = CHANNELS, seed: int = 0, **options: Any) -> AutoencoderKLWan:
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
    return _randomised(AutoencoderKLWan(**sizes | options), "gamma")


def make_transformer(kind: Kind = "t2v", seed: int = 0, **options: Any) -> WanTransformer3DModel:
    """Return a random transformer of two blocks."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": _HEADS,
        "attention_head_dim": _HEAD,
        "in_channels": 4 + 2 * CHANNELS if kind in ("i2v", "flf2v", "i2v-2.2") else CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": TEXT_WIDTH,
        "freq_dim": 32,
        "ffn_dim": 88,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    if kind in ("i2v", "flf2v"):
        sizes |= {"image_dim": _IMAGE_WIDTH, "added_kv_proj_dim": _HEADS * _HEAD}
    if kind == "flf2v":
        sizes["pos_embed_seq_len"] = 2 * _IMAGE_TOKENS
    return _randomised(WanTransformer3DModel(**sizes | options), "weight")


def make_wan(folder: Path, kind: Kind = "t2v", *, seed: int = 0) -> Path:
    """Save a random pipeline of ``kind`` in ``folder`` and return its own folder."""
    make_pipeline(folder, kind, seed=seed).save_pretrained(folder / kind)
    return folder / kind


def make_pipeline(folder: Path, kind: Kind = "t2v", *, seed: int = 0) -> Any:
    """Return a random pipeline of ``kind``, always the same; its tokenizer is written in ``folder``.

    diffusers reads a saved one with the package ``accelerate`` only.
    """
    pieces = t5_tokenizer(folder / "made_tokenizer")
    torch.manual_seed(seed)
    text = UMT5Config(**t5_sizes(pieces, TEXT_WIDTH))
    parts: dict[str, Any] = {
        "tokenizer": T5Tokenizer.from_pretrained(folder / "made_tokenizer"),
        "text_encoder": _randomised(UMT5EncoderModel(text), "weight"),
        "vae": make_vae(residual=kind == "ti2v", seed=seed),
        "transformer": make_transformer(kind, seed),
        "scheduler": UniPCMultistepScheduler(
            flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction", solver_order=2
        ),
    }
    if kind in ("i2v", "flf2v"):
        vision = CLIPVisionConfig(
            hidden_size=_IMAGE_WIDTH,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=3,
            image_size=IMAGE_SIZE,
            patch_size=IMAGE_SIZE // 4,
            hidden_act="gelu",
        )
        parts["image_encoder"] = _randomised(CLIPVisionModel(vision), "weight")
        sizes = {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
        parts["image_processor"] = CLIPImageProcessorPil(**sizes)
    if kind in ("t2v-2.2", "i2v-2.2"):
        parts |= {"transformer_2": make_transformer(kind, seed + 1), "boundary_ratio": 0.8}
    if kind == "ti2v":
        parts["expand_timesteps"] = True
    return (WanPipeline if kind in ("t2v", "t2v-2.2", "ti2v") else WanImageToVideoPipeline)(**parts)


def _randomised(model: nn.Module, kind: str) -> Any:
    """Give zeros, and norms' ones, values that would be seen if they were left out; ``kind``: how these end."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(kind) and bool((parameter == 1).all()):
                parameter += 0.3 * torch.randn(parameter.shape)
    return fill_zeros(model).eval()
