"""FLUX.1 dev and schnell (Black Forest Labs 2024): joint and single blocks over text and image tokens.

Packing, position ids and rotary embedding are inside the graph: a runtime sees latents [batch, 16, height, width], and
draws its noise in that shape, as diffusers' pipeline does before it packs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

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
from dit_deploy.exporters.modules import check_class, load_diffusers
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import clip, t5
from dit_deploy.exporters.tokenizers import max_length, tokenizer_json

__all__ = ["Denoiser", "Rotary", "denoiser_component", "open_pipeline"]

#: The pipeline's ``default_sample_size``, in latent pixels: pictures of 1024 × 1024. No config says it.
_SAMPLE_SIZE = 128
#: Latent pixels on a side of a token: the pipeline packs 2 × 2 of them.
_PATCH = 2
#: Tokens of T5 at most, and by default; the pipeline pads to them and gives no mask.
_TEXT_TOKENS = 512
#: Sizes at which graphs are proved. Training size on a CPU would take an hour of the 12-billion-parameter model.
_PROVED = 16
#: What :class:`Rotary` is exact to, positions: products of 12 bits by 12 bits are numbers of float32.
_EXACT_BITS = 12


def open_pipeline(folder: Path, *, max_sequence_length: int = _TEXT_TOKENS) -> Source:
    """Open a ``FluxPipeline`` folder.

    Args:
        max_sequence_length: tokens of T5, at most the usual number; schnell is documented with 256.

    Raises:
        SourceError: a part is missing, or of another class than FLUX.1's; or parts do not fit each other.
    """
    config = check_class(folder / "transformer", "FluxTransformer2DModel")
    scheduler_config = files.read_json(folder / "scheduler" / "scheduler_config.json")
    channels = _latent_channels(folder, config)
    guided = bool(config.get("guidance_embeds", False))
    pooled = clip.graph(
        folder / "text_encoder",
        "text_encoder",
        tokens=max_length(folder / "tokenizer"),
        hidden_output=None,
        pooled_output="pooled_projections",
        projection=False,
    )
    tokens = parts.check_tokens(max_sequence_length, _TEXT_TOKENS)
    text = t5.graph(folder / "text_encoder_2", "text_encoder_2", tokens=tokens, attends_mask=False)
    for graph, key, default in ((pooled, "pooled_projection_dim", 768), (text, "joint_attention_dim", 4096)):
        _check_width(folder, graph, int(config.get(key, default)), key)
    halves, (compression, scale, shift) = autoencoders.graphs(folder / "vae", channels, 2 * _PROVED)
    denoiser = Graph(
        "denoiser",
        denoiser_component(config, channels),
        lambda: Denoiser(load_diffusers(FluxTransformer2DModel, folder / "transformer")).eval(),
        {"batch": 2, "patch_height": _PROVED, "patch_width": _PROVED, "sequence_length": 77},
        reference=lambda: _Reference(load_diffusers(FluxTransformer2DModel, folder / "transformer")),
        feeds=_feeds if guided else None,
    )
    return Source(
        family="flux",
        kind="diffusers_pipeline",
        name=folder.resolve().name,
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
        scheduler_config=scheduler_config,
        scheduler=Scheduler(
            # diffusers' default, and what schnell was distilled to
            num_inference_steps=28 if guided else 4,
            sigmas="scheduler" if scheduler_config.get("use_flow_sigmas") else "linspace",
            strength="rounded_up",
        ),
        digest_files=tuple(files.folder_files(folder / "transformer")),
        float32_bytes=files.float32_bytes(
            *(folder / part for part in ("text_encoder", "text_encoder_2", "vae", "transformer"))
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
    batch = Axis(name="batch")
    inputs = [
        parts.latents_tensor(channels, _PATCH),
        TensorSpec(name="timestep", dtype="float32", axes=(batch,), unit="sigma", minimum=0, maximum=1),
        parts.text_tensor(int(config.get("joint_attention_dim", 4096))),
        TensorSpec(
            name="pooled_projections", dtype="float32", axes=(batch, int(config.get("pooled_projection_dim", 768)))
        ),
    ]
    if config.get("guidance_embeds", False):
        inputs.append(
            TensorSpec(
                name="guidance",
                dtype="float32",
                axes=(batch,),
                unit="guidance scale",
                minimum=0,
                description="what the model was distilled to do without an unguided half",
            )
        )
    outputs = parts.output_tensors(channels, _PATCH)
    return Component(path="denoiser/model.onnx", inputs=tuple(inputs), outputs=outputs)


class Denoiser(nn.Module):
    """diffusers' transformer on unpacked latents, its positions and time embeddings as a graph can say them."""

    def __init__(self, transformer: FluxTransformer2DModel) -> None:
        super().__init__()
        config = transformer.config
        transformer.pos_embed = Rotary(transformer.pos_embed.theta, config.axes_dims_rope)
        transformer.time_text_embed.time_proj = Timesteps(transformer.time_text_embed.time_proj.num_channels)
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
        batch, channels, height, width = latents.shape
        rows, columns = height // _PATCH, width // _PATCH
        x = latents.reshape(batch, channels, rows, _PATCH, columns, _PATCH).permute(0, 2, 4, 1, 3, 5)
        packed = x.reshape(batch, rows * columns, channels * _PATCH**2)  # a token holds [channels, 2, 2]
        row = torch.arange(rows)[:, None].expand(rows, columns)
        column = torch.arange(columns)[None, :].expand(rows, columns)
        image_ids = torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(rows * columns, 3)
        text_ids = torch.zeros(encoder_hidden_states.shape[1], 3, dtype=torch.int64)
        prediction = self.transformer(
            hidden_states=packed,
            encoder_hidden_states=encoder_hidden_states,
            pooled_projections=pooled_projections,
            timestep=timestep,
            img_ids=image_ids,
            txt_ids=text_ids,
            guidance=guidance,
            return_dict=False,
        )[0]
        x = prediction.reshape(batch, rows, columns, channels, _PATCH, _PATCH).permute(0, 3, 1, 4, 2, 5)
        return (x.reshape(batch, channels, height, width),)


class Rotary(nn.Module):
    """Cosines and sines [tokens, head_dim] of position ids [tokens, axes] (Su et al. 2021), each twice in a row.

    diffusers computes the angle in float64, which engines do not. In float32 the angle of position 100 would already
    be off by 4e-6. So a frequency is the sum of two: the first of 12 bits, whose product with a position below 4096
    float32 holds exactly, and a rest so small that its rounding does not count; cosine and sine follow by the addition
    theorem.
    """

    high: Tensor
    low: Tensor
    axis: Tensor

    def __init__(self, theta: float, axes_dims: tuple[int, ...]) -> None:
        super().__init__()
        halves = [torch.arange(0, size, 2, dtype=torch.float64) / size for size in axes_dims]
        exact = torch.cat([1.0 / theta**exponents for exponents in halves]).repeat_interleave(2)
        mantissa, exponent = torch.frexp(exact)
        high = torch.ldexp((mantissa * 2**_EXACT_BITS).round(), exponent - _EXACT_BITS)
        axis = torch.cat([torch.full((size,), index) for index, size in enumerate(axes_dims)])
        self.register_buffer("high", high.float(), persistent=False)
        self.register_buffer("low", (exact - high).float(), persistent=False)
        self.register_buffer("axis", axis, persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of integer ``ids`` [tokens, axes]."""
        positions = ids[:, self.axis].float()  # [tokens, head_dim]
        angle, rest = positions * self.high, positions * self.low
        cos, sin = (
            angle.cos() * rest.cos() - angle.sin() * rest.sin(),
            angle.sin() * rest.cos() + angle.cos() * rest.sin(),
        )
        return cos, sin


class Timesteps(nn.Module):
    """Cosines and sines [batch, channels] of numbers [batch] up to some thousand, as diffusers' class of this name.

    Its frequencies are constants here: the graph's exponential rounds differently, and at 3500 (a guidance of 3.5) the
    last bit of a frequency is 2e-4 of the angle.
    """

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        exponents = -np.log(10000.0) * torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, timesteps: Tensor) -> Tensor:
        angles = timesteps[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


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


def _feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    return {"guidance": np.random.default_rng(seed).uniform(1.0, 8.0, sizes["batch"])}


def _latent_channels(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the latents' channels; :class:`SourceError` for a transformer of another layout than FLUX.1's."""
    channels = int(config.get("in_channels", 64))
    given = config.get("out_channels") or channels
    if config.get("patch_size", 1) != 1 or channels % _PATCH**2 or given != channels:
        raise SourceError(
            f"{folder / 'transformer'} has patch_size {config.get('patch_size', 1)}, {channels} channels in and "
            f"{given} out; a FluxPipeline's has patch_size 1 and as many out as in, a multiple of 4"
        )
    return channels // _PATCH**2


def _check_width(folder: Path, graph: Graph, expected: int, key: str) -> None:
    output = graph.component.outputs[0]
    if output.axes[-1] != expected:
        raise SourceError(
            f"{folder / graph.name} gives {output.name} of width {output.axes[-1]}, the transformer's {key} is "
            f"{expected}; they do not belong together"
        )
