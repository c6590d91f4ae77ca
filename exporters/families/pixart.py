"""PixArt-α (Chen et al. 2023, arXiv 2310.00426) and PixArt-Σ (Chen et al. 2024, arXiv 2403.04692).

The DiT of the paper with cross-attention to T5 and one adaLN for all blocks. The network is diffusers' own but for
what it computes in Python: the position table, the conditions by size, the mask's shape, and the last reshape.

Two things that the pipelines do beside the model are left to the caller: a prompt's ``clean_caption`` (it takes away
links and the like), and ``use_resolution_binning``, which draws at the nearest size of a list and resizes the picture.
Here a picture is drawn at the size that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Guidance, Latents, PromptEncoder, Prompts, Scheduler
from dit_deploy.bundle.manifest import Component
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._attention import Attention
from dit_deploy.exporters.families._folder import check_tokens, check_width, learns_variance, read_record
from dit_deploy.exporters.families._patches import unpatchified
from dit_deploy.exporters.families.dit import geometric_frequencies, sincos_positions
from dit_deploy.exporters.masks import key_bias
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import t5
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["PixArt", "open_pipeline"]

#: Tokens of a prompt, ``max_sequence_length`` of each pipeline.
_TOKENS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
#: The class of the transformer when the official folders were saved.
_FORMER_CLASS = "Transformer2DModel"
#: Channels of the sinusoid of a timestep, a side, or an aspect ratio.
_SINUSOID = 256


def open_pipeline(folder: Path, *, max_sequence_length: int | None = None) -> Source:
    """Open a folder that ``PixArtAlphaPipeline`` or ``PixArtSigmaPipeline`` saved.

    Args:
        max_sequence_length: tokens of a prompt, the pipeline's usual number by default.

    Raises:
        SourceError: a part is missing, or the parts do not fit each other.
    """
    usual = _TOKENS[str(files.read_json(folder / "model_index.json")["_class_name"])]
    tokens = check_tokens(usual if max_sequence_length is None else max_sequence_length)
    transformer, vae, text_encoder = folder / "transformer", folder / "vae", folder / "text_encoder"
    config = read_config(PixArtTransformer2DModel, transformer, _FORMER_CLASS)
    record = read_record(folder, "transformer", "vae", "text_encoder")
    scheduler_config = record["scheduler_config"]
    channels, patch, size = (int(config[name]) for name in ("in_channels", "patch_size", "sample_size"))
    halves, (compression, scale, shift) = autoencoders.graphs(vae, channels, size)
    if shift:
        raise SourceError(f"{vae} has shift_factor {shift}, which PixArt's pipelines do not apply")
    encoder = t5.graph(
        text_encoder, "text_encoder", tokens=tokens, attends_mask=True, mask_output="encoder_attention_mask"
    )
    check_width(folder, encoder, _text_width(config), "caption_channels or cross_attention_dim")
    variance = learns_variance(transformer, config)
    denoiser = Graph(
        "denoiser",
        _component(config, scheduler_config, variance),
        lambda: PixArt(_load(transformer), compression),
        {"batch": 2, "sequence_length": tokens, "patch_height": size // patch, "patch_width": size // patch},
        reference=lambda: _Reference(_load(transformer), compression),
        feeds=parts.mask_feeds(),
    )
    return Source(
        family="pixart",
        **record,
        graphs=(encoder, *halves, denoiser),
        latents=Latents(
            channels=channels,
            height=size,
            width=size,
            patch_size=patch,
            spatial_compression=compression,
            scaling_factor=scale,
        ),
        prediction=parts.read_prediction(scheduler_config, variance=variance),
        guidance=Guidance(kind="classifier_free", default_scale=4.5),
        scheduler=Scheduler(num_inference_steps=20),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder", tokenizer="tokenizer/tokenizer.json", cleaning=("lowercase", "strip")
                ),
            )
        ),
        files={"tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=tokens)},
        notes=(
            "prompts are lowercased and stripped, not cleaned of links and the like (clean_caption); pictures have the "
            "size that is asked for (use_resolution_binning=False)",
        ),
    )


def _load(folder: Path) -> PixArtTransformer2DModel:
    return load_diffusers(PixArtTransformer2DModel, folder, _FORMER_CLASS)


def _text_width(config: Mapping[str, Any]) -> int:
    """Return the width of the hidden states that the transformer takes."""
    if config["cross_attention_dim"] is None:
        raise SourceError("a PixArtTransformer2DModel without cross_attention_dim takes no text")
    return int(config["caption_channels"] or config["cross_attention_dim"])


def _component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any], variance: bool) -> Component:
    channels, patch = int(config["in_channels"]), int(config["patch_size"])
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            parts.latents_tensor(channels, patch),
            parts.timestep_tensor(scheduler_config),
            parts.text_tensor(_text_width(config)),
            parts.mask_tensor(),
        ),
        outputs=parts.output_tensors(channels, patch, variance=variance),
    )


class PixArt(nn.Module):
    """The denoiser: diffusers' transformer with all that depends on sizes computed from the latents' own.

    Args:
        transformer: is changed: its attention is replaced.
        compression: pixels that one latent pixel stands for along an axis.
    """

    position_frequencies: Tensor

    def __init__(self, transformer: PixArtTransformer2DModel, compression: int) -> None:
        super().__init__()
        self.transformer, self.compression = transformer, compression
        transformer.set_attn_processor(Attention())
        self.out_channels = transformer.out_channels
        self.learned_variance = transformer.out_channels == 2 * transformer.config.in_channels
        embed = transformer.pos_embed
        self.base_size = embed.base_size / embed.interpolation_scale
        self.register_buffer("position_frequencies", geometric_frequencies(transformer.inner_dim // 4), False)
        self.sinusoid = Sinusoid(_SINUSOID)

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Predict the noise, and with learned variance the variance too.

        Args:
            latents: [batch, channels, height, width]; height and width are multiples of the patch size.
            timestep: [batch], a training index.
            encoder_hidden_states: [batch, tokens, caption channels].
            encoder_attention_mask: int64 [batch, tokens], 1 where a token is.

        Returns:
            ``prediction`` and, with learned variance, ``variance``; both shaped like ``latents``.
        """
        network, patch = self.transformer, self.transformer.config.patch_size
        patches = network.pos_embed.proj(latents)  # [batch, hidden, patch_height, patch_width]
        height, width = patches.shape[2], patches.shape[3]
        x = patches.flatten(2).transpose(1, 2)  # [batch, patches, hidden]
        x = x + sincos_positions(height, width, self.position_frequencies, self.base_size)

        embedded = self._embed(timestep, latents.shape[2], latents.shape[3])  # [batch, hidden]
        modulation = network.adaln_single.linear(F.silu(embedded))  # [batch, 6 · hidden]
        text = encoder_hidden_states
        if network.caption_projection is not None:
            text = network.caption_projection(text)
        bias = key_bias(encoder_attention_mask, height * width, x.dtype)  # [batch, 1, patches, tokens]

        for block in network.transformer_blocks:
            x = block(x, encoder_hidden_states=text, encoder_attention_mask=bias, timestep=modulation)

        shift, scale = (network.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        x = network.proj_out(network.norm_out(x) * (1 + scale) + shift)
        x = unpatchified(x, height, width, patch, self.out_channels)
        return x.chunk(2, dim=1) if self.learned_variance else (x,)

    def _embed(self, timestep: Tensor, height: int, width: int) -> Tensor:
        """Return the conditioning [batch, hidden]: of the timestep, and of α's large models the size too."""
        embedder = self.transformer.adaln_single.emb
        embedded = embedder.timestep_embedder(self.sinusoid(timestep))
        if not embedder.use_additional_conditions:
            return embedded
        sides = [torch.full((1,), side * self.compression, dtype=torch.float32) for side in (height, width)]
        resolution = embedder.resolution_embedder(self.sinusoid(torch.cat(sides)))  # [2, hidden / 3]
        aspect_ratio = embedder.aspect_ratio_embedder(self.sinusoid(sides[0] / sides[1]))  # [1, hidden / 3]
        return embedded + torch.cat([resolution.reshape(1, -1), aspect_ratio], dim=1)


class _Reference(nn.Module):
    """The transformer of diffusers, called as the pipelines call it."""

    def __init__(self, transformer: PixArtTransformer2DModel, compression: int) -> None:
        super().__init__()
        self.transformer, self.compression = transformer, compression

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor, ...]:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.transformer.use_additional_conditions:
            batch, height, width = len(latents), *(side * self.compression for side in latents.shape[2:])
            sizes["resolution"] = torch.tensor([height, width]).repeat(batch, 1).float()
            sizes["aspect_ratio"] = torch.tensor([height / width]).repeat(batch, 1)
        output = self.transformer(
            latents,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            timestep=timestep,
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        doubled = output.shape[1] == 2 * latents.shape[1]
        return tuple(output.chunk(2, dim=1)) if doubled else (output,)
