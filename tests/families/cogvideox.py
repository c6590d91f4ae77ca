"""Tiny random CogVideoX pipelines, saved by diffusers, that draw something: no parameter is all zeros.

Sizes are unlike diffusers' own test configurations: three heads, a usual grid that is not square, a VAE of three levels
that compresses 4 × 4 pixels, scaled and not only by 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tests.families.parts import t5_sizes
from tests.families.tokenizers import t5_tokenizer
from tests.models import fill_zeros

__all__ = ["KINDS", "LATENT_CHANNELS", "make_cogvideox", "make_transformer", "make_vae"]

#: What sets the released models apart, as in their configs; the last two are made from a picture.
KINDS: dict[str, dict[str, Any]] = {
    "2B": {},
    "5B": {"use_rotary_positional_embeddings": True},
    "1.5": {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "patch_bias": False},
    "5B image": {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True},
    "1.5 image": {
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "patch_bias": False,
        "ofs_embed_dim": 40,
    },
}
LATENT_CHANNELS = 4


def make_transformer(kind: str, seed: int = 0) -> CogVideoXTransformer3DModel:
    """Return a random transformer: a layer of 3 heads, for 9 frames of 12 × 20 latent pixels usually."""
    torch.manual_seed(seed)
    model = CogVideoXTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=16,
        in_channels=LATENT_CHANNELS * (2 if kind.endswith("image") else 1),
        out_channels=LATENT_CHANNELS,
        time_embed_dim=40,
        text_embed_dim=28,
        num_layers=1,
        sample_width=20,
        sample_height=12,
        sample_frames=9,
        spatial_interpolation_scale=1.4,
        temporal_interpolation_scale=1.2,
        **KINDS[kind],
    )
    if KINDS[kind].get("use_learned_positional_embeddings"):
        model.patch_embed.pos_embedding.normal_(std=0.5)
    return fill_zeros(model).eval()


def make_vae(seed: int = 0, *, image: bool = False, small: bool = False) -> AutoencoderKLCogVideoX:
    """Return a random autoencoder of three levels; group norms have weights and biases that differ.

    ``small``: with as few layers as there can be, which are traced in half the time.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8) if small else (8, 12, 16),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=0 if small else 1,
        norm_num_groups=4,
        sample_height=48,
        sample_width=80,
        scaling_factor=0.7,
        invert_scale_latents=image,
    )
    for parameter in vae.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.3, std=0.3)
    return vae.eval()


def make_cogvideox(folder: Path, kind: str, seed: int = 0) -> Path:
    """Save a random pipeline of ``kind``, one of :data:`KINDS`, in ``folder`` and return where it is."""
    image = kind.endswith("image")
    pieces = t5_tokenizer(folder / "made_tokenizer")
    torch.manual_seed(seed)
    scheduler = (CogVideoXDDIMScheduler if kind == "2B" else CogVideoXDPMScheduler)(
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=3.0 if kind == "2B" else 1.0,
    )
    pipeline = (CogVideoXImageToVideoPipeline if image else CogVideoXPipeline)(
        scheduler=scheduler,
        vae=make_vae(seed, image=image, small=True),
        text_encoder=fill_zeros(T5EncoderModel(T5Config(**t5_sizes(pieces)))).eval(),
        tokenizer=T5Tokenizer.from_pretrained(folder / "made_tokenizer"),
        transformer=make_transformer(kind, seed),
    )
    where = folder / kind.replace(" ", "_")
    pipeline.save_pretrained(where)
    return where
