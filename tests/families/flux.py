"""Tiny random FLUX.1 pipelines, saved by diffusers, that draw something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, three axes of rotary of different sizes, more single
than double blocks, a VAE that compresses 2 × 2 pixels with a shift.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from tests.families.parts import autoencoder_kl, clip_config, t5_sizes
from tests.families.tokenizers import clip_tokenizer, t5_tokenizer
from tests.models import fill_zeros

__all__ = ["make_flux", "make_transformer"]

#: As in the released folders: dev's shift depends on the picture's size, schnell has none.
SCHEDULERS = {
    "dev": {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
    "schnell": {"shift": 1.0, "use_dynamic_shifting": False},
}


def make_transformer(*, guidance: bool = True, seed: int = 0) -> FluxTransformer2DModel:
    """Return a random transformer: 1 double and 2 single blocks of 3 heads, 5 latent channels."""
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=20,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=20,
        num_attention_heads=3,
        joint_attention_dim=28,
        pooled_projection_dim=36,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 10),
    )
    return fill_zeros(model).eval()


def make_flux(folder: Path, *, kind: str = "dev", seed: int = 0) -> Path:
    """Save a random ``FluxPipeline`` in ``folder`` and return it; ``kind`` is ``dev`` or ``schnell``."""
    words, pieces = clip_tokenizer(folder / "made_tokenizer"), t5_tokenizer(folder / "made_tokenizer_2")
    torch.manual_seed(seed)
    clip, t5 = clip_config(words, 36, heads=3), T5Config(**t5_sizes(pieces))
    vae = autoencoder_kl(
        5,
        (16, 24),
        layers_per_block=1,
        norm_num_groups=8,
        scaling_factor=0.36,
        shift_factor=0.12,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULERS[kind]),
        vae=fill_zeros(vae).eval(),
        text_encoder=fill_zeros(CLIPTextModel(clip)).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "made_tokenizer"),
        text_encoder_2=fill_zeros(T5EncoderModel(t5)).eval(),
        tokenizer_2=T5Tokenizer.from_pretrained(folder / "made_tokenizer_2"),
        transformer=make_transformer(guidance=kind == "dev", seed=seed),
    )
    pipeline.save_pretrained(folder / kind)
    return folder / kind
