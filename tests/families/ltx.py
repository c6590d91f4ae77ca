"""Tiny random LTX-Video pipelines, saved by diffusers, with no parameter at zero.

``0.9.0`` decodes without a timestep, ``0.9.1`` with one and with noise in its layers, ``0.9.5`` with one and an encoder
of its own kind. Sizes are unlike diffusers' own tests: three heads of 14, whose 42 channels rotary turns all,
or five, 4 of whose 70 are not; statistics of the latents that are neither 0 nor 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5EncoderModel, T5Tokenizer

from tests.families.parts import t5_config
from tests.families.tokenizers import t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "VAES", "make_autoencoder", "make_ltx", "make_transformer"]

CHANNELS = 6
_TEXT_WIDTH = 20

#: 8 × 8 pixels of 4 frames a latent pixel, and of 0.9.5 16 × 16 of 8.
VAES: dict[str, dict[str, Any]] = {
    "0.9.0": {
        "block_out_channels": (8, 12, 12),
        "decoder_block_out_channels": (8, 12, 12),
        "down_block_types": ("LTXVideoDownBlock3D",) * 3,
        "layers_per_block": (1, 2, 1, 1),
        "decoder_layers_per_block": (1, 1, 2, 1),
        "spatio_temporal_scaling": (True, True, False),
        "decoder_spatio_temporal_scaling": (True, True, False),
        "decoder_inject_noise": (False,) * 4,
        "upsample_residual": (False,) * 3,
        "upsample_factor": (1,) * 3,
        "downsample_type": ("conv",) * 3,
        "patch_size": 2,
    },
    "0.9.1": {
        "block_out_channels": (8, 12, 12),
        "decoder_block_out_channels": (8, 16),
        "down_block_types": ("LTXVideoDownBlock3D",) * 3,
        "layers_per_block": (1, 2, 1, 1),
        "decoder_layers_per_block": (1, 2, 1),
        "spatio_temporal_scaling": (True, True, False),
        "decoder_spatio_temporal_scaling": (True, True),
        "decoder_inject_noise": (False, True, True),
        "upsample_residual": (True, True),
        "upsample_factor": (2, 2),
        "downsample_type": ("conv",) * 3,
        "timestep_conditioning": True,
        "patch_size": 2,
    },
    "0.9.5": {
        "block_out_channels": (8, 16, 16, 32, 32),
        "decoder_block_out_channels": (8, 16, 32),
        "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1),
        "spatio_temporal_scaling": (True,) * 4,
        "decoder_spatio_temporal_scaling": (True,) * 3,
        "decoder_inject_noise": (False,) * 4,
        "upsample_residual": (True,) * 3,
        "upsample_factor": (2,) * 3,
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "timestep_conditioning": True,
        "spatial_compression_ratio": 16,
        "temporal_compression_ratio": 8,
        "patch_size": 2,
    },
}


def make_autoencoder(version: str, **options: Any) -> AutoencoderKLLTXVideo:
    """Return a random autoencoder of the form that ``version`` has."""
    torch.manual_seed(2)
    vae = AutoencoderKLLTXVideo(latent_channels=CHANNELS, **{**VAES[version], **options})
    torch.manual_seed(3)  # encoders of one form are equal, whatever the decoders are
    fill_zeros(vae.encoder, 0.2)
    vae.latents_mean.normal_(std=0.3)
    vae.latents_std.uniform_(0.6, 1.5)
    return fill_zeros(vae, 0.2).eval()


def make_transformer(*, heads: int = 3, head_dim: int = 14, text_width: int = _TEXT_WIDTH, **options: Any) -> Any:
    """Return a random transformer of two blocks."""
    torch.manual_seed(0)
    model = LTXVideoTransformer3DModel(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        cross_attention_dim=heads * head_dim,
        num_layers=2,
        caption_channels=text_width,
        **options,
    )
    return fill_zeros(model).eval()


def make_ltx(folder: Path, version: str = "0.9.0", *, vae: dict[str, Any] | None = None, **options: Any) -> Path:
    """Save an ``LTXPipeline`` of ``version`` and return its folder; ``options`` are the transformer's."""
    pieces = t5_tokenizer(folder / "tokenizer", model_max_length=128)
    torch.manual_seed(1)
    text_encoder = T5EncoderModel(t5_config(pieces, _TEXT_WIDTH)).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=16,  # 1024 in released folders, whose videos have a hundred times the tokens
        max_image_seq_len=256,
        shift_terminal=0.1,
    )
    LTXPipeline(
        scheduler=scheduler,
        vae=make_autoencoder(version, **(vae or {})),
        text_encoder=text_encoder,
        tokenizer=T5Tokenizer.from_pretrained(folder / "tokenizer"),
        transformer=make_transformer(**options),
    ).save_pretrained(folder)
    return folder
