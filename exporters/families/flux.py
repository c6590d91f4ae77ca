"""FLUX.1 dev and schnell (Black Forest Labs 2024): joint and single blocks over text and image tokens.

Packing, position ids and rotary embedding are inside the graph: a runtime sees latents [batch, 16, height, width], and
draws its noise in that shape, as diffusers' pipeline does before it packs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from dit_deploy.bundle import (
    Component,
    Guidance,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._folder import check_tokens, check_width, read_record
from dit_deploy.exporters.families._patches import packed, unpacked
from dit_deploy.exporters.families._rotary import ExactRotary, picture_positions
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import clip, t5
from dit_deploy.exporters.tokenizers import max_length, tokenizer_json

__all__ = ["Denoiser", "denoiser_component", "open_pipeline"]

#: The pipeline's ``default_sample_size``, in latent pixels: pictures of 1024 × 1024. No config says it.
_SAMPLE_SIZE = 128
#: Latent pixels on a side of a token: the pipeline packs 2 × 2 of them.
_PATCH = 2
#: Tokens of T5 at most, and by default; the pipeline pads to them and gives no mask.
_TEXT_TOKENS = 512
#: Sizes at which graphs are proved. Training size on a CPU would take an hour of the 12-billion-parameter model.
_PROVED = 16


def open_pipeline(folder: Path, *, max_sequence_length: int = _TEXT_TOKENS) -> Source:
    """Open a ``FluxPipeline`` folder.

    Args:
        max_sequence_length: tokens of T5, at most the usual number; schnell is documented with 256.

    Raises:
        SourceError: a part is missing, or of another class than FLUX.1's; or parts do not fit each other.
    """
    config = read_config(FluxTransformer2DModel, folder / "transformer")
    record = read_record(folder, "text_encoder", "text_encoder_2", "vae", "transformer")
    channels = _latent_channels(folder, config)
    guided = bool(config["guidance_embeds"])
    pooled = clip.graph(
        folder / "text_encoder",
        "text_encoder",
        tokens=max_length(folder / "tokenizer"),
        hidden_output=None,
        pooled_output="pooled_projections",
        projection=False,
    )
    tokens = check_tokens(max_sequence_length, _TEXT_TOKENS)
    text = t5.graph(folder / "text_encoder_2", "text_encoder_2", tokens=tokens, attends_mask=False)
    for graph, key in ((pooled, "pooled_projection_dim"), (text, "joint_attention_dim")):
        check_width(folder, graph, int(config[key]), key)
    halves, (compression, scale, shift) = autoencoders.graphs(folder / "vae", channels, 2 * _PROVED)
    denoiser = Graph(
        "denoiser",
        denoiser_component(config, channels),
        lambda: Denoiser(load_diffusers(FluxTransformer2DModel, folder / "transformer")).eval(),
        {"batch": 2, "patch_height": _PROVED, "patch_width": _PROVED, "sequence_length": 77},
        reference=lambda: _Reference(load_diffusers(FluxTransformer2DModel, folder / "transformer")),
        feeds=parts.guidance_feeds if guided else None,
    )
    return Source(
        family="flux",
        **record,
        graphs=(pooled, text, *halves, denoiser),
        latents=Latents(
            channels=channels,
            height=_SAMPLE_SIZE,
            width=_SAMPLE_SIZE,
            patch_size=_PATCH,
            spatial_compression=compression,
            scaling_factor=scale,
            shift_factor=shift,
        ),
        prediction=Prediction(type="flow_prediction", timestep_unit="sigma"),
        # schnell is distilled without guidance; both are guided by a negative prompt where true_cfg_scale is above 1.
        guidance=Guidance(kind="embedded", input="guidance", default_scale=3.5) if guided else Guidance(),
        scheduler=Scheduler(
            # diffusers' default, and what schnell was distilled to
            num_inference_steps=28 if guided else 4,
            sigmas="scheduler" if record["scheduler_config"].get("use_flow_sigmas") else "linspace",
            strength="rounded_up",
        ),
        prompts=Prompts(
            encoders=(
                PromptEncoder(component="text_encoder", tokenizer="tokenizer/tokenizer.json"),
                PromptEncoder(component="text_encoder_2", tokenizer="tokenizer_2/tokenizer.json"),
            ),
            negative=None,
        ),
        files={
            "tokenizer/tokenizer.json": lambda: tokenizer_json(
                folder / "tokenizer", length=max_length(folder / "tokenizer")
            ),
            "tokenizer_2/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer_2", length=tokens),
        },
    )


def denoiser_component(config: Mapping[str, Any], channels: int) -> Component:
    """Declare the denoiser's inputs and outputs; ``config`` is the transformer's."""
    inputs = [
        parts.latents_tensor(channels, _PATCH),
        parts.sigma_tensor(),
        parts.text_tensor(int(config["joint_attention_dim"])),
        parts.pooled_tensor(int(config["pooled_projection_dim"])),
    ]
    if config["guidance_embeds"]:
        inputs.append(parts.guidance_tensor())
    outputs = parts.output_tensors(channels, _PATCH)
    return Component(path="denoiser/model.onnx", inputs=tuple(inputs), outputs=outputs)


class Denoiser(nn.Module):
    """diffusers' transformer on unpacked latents, its positions and time embeddings as a graph can say them."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        config = transformer.config
        transformer.pos_embed = ExactRotary(config.axes_dims_rope, transformer.pos_embed.theta)
        transformer.time_text_embed.time_proj = Sinusoid(transformer.time_text_embed.time_proj.num_channels)
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, height, width], height and width even.
            timestep: [batch], sigma in 0 … 1.
            encoder_hidden_states: [batch, sequence_length, joint_attention_dim], padding included.
            pooled_projections: [batch, pooled_projection_dim].
            guidance: [batch], the scale itself, where the model embeds it.

        Returns:
            the prediction, shaped like ``latents``.
        """
        rows, columns = (side // _PATCH for side in latents.shape[2:])
        image_ids = picture_positions(torch.arange(rows), torch.arange(columns))
        text_ids = torch.zeros(encoder_hidden_states.shape[1], 3, dtype=torch.int64)
        prediction = self.transformer(
            hidden_states=packed(latents, _PATCH),
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep,
            img_ids=image_ids,
            txt_ids=text_ids,
            guidance=guidance,
            return_dict=False,
        )[0]
        return (unpacked(prediction, latents.shape, _PATCH),)


class _Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipeline calls it."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        batch, channels, height, width = latents.shape
        make_ids = FluxPipeline._prepare_latent_image_ids
        prediction = self.transformer(
            hidden_states=FluxPipeline._pack_latents(latents, batch, channels, height, width),
            timestep=timestep,
            guidance=guidance,
            pooled_projections=pooled_projections,
            encoder_hidden_states=encoder_hidden_states,
            txt_ids=torch.zeros(encoder_hidden_states.shape[1], 3),
            img_ids=make_ids(batch, height // 2, width // 2, latents.device, latents.dtype),
            return_dict=False,
        )[0]
        return (FluxPipeline._unpack_latents(prediction, height, width, 1),)


def _latent_channels(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the latents' channels; :class:`SourceError` for a transformer of another layout than FLUX.1's."""
    channels = int(config["in_channels"])
    given = config["out_channels"] or channels
    if config["patch_size"] != 1 or channels % _PATCH**2 or given != channels:
        raise SourceError(
            f"{folder / 'transformer'} has patch_size {config['patch_size']}, {channels} channels in and "
            f"{given} out; a FluxPipeline's has patch_size 1 and as many out as in, a multiple of 4"
        )
    return channels // _PATCH**2
