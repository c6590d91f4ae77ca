"""The four networks in the classes of diffusers and transformers, and their folder on disk: a PixArt-Σ pipeline.

PixArt (Chen et al. 2023, arXiv:2310.00426) is the DiT with a cross-attention to text in each block and one modulation
for all of them. The sizes here are small; the layout is that of `PixArtSigmaPipeline`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import tokenizers
from data import IMAGE_SIZE
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtTransformer2DModel
from shared import build_t5, initialise_linears, save_tensors, whole_folder, write_json
from tokenizers import models, pre_tokenizers, trainers
from torch import nn
from transformers import T5EncoderModel, T5TokenizerFast

LATENT_CHANNELS = 8
LATENT_SIZE = 16
"""Side of the latents: 64 pixels / 4."""

VOCABULARY = 2048
"""Ids of the tokenizer, at most."""

MAX_TOKENS = 24
"""Tokens that captions are padded to in training, the longest has 23; the pipeline itself takes up to 300."""

TRAIN_TIMESTEPS = 1000
BETA_START = 1e-4
BETA_END = 0.02


def build_vae() -> AutoencoderKL:
    """A fresh VAE: images [n, 3, 64, 64] in [-1, 1] <-> latents [n, 8, 16, 16]."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 112),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
    )


def build_dit(text_width: int, width: int = 288, layers: int = 6, head_dim: int = 24) -> PixArtTransformer2DModel:
    """A fresh DiT: latents [n, 8, 16, 16], text [n, tokens, text_width], timestep [n] in 0..999 -> v [n, 8, 16, 16]."""
    dit = PixArtTransformer2DModel(
        num_attention_heads=width // head_dim,
        attention_head_dim=head_dim,
        cross_attention_dim=width,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        sample_size=LATENT_SIZE,
        patch_size=2,
        caption_channels=text_width,
        use_additional_conditions=False,
    )
    _initialise(dit)
    return dit


def _initialise(dit: PixArtTransformer2DModel) -> None:
    """PixArt's initialisation: Xavier for linears, N(0, 0.02) for embedders, zero at each cross-attention's end."""
    initialise_linears(dit)
    embedder = dit.adaln_single.emb.timestep_embedder
    for linear in (
        embedder.linear_1,
        embedder.linear_2,
        dit.adaln_single.linear,
        dit.caption_projection.linear_1,
        dit.caption_projection.linear_2,
    ):
        nn.init.normal_(linear.weight, std=0.02)
    for linear in (*(block.attn2.to_out[0] for block in dit.transformer_blocks), dit.proj_out):
        nn.init.zeros_(linear.weight)


def build_text_encoder(vocabulary: int) -> T5EncoderModel:
    """A fresh T5 encoder: input_ids [n, tokens] -> hidden states [n, tokens, 160]."""
    return build_t5(vocabulary, width=160, heads=5, feed_forward=320)


def train_tokenizer(captions: Iterable[str]) -> T5TokenizerFast:
    """A T5 tokenizer with Unigram pieces (Kudo 2018, arXiv:1804.10959) of the captions."""
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - 2,  # beside <pad> and </s>
        unk_token="<unk>",
        special_tokens=["<unk>"],
        initial_alphabet=[chr(code) for code in range(33, 127) if not chr(code).isupper()],
        show_progress=False,
    )
    trained.train_from_iterator(captions, trainer)
    scores = json.loads(trained.to_str())["model"]["vocab"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece, score) for piece, score in scores if piece != "<unk>"]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=300)


def build_scheduler() -> DPMSolverMultistepScheduler:
    """The sampler, PixArt's, with the schedule trained with: linear betas, 1000 steps, v prediction."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="linear",
        prediction_type="v_prediction",
    )


def save_component(component: Any, folder: Path) -> None:
    """Write one part of the pipeline to `folder`, whole files only; weights are stored in float16."""
    with whole_folder(folder) as partial:
        if isinstance(component, T5TokenizerFast):
            component.save_pretrained(partial)
        elif isinstance(component, T5EncoderModel):
            component.config.save_pretrained(partial)
            # T5 holds its embedding under two names; transformers stores the first.
            save_tensors(component, partial / "model.safetensors", left_out=("encoder.embed_tokens.weight",))
        else:
            component.save_config(str(partial))
            if isinstance(component, nn.Module):
                save_tensors(component, partial / "diffusion_pytorch_model.safetensors")


def save_index(folder: Path) -> None:
    """Write the pipeline's `model_index.json` and its scheduler's folder."""
    save_component(build_scheduler(), folder / "scheduler")
    index = {
        "_class_name": "PixArtSigmaPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(index, folder / "model_index.json")
