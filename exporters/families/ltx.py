"""LTX-Video (HaCohen et al. 2024, arXiv 2501.00103): each latent pixel, of 8 frames of 32 × 32 pixels, is a token.

The network is diffusers' own but for what it computes in Python: packing, positions, and modulation. Positions are
fractions of 20 seconds and of 2048 pixels, so the denoiser takes the ``frame_rate``.

One bundle draws from text, and from text and a first picture: latent frames that are given stand in for the model's
input, and are told the timestep 0. ``LTXImageToVideoPipeline`` gives each token a timestep of its own; here each frame
has one, as no frame is given in part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LTXVideoTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import (
    Axis,
    Component,
    Guidance,
    ImageConditions,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
    TensorSpec,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_ltx
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._attention import Attention
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.masks import key_bias
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import t5
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["LTXVideo", "Rotary", "open_pipeline"]

#: What the pipelines draw where nothing is asked for: pixels, frames, and frames a second. No config says it.
_HEIGHT, _WIDTH, _FRAMES, _FRAME_RATE = 512, 704, 161, 25.0
#: Tokens of a prompt, ``max_sequence_length`` of the pipelines.
_TOKENS = 128
#: Sizes at which graphs are proved; training size on a CPU would take an hour.
_PROVED = {"frames": 3, "height": 4, "width": 6}
#: Channels of a timestep's sinusoid.
_SINUSOID = 256


def open_pipeline(folder: Path) -> Source:
    """Open a folder that ``LTXPipeline`` or ``LTXImageToVideoPipeline`` saved.

    Raises:
        SourceError: a part is missing, of a form that the pipelines cannot run, or parts do not fit each other.
    """
    transformer, vae, text_encoder = folder / "transformer", folder / "vae", folder / "text_encoder"
    config = _config(transformer)
    record = read_record(folder, "transformer", "vae", "text_encoder")
    scheduler_config = record["scheduler_config"]
    channels = int(config["in_channels"])
    halves = autoencoder_ltx.halves(vae, channels, {f"latent_{name}": size for name, size in _PROVED.items()})
    text = t5.graph(
        text_encoder, "text_encoder", tokens=_TOKENS, attends_mask=False, mask_output="encoder_attention_mask"
    )
    check_width(folder, text, int(config["caption_channels"]), "caption_channels")
    compression = (halves.temporal, halves.spatial)
    denoiser = Graph(
        "denoiser",
        _component(config, scheduler_config),
        lambda: LTXVideo(load_diffusers(LTXVideoTransformer3DModel, transformer), *compression),
        {"batch": 2, "sequence_length": 9, **{f"patch_{name}": size for name, size in _PROVED.items()}},
        reference=lambda: _Reference(load_diffusers(LTXVideoTransformer3DModel, transformer), *compression),
        feeds=_feeds,
    )
    return Source(
        family="ltx",
        **record,
        graphs=(text, *halves.graphs, denoiser),
        latents=Latents(
            channels=channels,
            frames=(_FRAMES - 1) // halves.temporal + 1,
            height=_HEIGHT // halves.spatial,
            width=_WIDTH // halves.spatial,
            patch_size=1,
            spatial_compression=halves.spatial,
            temporal_compression=halves.temporal,
            scaling_factor=halves.scale,
            frame_rate=_FRAME_RATE,
        ),
        prediction=Prediction(type="flow_prediction"),
        guidance=Guidance(kind="classifier_free", default_scale=3.0),
        scheduler=Scheduler(num_inference_steps=50, sigmas="linspace"),
        prompts=Prompts(encoders=(PromptEncoder(component="text_encoder", tokenizer="tokenizer/tokenizer.json"),)),
        image_conditions=ImageConditions(component="image_conditions", kept="image_latents", mask="image_mask"),
        tiling=halves.tiling,
        files={"tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=_TOKENS)},
    )


def _config(folder: Path) -> Mapping[str, Any]:
    """Return the transformer's config with its class's defaults; :class:`SourceError` for one that cannot run."""
    config = read_config(LTXVideoTransformer3DModel, folder)
    channels, width = config["in_channels"], config["num_attention_heads"] * config["attention_head_dim"]
    if (config["patch_size"], config["patch_size_t"]) != (1, 1):
        raise SourceError(
            f"{folder} has patches of {config['patch_size_t']} × {config['patch_size']} × {config['patch_size']}; the "
            "pipelines count latent pixels, so 1 × 1 × 1 are expected"
        )
    if (config["out_channels"] or channels) != channels:
        raise SourceError(f"{folder} predicts {config['out_channels']} channels; expected {channels}, as it takes")
    if config["cross_attention_dim"] != width:
        raise SourceError(f"{folder} has cross_attention_dim {config['cross_attention_dim']}; expected {width}")
    return config


def _component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    channels, batch = int(config["in_channels"]), Axis(name="batch")
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            parts.video_tensor(channels, 1),
            parts.timestep_tensor(scheduler_config),
            parts.text_tensor(int(config["caption_channels"])),
            parts.mask_tensor(),
            TensorSpec(name="frame_rate", dtype="float32", axes=(batch,), unit="frames a second", minimum=0),
            parts.video_tensor(channels, 1, "image_latents", "what stands in for latents that are given"),
            TensorSpec(
                name="image_mask",
                dtype="float32",
                axes=(batch, 1, Axis(name="patch_frames"), 1, 1),
                minimum=0,
                maximum=1,
                description="1 for latent frames that are given",
            ),
        ),
        outputs=parts.video_outputs(channels, 1),
    )


class LTXVideo(nn.Module):
    """The denoiser: diffusers' transformer on unpacked latents, with all that depends on sizes from the latents' own.

    Args:
        transformer: is changed: its attention is replaced.
        temporal, spatial: frames, and pixels along an axis, that a latent pixel stands for.
    """

    def __init__(self, transformer: LTXVideoTransformer3DModel, temporal: int, spatial: int) -> None:
        super().__init__()
        for block in transformer.transformer_blocks:
            block.attn1.set_processor(Attention())
            block.attn2.set_processor(Attention())
        self.transformer = transformer
        self.rotary = Rotary(transformer.rope, temporal, spatial)
        self.sinusoid = Sinusoid(_SINUSOID)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        frame_rate: Tensor,
        image_latents: Tensor,
        image_mask: Tensor,
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, frames, height, width].
            timestep: [batch], sigma · num_train_timesteps.
            encoder_hidden_states: [batch, tokens, caption channels].
            encoder_attention_mask: int64 [batch, tokens], 1 where a token is.
            frame_rate: [batch], frames (not latent ones) a second.
            image_latents: shaped like ``latents``, read where the mask is 1.
            image_mask: [batch, 1, frames, 1, 1], 1 for frames that are given.

        Returns:
            the prediction, shaped like ``latents``.
        """
        network: Any = self.transformer
        frames, height, width = latents.shape[2:]
        x = torch.where(image_mask > 0, image_latents, latents).flatten(3).permute(0, 2, 3, 1)
        x = network.proj_in(x)  # [batch, frames, height · width, hidden]
        rotary = self.rotary(frames, height, width, frame_rate)
        bias = key_bias(encoder_attention_mask, frames * height * width, x.dtype)  # [batch, 1, latent pixels, tokens]
        text = network.caption_projection(encoder_hidden_states)  # [batch, tokens, hidden]

        embed = network.time_embed.emb.timestep_embedder
        of_noise, of_given = embed(self.sinusoid(timestep)), embed(self.sinusoid(torch.zeros_like(timestep)))
        given = image_mask[:, 0, :, 0] > 0  # [batch, frames, 1]
        time = torch.where(given, of_given[:, None], of_noise[:, None])  # [batch, frames, hidden]
        modulation = network.time_embed.linear(F.silu(time)).unflatten(2, (6, -1))[:, :, :, None]

        for block in network.transformer_blocks:
            # each [batch, frames, 1, hidden]
            rows = (block.scale_shift_table[:, None] + modulation).unbind(dim=2)
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = rows
            states = (block.norm1(x) * (1 + scale) + shift).flatten(1, 2)  # [batch, tokens, hidden]
            x = x + block.attn1(states, image_rotary_emb=rotary).reshape(x.shape) * gate
            x = x + block.attn2(x.flatten(1, 2), encoder_hidden_states=text, attention_mask=bias).reshape(x.shape)
            x = x + block.ff(block.norm2(x) * (1 + scale_mlp) + shift_mlp) * gate_mlp

        shift, scale = (network.scale_shift_table + time[:, :, None]).chunk(2, dim=2)  # each [batch, frames, 1, hidden]
        x = network.proj_out(network.norm_out(x) * (1 + scale) + shift)
        return (x.permute(0, 3, 1, 2).reshape(latents.shape),)


class Rotary(nn.Module):
    """Cosines and sines [batch, tokens, hidden] for queries and keys of all heads together (Su et al. 2021).

    A frame's position is its second of ``base_num_frames``, a pixel's its row or column of ``base_height`` or
    ``base_width``, as a number of −1 … 1 for those; it may be beyond. Angles are up to π/2 · theta, so they are rounded
    here exactly as diffusers rounds them, in float32.
    """

    frequencies: Tensor

    def __init__(self, rope: Any, temporal: int, spatial: int) -> None:
        super().__init__()
        exponents = torch.linspace(0.0, math.log(rope.theta, rope.theta), rope.dim // 6, dtype=torch.float32)
        self.register_buffer("frequencies", rope.theta**exponents * math.pi / 2.0, persistent=False)
        self.temporal, self.spatial = temporal, spatial
        self.bases = (rope.base_num_frames, rope.base_height, rope.base_width)
        self.padding = rope.dim % 6

    def forward(self, frames: int, height: int, width: int, frame_rate: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of a grid; ``frame_rate`` [batch] is in frames, not latent ones, a second."""
        # A division, not the product with 1 / frame_rate that torch makes of a number over a tensor.
        seconds_each = torch.div(torch.full_like(frame_rate, self.temporal), frame_rate)
        seconds = torch.arange(frames).float() * seconds_each[:, None]  # [batch, frames]
        rows, columns = (torch.arange(side).float()[None] * self.spatial for side in (height, width))
        angles = [
            self.frequencies * (position[..., None] / base * 2 - 1)  # [batch or 1, length, hidden / 6]
            for position, base in zip((seconds, rows, columns), self.bases, strict=True)
        ]
        grid = (frame_rate.shape[0], frames, height, width, self.frequencies.shape[0])

        def spread(of_axes: list[Tensor], padding: float) -> Tensor:
            of_frames, of_rows, of_columns = of_axes
            places = (of_frames[:, :, None, None], of_rows[:, None, :, None], of_columns[:, None, None])
            whole = [one.expand(grid) for one in places]
            # a pair of numbers for each angle; frame, row and column in turn
            pairs = torch.stack(whole, dim=-1)[..., None].expand(*grid, 3, 2)
            return F.pad(pairs.reshape(grid[0], frames * height * width, -1), (self.padding, 0), value=padding)

        return spread([one.cos() for one in angles], 1.0), spread([one.sin() for one in angles], 0.0)


class _Reference(nn.Module):
    """The transformer of diffusers, called as ``LTXImageToVideoPipeline`` calls it, with a frame rate a sample."""

    def __init__(self, transformer: LTXVideoTransformer3DModel, temporal: int, spatial: int) -> None:
        super().__init__()
        self.transformer, self.temporal, self.spatial = transformer, temporal, spatial

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        frame_rate: Tensor,
        image_latents: Tensor,
        image_mask: Tensor,
    ) -> tuple[Tensor]:
        frames, height, width = latents.shape[2:]
        mask = image_mask.expand(-1, -1, -1, height, width)
        x = image_latents * mask + latents * (1 - mask)
        prediction = self.transformer(
            hidden_states=x.flatten(2).transpose(1, 2),
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep[:, None] * (1 - mask.flatten(1)),
            encoder_attention_mask=encoder_attention_mask,
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(
                torch.full_like(frame_rate, self.temporal).div(frame_rate)[:, None, None, None, None],
                self.spatial,
                self.spatial,
            ),
            return_dict=False,
        )[0]
        return (prediction.transpose(1, 2).reshape(latents.shape),)


def _feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return masks of texts, frame rates, and masks of frames: the last sample has none that is given."""
    random = np.random.default_rng(seed)
    mask = np.zeros((sizes["batch"], 1, sizes["patch_frames"], 1, 1))
    mask[:-1, :, 0] = 1
    mask[0, :, -1] = 1
    return {
        **parts.mask_feeds()(sizes, seed),
        "frame_rate": random.choice([8.0, 24.0, 25.0, 29.97], sizes["batch"]),
        "image_mask": mask,
    }
