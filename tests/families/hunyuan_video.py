"""Tiny random HunyuanVideo pipelines, saved by diffusers, that draw something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, three axes of rotary of different sizes, two single
blocks for one of both streams, a VAE of five channels that compresses 4 × 4 pixels and 4 frames.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from tests.families.parts import clip_config
from tests.families.tokenizers import clip_tokenizer, llama_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "POOLED", "WIDTH", "make_autoencoder", "make_hunyuan_video", "make_transformer"]

CHANNELS, WIDTH, POOLED = 5, 36, 24


def make_transformer(*, seed: int = 0, **options: Any) -> HunyuanVideoTransformer3DModel:
    """Return a random transformer; attention is as sharp that another prompt makes another video."""
    torch.manual_seed(seed)
    sizes = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "num_attention_heads": 3,
        "attention_head_dim": 20,
        "num_layers": 1,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "mlp_ratio": 3.0,
        "patch_size": 2,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": WIDTH,
        "pooled_projection_dim": POOLED,
        "rope_axes_dim": (4, 6, 10),
    }
    model = HunyuanVideoTransformer3DModel(**{**sizes, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(r"norm_(added_)?[qk]\.weight", name):
                parameter.mul_(2)
        model.context_embedder.proj_in.weight.mul_(4)
    return fill_zeros(model).eval()


def make_autoencoder(*, seed: int = 0, **options: Any) -> AutoencoderKLHunyuanVideo:
    """Return a random autoencoder of three levels, one layer each."""
    torch.manual_seed(seed)
    sizes = {
        "latent_channels": CHANNELS,
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 3,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 3,
        "block_out_channels": (16, 24, 24),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "spatial_compression_ratio": 4,
        "scaling_factor": 0.47,
    }
    return fill_zeros(AutoencoderKLHunyuanVideo(**{**sizes, **options})).eval()


def make_hunyuan_video(folder: Path, *, from_picture: bool = False, seed: int = 0, **options: Any) -> Path:
    """Save a random ``HunyuanVideoPipeline`` in ``folder``, or one of SkyReels that starts from a picture; return it.

    ``options`` are the transformer's.
    """
    template = re.sub(r"<\|\w+\|>", " ", DEFAULT_PROMPT_TEMPLATE["template"])
    pieces = llama_tokenizer(folder / "made_tokenizer", template)
    words = clip_tokenizer(folder / "made_tokenizer_2")
    torch.manual_seed(seed)
    llama = LlamaConfig(
        vocab_size=pieces + 3,  # released models round their vocabulary up
        hidden_size=WIDTH,
        intermediate_size=50,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    clip = clip_config(words, POOLED, heads=2)
    if from_picture:
        options["in_channels"] = 2 * CHANNELS
    pipeline = (HunyuanSkyreelsImageToVideoPipeline if from_picture else HunyuanVideoPipeline)(
        text_encoder=fill_zeros(LlamaModel(llama)).eval(),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "made_tokenizer"),
        transformer=make_transformer(seed=seed, **options),
        vae=make_autoencoder(seed=seed),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=fill_zeros(CLIPTextModel(clip)).eval(),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "made_tokenizer_2"),
    )
    pipeline.save_pretrained(folder / "hunyuan_video")
    return folder / "hunyuan_video"
