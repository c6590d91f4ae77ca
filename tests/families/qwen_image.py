"""A tiny random Qwen-Image pipeline, saved by diffusers, that draws something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, three axes of rotary of different sizes, a VAE of five
channels that compresses 4 × 4 pixels with one layer for pictures and one for frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from tests.families.tokenizers import qwen_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "WIDTH", "make_autoencoder", "make_qwen_image", "make_transformer"]

CHANNELS, WIDTH = 5, 36
#: As in the released folder: shifted by the picture's size, and stretched to end at 0.02.
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}


def make_transformer(*, seed: int = 0, **options: Any) -> QwenImageTransformer2DModel:
    """Return a random transformer: two blocks of three heads.

    Attention is as sharp, and what it finds in texts as large, that another prompt makes another picture.
    """
    torch.manual_seed(seed)
    sizes = {
        "patch_size": 2,
        "in_channels": 4 * CHANNELS,
        "out_channels": CHANNELS,
        "num_layers": 2,
        "attention_head_dim": 20,
        "num_attention_heads": 3,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (4, 6, 10),
    }
    model = QwenImageTransformer2DModel(**{**sizes, **options})
    with torch.no_grad():
        for block in model.transformer_blocks:
            for norm in (block.attn.norm_q, block.attn.norm_k, block.attn.norm_added_q, block.attn.norm_added_k):
                norm.weight.mul_(2)
            block.attn.add_v_proj.weight.mul_(4)
            block.attn.to_out[0].weight.mul_(4)
    return fill_zeros(model).eval()


def make_autoencoder(*, seed: int = 0) -> AutoencoderKLQwenImage:
    """Return a random autoencoder of :data:`CHANNELS` channels that compresses 4 × 4 pixels."""
    torch.manual_seed(seed)
    model = AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[-0.7, 0.4, 0.1, -0.2, 0.9],
        latents_std=[2.8, 1.4, 0.6, 2.3, 1.2],
    )
    return fill_zeros(model).eval()


def make_text_encoder(vocabulary: int, *, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """Return a random language model of :data:`WIDTH` channels, with eyes that nothing uses."""
    torch.manual_seed(seed)
    text = {
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_size": WIDTH,
        "intermediate_size": 50,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 1], "rope_theta": 1e6},
    }
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "out_hidden_size": WIDTH,
        "patch_size": 2,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return fill_zeros(Qwen2_5_VLForConditionalGeneration(config)).eval()


def make_qwen_image(folder: Path, *, seed: int = 0) -> Path:
    """Save a random ``QwenImagePipeline`` in ``folder`` and return it."""
    vocabulary = qwen_tokenizer(folder / "made_tokenizer")
    pipeline = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=make_autoencoder(seed=seed),
        text_encoder=make_text_encoder(vocabulary, seed=seed),
        tokenizer=Qwen2Tokenizer.from_pretrained(folder / "made_tokenizer"),
        transformer=make_transformer(seed=seed),
    )
    pipeline.save_pretrained(folder / "source")
    return folder / "source"
