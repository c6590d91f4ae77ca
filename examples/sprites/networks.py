"""The parts of the pipeline and their folder on disk: the project's own SpacetimeDiT, the rest of other libraries.

The VAE is diffusers' `AutoencoderKLWan` (Wan 2.1, arXiv:2503.20314) in small: causal in time, the first frame alone,
then four frames to one of latents.
"""

from __future__ import annotations

import os
import shutil
import string
from collections.abc import Iterable
from pathlib import Path

import diffusers
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from shared import build_t5, save_tensors, write_json
from torch import nn
from transformers import T5EncoderModel, T5TokenizerFast

from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig

LATENT_CHANNELS = 16
PATCH = 2
"""Pixels on a side that the VAE takes as one, with their colours as channels."""

LATENT_SIZE = (5, 8, 8)
"""Of a clip: 1 + 16 / 4 frames, 64 pixels / 8."""

TOKENS = 16
"""Tokens that captions are padded to; the longest has 9."""

FRAME_RATE = 8
"""Of playback: a clip lasts two seconds."""

SHIFT = 5.0
"""Of the noise levels towards noise (Esser et al. 2024, arXiv:2403.03206, section 5.3.2): what moves where is decided
early, and then only sprites are drawn."""


def build_vae() -> AutoencoderKLWan:
    """A fresh VAE: clips [n, 3, 17, 64, 64] in [-1, 1] <-> latents [n, 16, 5, 8, 8]."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        patch_size=PATCH,
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        scale_factor_spatial=8,
    )


def build_text_encoder(vocabulary: int) -> T5EncoderModel:
    """A fresh T5 encoder: input_ids [n, tokens] -> hidden states [n, tokens, 128]."""
    return build_t5(vocabulary, width=128, heads=4, feed_forward=256)


def build_dit(text_width: int) -> SpacetimeDiT:
    """A fresh DiT: latents [n, 16, 5, 8, 8], timestep [n] in 0..1000, text and its mask -> velocity, as the latents."""
    return SpacetimeDiT(
        SpacetimeDiTConfig(
            hidden_size=192,
            depth=6,
            num_heads=6,
            in_channels=LATENT_CHANNELS,
            text_width=text_width,
            patch_size=(1, 2, 2),
            positions="both",
            sample_size=LATENT_SIZE,
        )
    )


def build_tokenizer(captions: Iterable[str]) -> T5TokenizerFast:
    """A T5 tokenizer whose pieces are the captions' words, and single characters for all others."""
    words = sorted({word for caption in captions for word in caption.split()})
    letters = [one for one in string.printable if not one.isspace() and not one.isupper()]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -1.0) for word in words)]
    pieces += [(letter, -10.0) for letter in ("\u2581", *letters)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TOKENS)


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The sampler: Euler steps along the flow, timesteps 1000 to 0."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT)


def save_weights(
    module: nn.Module,
    folder: Path,
    name: str = "diffusion_pytorch_model.safetensors",
    left_out: tuple[str, ...] = (),
) -> None:
    """Write a network's weights in float16 into its folder, whole files only: a reader never sees half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (name + ".partial")
    save_tensors(module, partial, left_out=left_out)
    os.replace(partial, folder / name)


def save_vae(vae: AutoencoderKLWan, folder: Path) -> None:
    """Write the VAE as diffusers would."""
    shutil.rmtree(folder, ignore_errors=True)
    vae.save_config(str(folder))
    save_weights(vae, folder)


def save_dit(dit: SpacetimeDiT, folder: Path) -> None:
    """Write the DiT: `config.json` and its weights."""
    save_weights(dit, folder)
    write_json(dit.config.to_dict(), folder / "config.json")


def save_text(tokenizer: T5TokenizerFast, text_encoder: T5EncoderModel, folder: Path) -> None:
    """Write the tokenizer and the text encoder to the pipeline's folder, as transformers would."""
    tokenizer.save_pretrained(folder / "tokenizer")
    text_encoder.config.save_pretrained(folder / "text_encoder")
    shared = nn.ModuleDict({"shared": text_encoder.shared, "encoder": text_encoder.encoder})
    # T5 holds its embedding under two names; transformers stores the first.
    save_weights(shared, folder / "text_encoder", "model.safetensors", left_out=("encoder.embed_tokens.weight",))


def save_index(folder: Path) -> None:
    """Write the pipeline's `model_index.json` and its scheduler's folder."""
    build_scheduler().save_config(str(folder / "scheduler"))
    index = {
        "_class_name": "SpacetimeDiTPipeline",
        "_diffusers_version": diffusers.__version__,
        "frame_rate": FRAME_RATE,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["dit_deploy", "SpacetimeDiT"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    write_json(index, folder / "model_index.json")
