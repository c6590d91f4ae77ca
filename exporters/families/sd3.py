"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): joint blocks over image and text tokens.

Two CLIPs and a T5 read the same prompt; a component ``conditions`` joins what they give as the pipeline does. T5 may be
left out of a folder, as it is large: the pipeline puts zeros in its place, and so does the join.

The denoiser takes which blocks to leave out as an input, so that skip-layer guidance is a third call of the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import (
    Axis,
    Component,
    Guidance,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
    TensorSpec,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._folder import check_tokens, read_record
from dit_deploy.exporters.families._patches import unpatchified
from dit_deploy.exporters.modules import load_diffusers
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Feeds, Graph, Source
from dit_deploy.exporters.text_encoders import clip, t5
from dit_deploy.exporters.tokenizers import max_length, tokenizer_json

__all__ = ["Denoiser", "JoinedConditions", "denoiser_component", "open_pipeline"]

#: Tokens of T5, the pipeline's default, which it pads to and gives no mask of; and the most that it takes.
_T5_TOKENS, _MOST_T5_TOKENS = 256, 512
#: Largest patch grid at which the denoiser is proved: training size on a CPU would take an hour of an 8-billion model.
_PROVED = 16
_BATCH = Axis(name="batch")


def open_pipeline(folder: Path, *, max_sequence_length: int = _T5_TOKENS, clip_skip: int = 0) -> Source:
    """Open a ``StableDiffusion3Pipeline`` folder, with T5 or without.

    Args:
        max_sequence_length: tokens of T5, 256 by default, 512 at most.
        clip_skip: layers of both CLIPs that are left out beside the last; for negative prompts too, where diffusers
            leaves none out.

    Raises:
        SourceError: a part is missing, or parts do not fit each other.
    """
    index = files.read_json(folder / "model_index.json")
    transformer, vae = folder / "transformer", folder / "vae"
    config = dict(_load(transformer).config)  # with its weights: those that do not fit are told now
    channels, patch, size = (int(config[name]) for name in ("in_channels", "patch_size", "sample_size"))
    _check_layout(transformer, config)
    halves, (compression, scale, shift) = autoencoders.graphs(vae, channels, 2 * _PROVED)

    t5_tokens = check_tokens(max_sequence_length, _MOST_T5_TOKENS)
    # Both CLIPs get as many tokens as the first one's tokenizer has.
    tokens = max_length(folder / "tokenizer")
    has_t5 = any(index.get("text_encoder_3") or ())
    encoders = _clips(folder, tokens, clip_skip)
    if has_t5:
        encoders.append(
            t5.graph(
                folder / "text_encoder_3",
                "text_encoder_3",
                tokens=t5_tokens,
                output="prompt_embeds_3",
                attends_mask=False,
            )
        )
    conditions = _conditions(folder, encoders, (tokens, tokens, t5_tokens), config)
    names = [graph.name for graph in encoders]
    record = read_record(folder, "transformer", "vae", *names)
    tokenizers = {name: f"{name.replace('text_encoder', 'tokenizer')}/tokenizer.json" for name in names}
    grid = min(size // patch, _PROVED)
    denoiser = Graph(
        "denoiser",
        denoiser_component(config, record["scheduler_config"]),
        lambda: Denoiser(_load(transformer)).eval(),
        {"batch": 2, "sequence_length": tokens + t5_tokens, "patch_height": grid, "patch_width": grid},
        reference=lambda: _Reference(_load(transformer)),
        feeds=_skip_feeds(int(config["num_layers"])),
    )
    return Source(
        family="sd3",
        **record,
        graphs=(*encoders, conditions, *halves, denoiser),
        latents=Latents(
            channels=channels,
            height=size,
            width=size,
            patch_size=patch,
            spatial_compression=compression,
            scaling_factor=scale,
            shift_factor=shift,
        ),
        prediction=Prediction(type="flow_prediction"),
        guidance=Guidance(kind="classifier_free", default_scale=7.0, skip_layers="skip_layers"),
        scheduler=Scheduler(num_inference_steps=28, strength="rounded_up"),
        prompts=Prompts(
            encoders=tuple(PromptEncoder(component=name, tokenizer=tokenizers[name]) for name in names),
            join="conditions",
        ),
        files={
            path: _tokenizer(folder / Path(path).parent, t5_tokens if name == "text_encoder_3" else tokens)
            for name, path in tokenizers.items()
        },
        notes=() if has_t5 else ("the folder has no text_encoder_3 (T5): prompts are read by both CLIPs alone",),
    )


def denoiser_component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    """Declare the denoiser's inputs and outputs; ``config`` is the transformer's."""
    channels, patch, limit = (int(config[name]) for name in ("in_channels", "patch_size", "pos_embed_max_size"))
    inputs = (
        parts.latents_tensor(channels, patch, limit=limit),
        parts.timestep_tensor(scheduler_config),
        parts.text_tensor(int(config["joint_attention_dim"])),
        parts.pooled_tensor(int(config["pooled_projection_dim"])),
        TensorSpec(
            name="skip_layers",
            dtype="int64",
            axes=(_BATCH, int(config["num_layers"])),
            minimum=0,
            maximum=1,
            description="1 for a block that is left out",
        ),
    )
    outputs = parts.output_tensors(channels, patch, limit=limit)
    return Component(path="denoiser/model.onnx", inputs=inputs, outputs=outputs)


class Denoiser(nn.Module):
    """diffusers' transformer, its positions cropped from symbolic sizes, and any of its blocks left out by an input.

    Args:
        transformer: is changed: its position table and its time embedding are replaced.
    """

    positions: Tensor

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        embed = transformer.pos_embed
        side = embed.pos_embed_max_size
        # [side, side, hidden], without a copy; what is trained, or was before it was stored
        self.register_buffer("positions", embed.pos_embed.view(side, side, -1), persistent=False)
        del embed.pos_embed
        transformer.time_text_embed.time_proj = Sinusoid(transformer.time_text_embed.time_proj.num_channels)
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        skip_layers: Tensor,
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, height, width]; height and width are multiples of the patch size, and have at
                most ``pos_embed_max_size`` patches.
            timestep: [batch], sigma · 1000.
            encoder_hidden_states: [batch, tokens, joint_attention_dim].
            pooled_projections: [batch, pooled_projection_dim].
            skip_layers: int64 [batch, num_layers], 1 for a block that is left out.

        Returns:
            the prediction, shaped like ``latents``.
        """
        network, patch = self.transformer, self.transformer.config.patch_size
        patches = network.pos_embed.proj(latents)  # [batch, hidden, patch_height, patch_width]
        height, width = patches.shape[2], patches.shape[3]
        x = patches.flatten(2).transpose(1, 2) + self._cropped(height, width)  # [batch, patches, hidden]
        embedded = network.time_text_embed(timestep, pooled_projections)  # [batch, hidden]
        text = network.context_embedder(encoder_hidden_states)  # [batch, tokens, hidden]
        for index, block in enumerate(network.transformer_blocks):
            skipped = skip_layers[:, index, None, None] > 0
            new_text, new_x = block(hidden_states=x, encoder_hidden_states=text, temb=embedded)
            x = torch.where(skipped, x, new_x)
            if new_text is not None:  # the last block makes none
                text = torch.where(skipped, text, new_text)
        x = network.proj_out(network.norm_out(x, embedded))
        return (unpatchified(x, height, width, patch, network.out_channels),)

    def _cropped(self, height: int, width: int) -> Tensor:
        """Return the middle of the position table, [1, height · width, hidden]; an odd rest is below and right."""
        side = self.positions.shape[0]
        rows = torch.arange(height) + (side - height) // 2
        columns = torch.arange(width) + (side - width) // 2
        return self.positions[rows][:, columns].flatten(0, 1)[None]


class JoinedConditions(nn.Module):
    """Hidden states of both CLIPs side by side, widened with zeros, then T5's; both pooled states side by side.

    Args:
        width: of the joined states, T5's.
        t5_tokens: how many zeros stand for T5 where there is none.
    """

    def __init__(self, width: int, t5_tokens: int) -> None:
        super().__init__()
        self.width, self.t5_tokens = width, t5_tokens

    def forward(
        self,
        prompt_embeds: Tensor,
        pooled_prompt_embeds: Tensor,
        prompt_embeds_2: Tensor,
        pooled_prompt_embeds_2: Tensor,
        prompt_embeds_3: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return hidden states [batch, CLIP's and T5's tokens, width] and pooled projections [batch, …]."""
        both = torch.cat([prompt_embeds, prompt_embeds_2], dim=2)
        both = F.pad(both, (0, self.width - both.shape[2]))
        if prompt_embeds_3 is None:
            states = F.pad(both, (0, 0, 0, self.t5_tokens))
        else:
            states = torch.cat([both, prompt_embeds_3], dim=1)
        return states, torch.cat([pooled_prompt_embeds, pooled_prompt_embeds_2], dim=1)


def _load(folder: Path) -> SD3Transformer2DModel:
    return load_diffusers(SD3Transformer2DModel, folder)


def _clips(folder: Path, tokens: int, skipped: int) -> list[Graph]:
    """Return the graphs of both CLIPs; their outputs are called as in ``encode_prompt``."""
    if skipped < 0:
        raise SourceError(f"--clip-skip: {skipped} came, 0 or more layers were expected")
    return [
        clip.graph(
            folder / f"text_encoder{suffix}",
            f"text_encoder{suffix}",
            tokens=tokens,
            hidden_output=f"prompt_embeds{suffix}",
            hidden_layer=-2 - skipped,
            pooled_output=f"pooled_prompt_embeds{suffix}",
            projection=True,
        )
        for suffix in ("", "_2")
    ]


def _conditions(folder: Path, encoders: list[Graph], lengths: tuple[int, int, int], config: Mapping[str, Any]) -> Graph:
    """Return the graph that joins the encoders' outputs; :class:`SourceError` where they do not fit the transformer.

    ``lengths`` are the tokens of both CLIPs and of T5.
    """
    width, pooled_width = int(config["joint_attention_dim"]), int(config["pooled_projection_dim"])
    inputs = []
    for graph, length in zip(encoders, lengths, strict=False):
        for spec in graph.component.outputs:
            axes = (_BATCH, length, spec.axes[2]) if len(spec.axes) == 3 else spec.axes
            inputs.append(TensorSpec(name=spec.name, dtype=spec.dtype, axes=axes))
    widths = {spec.name: int(spec.axes[-1]) for spec in inputs}  # type: ignore[arg-type]
    both = widths["prompt_embeds"] + widths["prompt_embeds_2"]
    pooled = widths["pooled_prompt_embeds"] + widths["pooled_prompt_embeds_2"]
    last = widths.get("prompt_embeds_3", width)
    for made, fits, where, key in (
        (both, both <= width, "text_encoder and text_encoder_2 together make", "joint_attention_dim"),
        (last, last == width, "text_encoder_3 makes", "joint_attention_dim"),
        (pooled, pooled == pooled_width, "text_encoder and text_encoder_2 together pool", "pooled_projection_dim"),
    ):
        if not fits:
            raise SourceError(
                f"{folder}: {where} {made} channels, the transformer's {key} is {config[key]}; they do not belong "
                "together"
            )
    outputs = (
        parts.text_tensor(width, tokens=lengths[0] + lengths[2]),
        parts.pooled_tensor(pooled_width),
    )
    component = Component(path="conditions/model.onnx", inputs=tuple(inputs), outputs=outputs)
    return Graph("conditions", component, lambda: JoinedConditions(width, lengths[2]), {"batch": 4})


def _tokenizer(folder: Path, tokens: int) -> Callable[[], bytes]:
    return lambda: tokenizer_json(folder, length=tokens)


def _check_layout(folder: Path, config: Mapping[str, Any]) -> None:
    channels, out = config["in_channels"], config["out_channels"] or config["in_channels"]
    if not config["pos_embed_max_size"]:
        raise SourceError(f"{folder} has no pos_embed_max_size: without a table to crop it is no Stable Diffusion 3")
    if out != channels:
        raise SourceError(f"{folder} has {channels} channels in and {out} out; expected as many out as in")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    if config["caption_projection_dim"] != width:
        raise SourceError(
            f"{folder} has caption_projection_dim {config['caption_projection_dim']}; joint blocks of "
            f"{config['num_attention_heads']} heads of {config['attention_head_dim']} need {width}"
        )


def _skip_feeds(layers: int) -> Feeds:
    """Return a maker of ``skip_layers`` by which the first sample keeps all blocks, and each other its own ones."""

    def feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
        skipped = np.random.default_rng(seed).integers(0, 2, (sizes["batch"], layers))
        skipped[0] = 0
        return {"skip_layers": skipped}

    return feeds


class _Reference(nn.Module):
    """The transformer of diffusers, called as its pipeline calls it; samples that skip blocks on their own."""

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        skip_layers: Tensor,
    ) -> tuple[Tensor]:
        predictions = [
            self.transformer(
                hidden_states=latents[one : one + 1],
                timestep=timestep[one : one + 1],
                encoder_hidden_states=encoder_hidden_states[one : one + 1],
                pooled_projections=pooled_projections[one : one + 1],
                skip_layers=skip_layers[one].nonzero().flatten().tolist(),
                return_dict=False,
            )[0]
            for one in range(len(latents))
        ]
        return (torch.cat(predictions),)
