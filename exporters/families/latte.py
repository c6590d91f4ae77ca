"""Latte (Ma et al. 2024, arXiv 2401.03048): PixArt's blocks over the patches of a frame and over the frames of a patch.

Spatial blocks see the text, temporal ones do not. The network is diffusers' own but for what it computes in Python:
positions, shapes, and the text, which diffusers copies once a frame; here all frames of a sample ask one copy. The VAE
is one of pictures, and takes frame by frame.

diffusers' transformer takes 1 frame, without temporal positions, or as many as it was trained on. Here any number
between has the first rows of the table.

Left to the caller, as with PixArt: ``clean_caption``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import LatteTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Guidance, Latents, PromptEncoder, Prompts, Scheduler
from dit_deploy.bundle.manifest import Component
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._attention import attend, heads
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families.dit import geometric_frequencies, sincos_positions
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import t5
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["Latte", "open_pipeline"]

#: Tokens of a prompt, which the pipeline says in its code.
_TOKENS = 120
#: Pictures a second of the released model's videos (Ma et al. 2024, section 4.1); no config says it.
_FRAME_RATE = 8.0
#: Latent pixels on a side at which graphs are proved; all frames of training size on a CPU would take an hour.
_PROVED = 16
#: Channels of the timestep's sinusoid, as in every network with adaLN-single.
_SINUSOID = 256


def open_pipeline(folder: Path) -> Source:
    """Open a ``LattePipeline`` folder.

    Raises:
        SourceError: a part is missing, of a form that the pipeline cannot run, or parts do not fit each other.
    """
    transformer, vae, text_encoder = folder / "transformer", folder / "vae", folder / "text_encoder"
    config = _config(transformer)
    record = read_record(folder, "transformer", "vae", "text_encoder")
    scheduler_config = record["scheduler_config"]
    channels, patch, size = (int(config[name]) for name in ("in_channels", "patch_size", "sample_size"))
    halves, (compression, scale, shift) = autoencoders.graphs(vae, channels, min(size, _PROVED))
    if shift:
        raise SourceError(f"{vae} has shift_factor {shift}, which Latte's pipeline does not apply")
    encoder = t5.graph(text_encoder, "text_encoder", tokens=_TOKENS, attends_mask=True)
    check_width(folder, encoder, int(config["caption_channels"]), "caption_channels")
    denoiser = Graph(
        "denoiser",
        _component(config, scheduler_config),
        lambda: Latte(load_diffusers(LatteTransformer3DModel, transformer)),
        {
            "batch": 2,
            "patch_frames": int(config["video_length"]),
            "patch_height": min(size, _PROVED) // patch,
            "patch_width": min(size, _PROVED) // patch,
            "sequence_length": 9,
        },
        reference=lambda: _Reference(load_diffusers(LatteTransformer3DModel, transformer)),
    )
    return Source(
        family="latte",
        **record,
        graphs=(encoder, *halves, denoiser),
        latents=Latents(
            channels=channels,
            frames=int(config["video_length"]),
            height=size,
            width=size,
            patch_size=patch,
            spatial_compression=compression,
            scaling_factor=scale,
            frame_rate=_FRAME_RATE,
        ),
        prediction=parts.read_prediction(scheduler_config, variance=True),
        guidance=Guidance(kind="classifier_free", default_scale=7.5, variance=True),
        scheduler=Scheduler(num_inference_steps=50),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder", tokenizer="tokenizer/tokenizer.json", cleaning=("lowercase", "strip")
                ),
            ),
            padding="dropped",
        ),
        files={"tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=_TOKENS)},
        notes=("prompts are lowercased and stripped, not cleaned of links and the like (clean_caption)",),
    )


def _config(folder: Path) -> Mapping[str, Any]:
    """Return the transformer's config with its class's defaults; :class:`SourceError` for one that draws nothing."""
    config = read_config(LatteTransformer3DModel, folder)
    if config["norm_type"] != "ada_norm_single":
        raise SourceError(f"{folder} has norm_type {config['norm_type']!r}; only ada_norm_single knows the timestep")
    if config["cross_attention_dim"] is None:
        raise SourceError(f"{folder} has no cross_attention_dim: it takes no text")
    channels = config["in_channels"]
    if config["out_channels"] != 2 * channels:
        raise SourceError(
            f"{folder} predicts {config['out_channels'] or channels} channels; a LattePipeline drops half of them, so "
            f"{2 * channels} are expected"
        )
    if config["video_length"] < 4:
        raise SourceError(f"{folder} has video_length {config['video_length']}; expected at least 4 frames")
    return config


def _component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    channels, patch, limit = int(config["in_channels"]), int(config["patch_size"]), int(config["video_length"])
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            parts.video_tensor(channels, patch, frames_limit=limit),
            parts.timestep_tensor(scheduler_config),
            parts.text_tensor(int(config["caption_channels"])),
        ),
        outputs=parts.video_outputs(channels, patch, frames_limit=limit, variance=True),
    )


class Latte(nn.Module):
    """The denoiser: diffusers' transformer with all that depends on sizes computed from the latents' own.

    Args:
        transformer: is changed: its attention is replaced.
    """

    position_frequencies: Tensor
    frame_positions: Tensor

    def __init__(self, transformer: LatteTransformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer
        for block in (*transformer.transformer_blocks, *transformer.temporal_transformer_blocks):
            for attention in filter(None, (block.attn1, block.attn2)):
                attention.set_processor(_Attention())
        self.sinusoid = Sinusoid(_SINUSOID)
        embed = transformer.pos_embed
        self.base_size = embed.base_size / embed.interpolation_scale
        width = transformer.proj_out.in_features
        self.register_buffer("position_frequencies", geometric_frequencies(width // 4), False)
        self.register_buffer("frame_positions", transformer.temp_pos_embed[0], False)  # [video_length, hidden]

    def forward(self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the noise and the variance.

        Args:
            latents: [batch, channels, frames, height, width]; height and width are multiples of the patch size.
            timestep: [batch], a training index.
            encoder_hidden_states: [batch, tokens, caption channels]; all of them are attended to.

        Returns:
            ``prediction`` and ``variance``, both shaped like ``latents``.
        """
        network, patch = self.transformer, self.transformer.config.patch_size
        batch, channels, frames, height, width = latents.shape
        pictures = latents.transpose(1, 2).reshape(batch * frames, channels, height, width)
        patches = network.pos_embed.proj(pictures)  # [batch · frames, hidden, patch_height, patch_width]
        rows, columns = height // patch, width // patch
        x = patches.flatten(2).transpose(1, 2)  # [batch · frames, patches, hidden]
        x = x + sincos_positions(rows, columns, self.position_frequencies, self.base_size)

        embedded = network.adaln_single.emb.timestep_embedder(self.sinusoid(timestep))  # [batch, hidden]
        modulation = network.adaln_single.linear(F.silu(embedded))[:, None]  # [batch, 1, 6 · hidden]
        of_frames = modulation.expand(-1, frames, -1).flatten(0, 1)
        of_patches = modulation.expand(-1, rows * columns, -1).flatten(0, 1)
        text = network.caption_projection(encoder_hidden_states)  # [batch, tokens, hidden]

        # One frame alone has no place in time.
        several = (torch.full((1,), frames, dtype=torch.float32) - 1).clamp(max=1)
        in_time = self.frame_positions[:frames] * several  # [frames, hidden]
        for index, (spatial, temporal) in enumerate(
            zip(network.transformer_blocks, network.temporal_transformer_blocks, strict=True)
        ):
            x = spatial(x, encoder_hidden_states=text, timestep=of_frames)
            x = x.unflatten(0, (batch, frames)).transpose(1, 2).flatten(0, 1)  # [batch · patches, frames, hidden]
            x = x + in_time if index == 0 else x
            x = temporal(x, timestep=of_patches)
            x = x.unflatten(0, (batch, rows * columns)).transpose(1, 2).flatten(0, 1)

        shift, scale = (network.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)  # [batch, 1, hidden] each
        x = network.norm_out(x).unflatten(0, (batch, frames))  # [batch, frames, patches, hidden]
        x = network.proj_out(x * (1 + scale[:, None]) + shift[:, None])
        x = x.reshape(batch, frames, rows, columns, patch, patch, 2 * channels).permute(0, 6, 1, 2, 4, 3, 5)
        prediction, variance = x.reshape(batch, 2 * channels, frames, height, width).chunk(2, dim=1)
        return prediction, variance


class _Attention:
    """diffusers' ``AttnProcessor2_0`` without masks; frames of one sample, batch · frames, ask its text, batch."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        queries = attn.to_q(hidden_states)
        if encoder_hidden_states is not None:
            queries = queries.reshape(source.shape[0], -1, queries.shape[-1])  # [batch, frames · patches, hidden]
        q, k, v = (heads(one, attn.heads) for one in (queries, attn.to_k(source), attn.to_v(source)))
        return attn.to_out[0](attend(q, k, v).reshape(hidden_states.shape))


class _Reference(nn.Module):
    """The transformer of diffusers, called as its pipeline calls it; its table has as many frames as are given."""

    def __init__(self, transformer: LatteTransformer3DModel) -> None:
        super().__init__()
        self.transformer, self.positions = transformer, transformer.temp_pos_embed

    def forward(self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, ...]:
        self.transformer.temp_pos_embed = self.positions[:, : latents.shape[2]]
        output = self.transformer(
            latents, encoder_hidden_states=encoder_hidden_states, timestep=timestep, return_dict=False
        )[0]
        return tuple(output.chunk(2, dim=1))
