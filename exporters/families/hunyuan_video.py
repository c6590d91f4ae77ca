"""HunyuanVideo (Kong et al. 2024, arXiv 2412.03603): joint and single blocks over the tokens of a video and a prompt.

Positions in time, rows and columns are inside the graph: a runtime sees latents [batch, 16, frames, height, width]. The
network is diffusers' own but for its attention, whose mask is made in place there, and for what it computes in Python:
the positions and the masks.

The prompt is read by two encoders: a Llama that is asked to describe a video, whose states before its last two layers
are the text's tokens, and CLIP, whose pooled state is added to the timestep. Guidance is embedded; a negative prompt
counts where ``true_cfg_scale`` is above 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanVideoTransformer3DModel
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
from dit_deploy.exporters import autoencoder_hunyuan_video as autoencoder
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._embeddings import Sinusoid, rotate
from dit_deploy.exporters.modules import check_class, load_diffusers
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import clip, llama
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["Denoiser", "denoiser_component", "open_pipeline"]

#: What the pipeline asks the Llama; the tokens before the prompt are dropped from what it answers.
_TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
_DROPPED = 95
#: Tokens of a prompt for the Llama, the pipeline's ``max_sequence_length``; and for CLIP.
_TOKENS, _CLIP_TOKENS = 256, 77
#: ``hidden_states`` of the Llama that are read: the pipeline skips two layers.
_HIDDEN_LAYER = -3
#: Frames, height and width that the pipeline has by default, in pixels. No config says them.
_VIDEO = {"frames": 129, "height": 720, "width": 1280}
#: Frames a second, as the model was trained and its authors save videos.
_FRAME_RATE = 24.0
#: Sizes at which graphs are proved, in patches; the training size on a CPU would take hours.
_PROVED = {"frames": 3, "side": 8}
#: What is added to the score of a token that is not attended to; its exponential is 0 beside any score.
_MASKED = -10000.0


def open_pipeline(folder: Path) -> Source:
    """Open a ``HunyuanVideoPipeline`` folder.

    Raises:
        SourceError: a part is missing, or of another kind than text-to-video's; or parts do not fit each other.
    """
    transformer, vae = folder / "transformer", folder / "vae"
    config = _config(transformer)
    scheduler_config = files.read_json(folder / "scheduler" / "scheduler_config.json")
    channels, patch, patch_frames = (int(config[name]) for name in ("in_channels", "patch_size", "patch_size_t"))
    text = llama.graph(
        folder / "text_encoder",
        "text_encoder",
        tokens=_TOKENS + _DROPPED,
        hidden_layer=_HIDDEN_LAYER,
        drop=_DROPPED,
    )
    pooled = clip.graph(
        folder / "text_encoder_2",
        "text_encoder_2",
        tokens=_CLIP_TOKENS,
        hidden_output=None,
        pooled_output="pooled_projections",
        projection=False,
    )
    for graph, key in ((text, "text_embed_dim"), (pooled, "pooled_projection_dim")):
        _check_width(folder, graph, int(config[key]), key)
    halves, compression, scale = autoencoder.graphs(vae, channels, _PROVED["frames"], 2 * _PROVED["side"])
    denoiser = Graph(
        "denoiser",
        denoiser_component(config, scheduler_config),
        lambda: Denoiser(load_diffusers(HunyuanVideoTransformer3DModel, transformer)),
        {
            "batch": 2,
            "patch_frames": _PROVED["frames"],
            "patch_height": _PROVED["side"],
            "patch_width": _PROVED["side"],
            "sequence_length": 77,
        },
        reference=lambda: _Reference(load_diffusers(HunyuanVideoTransformer3DModel, transformer)),
        feeds=_feeds,
    )
    guided = bool(config["guidance_embeds"])
    return Source(
        family="hunyuan_video",
        kind="diffusers_pipeline",
        name=folder.resolve().name,
        graphs=(text, pooled, *halves, denoiser),
        latents=Latents(
            channels=channels,
            frames=(_VIDEO["frames"] - 1) // autoencoder.TEMPORAL + 1,
            height=_VIDEO["height"] // compression,
            width=_VIDEO["width"] // compression,
            patch_size=patch,
            temporal_patch_size=patch_frames,
            spatial_compression=compression,
            temporal_compression=autoencoder.TEMPORAL,
            scaling_factor=scale,
            frame_rate=_FRAME_RATE,
        ),
        prediction=Prediction(type="flow_prediction", timestep_unit="training_index"),
        guidance=Guidance(kind="embedded", input="guidance", default_scale=6.0) if guided else Guidance(),
        scheduler_config=scheduler_config,
        scheduler=Scheduler(num_inference_steps=50, sigmas="linspace_to_zero", strength="rounded_up"),
        digest_files=tuple(files.folder_files(transformer)),
        float32_bytes=files.float32_bytes(folder / "text_encoder", folder / "text_encoder_2", vae, transformer),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer/tokenizer.json",
                    prompt_template=_TEMPLATE,
                    negative_template=_TEMPLATE,
                ),
                PromptEncoder(component="text_encoder_2", tokenizer="tokenizer_2/tokenizer.json"),
            ),
            negative=None,
        ),
        tiling=autoencoder.tiling(compression),
        files={
            "tokenizer/tokenizer.json": lambda: tokenizer_json(
                folder / "tokenizer", length=_TOKENS + _DROPPED, as_saved=True
            ),
            "tokenizer_2/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer_2", length=_CLIP_TOKENS),
        },
    )


def _config(folder: Path) -> Mapping[str, Any]:
    """Return the transformer's config with the class's defaults; :class:`SourceError` for another kind of model."""
    found = check_class(folder, "HunyuanVideoTransformer3DModel")
    given = {name: value for name, value in found.items() if not name.startswith("_")}
    with torch.device("meta"):
        config: Mapping[str, Any] = HunyuanVideoTransformer3DModel.from_config(given).config
    if (kind := config["image_condition_type"]) is not None:
        raise SourceError(
            f"{folder} has image_condition_type {kind}: it makes videos of pictures, which its Llama reads beside the "
            "prompt; only HunyuanVideo's text-to-video models are supported"
        )
    if (given_out := config["out_channels"] or config["in_channels"]) != config["in_channels"]:
        raise SourceError(f"{folder} has {config['in_channels']} channels in and {given_out} out; expected as many")
    return config


def _check_width(folder: Path, graph: Graph, expected: int, key: str) -> None:
    output = graph.component.outputs[0]
    if output.axes[-1] != expected:
        raise SourceError(
            f"{folder / graph.name} gives {output.name} of width {output.axes[-1]}, the transformer's {key} is "
            f"{expected}; they do not belong together"
        )


def denoiser_component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    """Declare the denoiser's inputs and outputs; ``config`` is the transformer's."""
    sizes = int(config["in_channels"]), int(config["patch_size"])
    frames = int(config["patch_size_t"])
    inputs = [
        parts.video_tensor(*sizes, temporal_patch_size=frames),
        parts.timestep_tensor(scheduler_config),
        parts.text_tensor(int(config["text_embed_dim"])),
        parts.mask_tensor(),
        TensorSpec(
            name="pooled_projections",
            dtype="float32",
            axes=(Axis(name="batch"), int(config["pooled_projection_dim"])),
        ),
    ]
    if config["guidance_embeds"]:
        inputs.append(
            TensorSpec(
                name="guidance",
                dtype="float32",
                axes=(Axis(name="batch"),),
                unit="guidance scale",
                minimum=0,
                description="what the model was distilled to do without an unguided half",
            )
        )
    outputs = parts.video_outputs(*sizes, temporal_patch_size=frames)
    return Component(path="denoiser/model.onnx", inputs=tuple(inputs), outputs=outputs)


class Denoiser(nn.Module):
    """diffusers' transformer with positions, masks and rotary embedding as a graph can say them.

    Args:
        transformer: is changed: its attention and the sines of its time embeddings are replaced.
    """

    def __init__(self, transformer: HunyuanVideoTransformer3DModel) -> None:
        super().__init__()
        config = transformer.config
        transformer.set_attn_processor(_Attention())
        for embedder in (transformer.time_text_embed, transformer.context_embedder.time_text_embed):
            embedder.time_proj = Sinusoid(embedder.time_proj.num_channels)
        transformer.rope = _Rotary(config.rope_axes_dim, config.rope_theta)
        self.transformer = transformer
        self.patch, self.patch_frames = int(config.patch_size), int(config.patch_size_t)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, frames, height, width].
            timestep: [batch], sigma · 1000.
            encoder_hidden_states: [batch, sequence_length, text_embed_dim], padding included.
            encoder_attention_mask: int64 [batch, sequence_length], 1 where a token is; these come first.
            pooled_projections: [batch, pooled_projection_dim].
            guidance: [batch], the scale itself, where the model embeds it.

        Returns:
            the prediction, shaped like ``latents``.
        """
        network, p, p_t = self.transformer, self.patch, self.patch_frames
        batch, channels, frames, height, width = latents.shape
        steps, rows, columns = frames // p_t, height // p, width // p
        tokens = encoder_hidden_states.shape[1]
        embedded, _ = network.time_text_embed(
            timestep, pooled_projections, None if guidance is None else guidance * 1000.0
        )
        x = network.x_embedder(latents)  # [batch, patches, hidden]
        text = self.refined(encoder_hidden_states, timestep, encoder_attention_mask)  # [batch, tokens, hidden]
        angles = network.rope(steps, rows, columns)

        # Patches see all patches and the tokens that are there; so do the tokens, padding among them.
        there = torch.arange(tokens)[None, :] < encoder_attention_mask.sum(dim=1, keepdim=True)
        bias = F.pad((~there).to(x.dtype) * _MASKED, (steps * rows * columns, 0))[:, None, None, :]
        bias = bias.expand(-1, -1, steps * rows * columns + tokens, -1)  # [batch, 1, patches + tokens, the same]
        for block in (*network.transformer_blocks, *network.single_transformer_blocks):
            x, text = block(x, text, embedded, bias, angles)

        x = network.proj_out(network.norm_out(x, embedded))
        x = x.reshape(batch, steps, rows, columns, channels, p_t, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return (x.reshape(batch, channels, frames, height, width),)

    def refined(self, states: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        """Return the tokens [batch, tokens, hidden] after blocks that the timestep and the texts' mean modulate.

        Tokens attend to each other, padding to the first token alone.
        """
        refiner = self.transformer.context_embedder
        weights = mask.to(states.dtype)[:, :, None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        embedded = refiner.time_text_embed(timestep, mean)
        pairs = mask[:, :, None] * mask[:, None, :]  # [batch, queries, keys]
        first = (torch.arange(states.shape[1]) == 0)[None, None, :]
        bias = torch.where((pairs > 0) | first, 0.0, _MASKED)[:, None]
        x = refiner.proj_in(states)
        for block in refiner.token_refiner.refiner_blocks:
            x = block(x, embedded, bias)
        return x


class _Rotary(nn.Module):
    """Cosines and sines of frame, row and column of each patch; each value twice in a row.

    Angles are rounded to float32 as diffusers rounds them.
    """

    frequencies: Tensor
    axis: Tensor

    def __init__(self, axes_dims: tuple[int, ...], theta: float) -> None:
        super().__init__()
        exponents = [torch.arange(0, size, 2, dtype=torch.float32) / size for size in axes_dims]
        frequencies = torch.cat([1.0 / (theta**one) for one in exponents]).repeat_interleave(2)
        axis = torch.cat([torch.full((size,), index) for index, size in enumerate(axes_dims)])
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("axis", axis, persistent=False)

    def forward(self, steps: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each [steps · rows · columns, 1, head]."""
        grid = (steps, rows, columns)
        frame = torch.arange(steps)[:, None, None].expand(grid)
        row = torch.arange(rows)[None, :, None].expand(grid)
        column = torch.arange(columns)[None, None, :].expand(grid)
        positions = torch.stack([frame, row, column], dim=-1).reshape(steps * rows * columns, 3)
        angles = (positions[:, self.axis].to(torch.float32) * self.frequencies)[:, None, :]
        return angles.cos(), angles.sin()


class _Attention:
    """diffusers' ``HunyuanVideoAttnProcessor2_0`` and, for the refiner's tokens alone, its ``AttnProcessor2_0``.

    The mask is what is added to scores, with the scores' axes. Only patches, which stand first, have positions.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        def heads(x: Any) -> Any:
            return x.unflatten(-1, (attn.heads, -1))  # [batch, tokens, heads, head]

        def normed(norm: nn.Module | None, x: Tensor) -> Tensor:
            return x if norm is None else norm(x)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)

        def projected(x: Tensor, added: bool) -> tuple[Tensor, Tensor, Tensor]:
            if added:
                q, k, v = attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x)
                return normed(attn.norm_added_q, heads(q)), normed(attn.norm_added_k, heads(k)), heads(v)
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
            return normed(attn.norm_q, heads(q)), normed(attn.norm_k, heads(k)), heads(v)

        q, k, v = projected(hidden_states, added=False)
        if encoder_hidden_states is None:
            return attn.to_out[0](attend(q, k, v))
        assert image_rotary_emb is not None
        q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        of_text = projected(encoder_hidden_states, added=attn.add_q_proj is not None)
        patches = hidden_states.shape[1]
        x = attend(*(torch.cat(pair, dim=1) for pair in zip((q, k, v), of_text, strict=True)))
        x, text = x[:, :patches], x[:, patches:]
        if getattr(attn, "to_out", None) is not None:
            x = attn.to_out[0](x)
        if getattr(attn, "to_add_out", None) is not None:
            text = attn.to_add_out(text)
        return x, text


class _Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipeline calls it."""

    def __init__(self, transformer: HunyuanVideoTransformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        return self.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask.to(latents.dtype),
            pooled_projections=pooled_projections,
            guidance=None if guidance is None else guidance * 1000.0,
            return_dict=False,
        )


_mask = parts.mask_feeds()


def _feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Masks of texts of different lengths, and guidance scales; those are ignored where the model embeds none."""
    return {**_mask(sizes, seed), "guidance": np.random.default_rng(seed).uniform(1.0, 8.0, sizes["batch"])}
