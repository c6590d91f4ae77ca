"""Sana (Xie et al. 2024, arXiv 2410.10629): linear attention over the image, convolutions between, a language model.

Prompts are read by Gemma 2 behind a long instruction, of which the first token stays and the rest is dropped. The
network is diffusers' own but for what it computes in Python: the position table of the largest models, the shape of the
text's mask, and sizes.

Two things that the pipeline does beside the model are left to the caller: a prompt's ``clean_caption`` (it takes away
links and the like), and ``use_resolution_binning``, which draws at the nearest size of a list and resizes the picture.
Here a picture is drawn at the size that is asked for.

ReLU linear attention is discontinuous where a query vanishes: it gives 0 where no channel of a query is positive, and a
mean of values as soon as one is, however small. There roundings alone move a picture, diffusers' own on another
machine, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import SanaPipeline, SanaTransformer2DModel
from torch import Tensor, nn

from dit_deploy.bundle import Guidance, Latents, PromptEncoder, Prompts, Scheduler
from dit_deploy.bundle.manifest import Component
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_dc
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._attention import Attention, heads, normed
from dit_deploy.exporters.families._folder import check_width, learns_variance, read_record
from dit_deploy.exporters.families._patches import unpatchified
from dit_deploy.exporters.families.dit import geometric_frequencies, sincos_positions
from dit_deploy.exporters.linear_attention import relu_linear_attention
from dit_deploy.exporters.masks import key_bias
from dit_deploy.exporters.modules import load_diffusers
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import gemma
from dit_deploy.exporters.tokenizers import load_tokenizer, tokenizer_json

__all__ = ["Sana", "open_pipeline"]


def open_pipeline(folder: Path) -> Source:
    """Open a folder that ``SanaPipeline`` saved.

    Raises:
        SourceError: a part is missing, or the parts do not fit each other.
    """
    transformer, vae, text_encoder = folder / "transformer", folder / "vae", folder / "text_encoder"
    config = dict(_load(transformer).config)  # with its weights: those that do not fit are told now
    _check_config(transformer, config)
    record = read_record(folder, "transformer", "vae", "text_encoder")
    scheduler_config = record["scheduler_config"]
    channels, patch, size = (int(config[name]) for name in ("in_channels", "patch_size", "sample_size"))
    halves, (compression, scale) = autoencoder_dc.graphs(vae, channels, size)
    tokens: int = _default("max_sequence_length")
    instruction = "\n".join(_default("complex_human_instruction"))
    # The instruction's start token and one more of its own are counted among the prompt's tokens.
    length = len(load_tokenizer(folder / "tokenizer").encode(instruction)) + tokens - 2
    encoder = gemma.graph(
        text_encoder, "text_encoder", tokens=length, mask_output="encoder_attention_mask", keep=tokens
    )
    check_width(folder, encoder, int(config["caption_channels"]), "caption_channels")
    denoiser = Graph(
        "denoiser",
        Component(
            path="denoiser/model.onnx",
            inputs=(
                parts.latents_tensor(channels, patch),
                parts.timestep_tensor(scheduler_config),
                parts.text_tensor(int(config["caption_channels"])),
                parts.mask_tensor(),
            ),
            outputs=parts.output_tensors(channels, patch),
        ),
        lambda: Sana(_load(transformer)),
        {"batch": 2, "sequence_length": tokens, "patch_height": size // patch, "patch_width": size // patch},
        reference=lambda: _Reference(_load(transformer)),
        feeds=parts.mask_feeds(),
    )
    return Source(
        family="sana",
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
        # Schedulers of flow matching know one type only, and their configs do not name it.
        prediction=parts.read_prediction({"prediction_type": "flow_prediction", **scheduler_config}),
        guidance=Guidance(kind="classifier_free", default_scale=_default("guidance_scale")),
        scheduler=Scheduler(num_inference_steps=_default("num_inference_steps")),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer/tokenizer.json",
                    negative_tokenizer="tokenizer/negative.json",
                    cleaning=("lowercase", "strip"),
                    prompt_template=instruction + "{}",
                ),
            )
        ),
        files={
            "tokenizer/tokenizer.json": lambda: _tokenizer(folder, length),
            "tokenizer/negative.json": lambda: _tokenizer(folder, tokens),
        },
        notes=(
            "prompts are lowercased and stripped, not cleaned of links and the like (clean_caption); pictures have the "
            "size that is asked for (use_resolution_binning=False)",
        ),
    )


def _load(folder: Path) -> SanaTransformer2DModel:
    return load_diffusers(SanaTransformer2DModel, folder)


def _tokenizer(folder: Path, length: int) -> bytes:
    return tokenizer_json(folder / "tokenizer", length=length, padding_side="right")


def _default(argument: str) -> Any:
    """Return the default of an argument of diffusers' pipeline."""
    return inspect.signature(SanaPipeline.__call__).parameters[argument].default


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise :class:`SourceError` for a transformer that ``SanaPipeline`` cannot draw with."""
    if config["guidance_embeds"]:
        raise SourceError(f"{folder} embeds its guidance, as SanaSprintPipeline's does; SanaPipeline gives it none")
    if config["cross_attention_dim"] is None:
        raise SourceError(f"{folder} has no cross_attention_dim, so it takes no text")
    learns_variance(folder, config)  # which may be; the pipeline drops it


class Sana(nn.Module):
    """The denoiser: diffusers' transformer with all that depends on sizes computed from the latents' own.

    Args:
        transformer: is changed: its attention and the sinusoids of its timestep are replaced.
    """

    position_frequencies: Tensor

    def __init__(self, transformer: SanaTransformer2DModel) -> None:
        super().__init__()
        transformer.time_embed.emb.time_proj = Sinusoid(transformer.time_embed.emb.time_proj.num_channels)
        for block in transformer.transformer_blocks:
            block.attn1.set_processor(_LinearAttention())
            block.attn2.set_processor(Attention())
        self.transformer = transformer
        config, embed = transformer.config, transformer.patch_embed
        self.base_size = embed.base_size / embed.interpolation_scale if embed.pos_embed is not None else None
        width = config.num_attention_heads * config.attention_head_dim
        self.register_buffer("position_frequencies", geometric_frequencies(width // 4), False)

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, height, width]; height and width are multiples of the patch size.
            timestep: [batch], a training index.
            encoder_hidden_states: [batch, tokens, caption channels].
            encoder_attention_mask: int64 [batch, tokens], 1 where a token is.

        Returns:
            the prediction, shaped like ``latents``; a learned variance is dropped, as the pipeline does.
        """
        network, patch, channels = self.transformer, self.transformer.config.patch_size, latents.shape[1]
        patches = network.patch_embed.proj(latents)  # [batch, hidden, patch_height, patch_width]
        height, width = patches.shape[2], patches.shape[3]
        x = patches.flatten(2).transpose(1, 2)  # [batch, patches, hidden]
        if self.base_size is not None:
            x = x + sincos_positions(height, width, self.position_frequencies, self.base_size)

        scaled = timestep * network.config.timestep_scale
        modulation, embedded = network.time_embed(scaled, hidden_dtype=x.dtype)  # [batch, 6 · hidden], [batch, hidden]
        text = network.caption_norm(network.caption_projection(encoder_hidden_states))
        bias = key_bias(encoder_attention_mask, height * width, x.dtype)  # [batch, 1, patches, tokens]

        for block in network.transformer_blocks:
            x = block(x, None, text, bias, modulation, height, width)

        x = network.proj_out(network.norm_out(x, embedded, network.scale_shift_table))
        x = unpatchified(x, height, width, patch, x.shape[2] // patch**2)  # [batch, channels or twice as many, …]
        return (x[:, :channels],)


class _LinearAttention:
    """diffusers' ``SanaLinearAttnProcessor2_0``, safe where queries vanish."""

    def __call__(self, attn: Any, hidden_states: Tensor, **_: None) -> Tensor:
        q, k = normed(attn.norm_q, attn.to_q(hidden_states)), normed(attn.norm_k, attn.to_k(hidden_states))
        q, k, v = (heads(one, attn.heads).permute(0, 2, 3, 1) for one in (q, k, attn.to_v(hidden_states)))
        x = relu_linear_attention(q, k, v)  # [batch, heads, head, tokens]
        return attn.to_out[0](x.permute(0, 3, 1, 2).flatten(2))


class _Reference(nn.Module):
    """The transformer of diffusers, called as the pipeline calls it."""

    def __init__(self, transformer: SanaTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        output = self.transformer(
            latents,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            timestep=timestep * self.transformer.config.timestep_scale,
            return_dict=False,
        )[0]
        return (output[:, : latents.shape[1]],)
