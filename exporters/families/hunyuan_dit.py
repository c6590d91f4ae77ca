"""HunyuanDiT (Li et al. 2024, arXiv 2405.08748): a DiT with long skips as a U-Net has, and two text encoders.

The network is diffusers' own but for what its pipeline computes in Python beside it: rotary positions, and conditions
by size and style. Masks of texts do not reach attention: where a token is padding, a learned vector stands for it.

Two things that the pipeline does beside the model are left to the caller: ``use_resolution_binning``, which draws at
the nearest size of a list, and the safety checker. Here a picture is drawn at the size that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import HunyuanDiT2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import Component, Guidance, Latents, PromptEncoder, Prompts, Scheduler
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families._rotary import cropped_positions, divide_to_even
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import bert, t5
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["HunyuanDiT", "open_pipeline", "resize_crop_region"]

#: Tokens of BERT and of T5, which the pipeline always pads to.
_TOKENS, _T5_TOKENS = 77, 256
#: What the pipeline divides pixels by, whatever the autoencoder.
_COMPRESSION = 8
#: Pixels of the square whose grid rotary positions are scaled to.
_BASE_PIXELS = 512
#: Height and width that the pipeline says the training picture had.
_ORIGINAL_SIZE = (1024, 1024)


def open_pipeline(folder: Path) -> Source:
    """Open a folder that ``HunyuanDiTPipeline`` saved.

    Raises:
        SourceError: a part is missing, or the parts do not fit each other.
    """
    transformer, vae = folder / "transformer", folder / "vae"
    text_encoder, text_encoder_2 = folder / "text_encoder", folder / "text_encoder_2"
    config = _config(transformer)
    record = read_record(folder, "transformer", "vae", "text_encoder", "text_encoder_2")
    scheduler_config = record["scheduler_config"]
    channels, patch, size = (int(config[name]) for name in ("in_channels", "patch_size", "sample_size"))
    halves, (compression, scale, shift) = autoencoders.graphs(vae, channels, size)
    if shift:
        raise SourceError(f"{vae} has shift_factor {shift}, which HunyuanDiT's pipeline does not apply")
    if compression != _COMPRESSION:
        raise SourceError(f"{vae} compresses by {compression}; HunyuanDiT's pipeline takes {_COMPRESSION} for granted")
    encoders = (
        bert.graph(text_encoder, "text_encoder", tokens=_TOKENS, mask_output="text_embedding_mask"),
        t5.graph(
            text_encoder_2,
            "text_encoder_2",
            tokens=_T5_TOKENS,
            output="encoder_hidden_states_t5",
            attends_mask=True,
            mask_output="text_embedding_mask_t5",
        ),
    )
    for graph, key in zip(encoders, ("cross_attention_dim", "cross_attention_dim_t5"), strict=True):
        check_width(folder, graph, int(config[key]), key)
    denoiser = Graph(
        "denoiser",
        _component(config, scheduler_config),
        lambda: HunyuanDiT(load_diffusers(HunyuanDiT2DModel, transformer)),
        {"batch": 2, "patch_height": size // patch, "patch_width": size // patch},
        reference=lambda: _Reference(load_diffusers(HunyuanDiT2DModel, transformer)),
        feeds=_mask_feeds,
    )
    tokenizers = {"tokenizer": _TOKENS, "tokenizer_2": _T5_TOKENS}
    return Source(
        family="hunyuan_dit",
        **record,
        graphs=(*encoders, *halves, denoiser),
        latents=Latents(
            channels=channels,
            height=size,
            width=size,
            patch_size=patch,
            spatial_compression=compression,
            scaling_factor=scale,
        ),
        prediction=parts.read_prediction(scheduler_config, variance=True),
        guidance=Guidance(kind="classifier_free", default_scale=5.0),
        scheduler=Scheduler(num_inference_steps=50),
        prompts=Prompts(
            encoders=tuple(
                PromptEncoder(component=graph.name, tokenizer=f"{name}/tokenizer.json")
                for graph, name in zip(encoders, tokenizers, strict=True)
            )
        ),
        files={
            f"{name}/tokenizer.json": partial(tokenizer_json, folder / name, length=length)
            for name, length in tokenizers.items()
        },
        notes=(
            "pictures have the size that is asked for (use_resolution_binning=False), and no safety checker sees them",
        ),
    )


def _config(folder: Path) -> dict[str, Any]:
    """Return the transformer's config with its class's defaults filled in, checked; no weight is read."""
    config = read_config(HunyuanDiT2DModel, folder)
    for key, wanted in (("text_len", _TOKENS), ("text_len_t5", _T5_TOKENS)):
        if config[key] != wanted:
            raise SourceError(f"{folder} has {key} {config[key]}; HunyuanDiT's pipeline makes {wanted} tokens")
    if not config["learn_sigma"]:
        raise SourceError(f"{folder} learns no variance (learn_sigma); HunyuanDiT's pipeline expects one and drops it")
    if (_BASE_PIXELS // _COMPRESSION) % config["patch_size"]:
        raise SourceError(f"{folder} has patch_size {config['patch_size']}; expected a power of two, 64 at most")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    if config["hidden_size"] != width:
        raise SourceError(
            f"{folder} has hidden_size {config['hidden_size']}; {config['num_attention_heads']} heads of "
            f"{config['attention_head_dim']} need {width}"
        )
    if config["attention_head_dim"] % 4:
        raise SourceError(
            f"{folder} has heads of {config['attention_head_dim']}; rotary positions need a multiple of 4"
        )
    return config


def _component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    channels, patch = int(config["in_channels"]), int(config["patch_size"])
    texts = []
    for suffix, length in (("", _TOKENS), ("_t5", _T5_TOKENS)):
        width = int(config[f"cross_attention_dim{suffix}"])
        texts += [
            parts.text_tensor(width, f"encoder_hidden_states{suffix}", length),
            parts.mask_tensor(f"text_embedding_mask{suffix}", length),
        ]
    return Component(
        path="denoiser/model.onnx",
        inputs=(parts.latents_tensor(channels, patch), parts.timestep_tensor(scheduler_config), *texts),
        outputs=parts.output_tensors(channels, patch, variance=True),
    )


def _mask_feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return masks of texts of 1 token to all, of different lengths in both encoders."""
    first = parts.mask_feeds("text_embedding_mask")({**sizes, "sequence_length": _TOKENS}, seed)
    second = parts.mask_feeds("text_embedding_mask_t5")({**sizes, "sequence_length": _T5_TOKENS}, seed + 1)
    return {**first, **second}


class HunyuanDiT(nn.Module):
    """The denoiser: diffusers' transformer with all that depends on sizes computed from the latents' own.

    Args:
        transformer: is changed: its conditioning is replaced.
    """

    frequencies: Tensor

    def __init__(self, transformer: HunyuanDiT2DModel) -> None:
        super().__init__()
        transformer.time_extra_emb = _Conditioning(transformer.time_extra_emb)
        self.transformer = transformer
        self.base = _BASE_PIXELS // _COMPRESSION // transformer.config.patch_size
        half = transformer.inner_dim // transformer.num_heads // 2
        # As diffusers rounds them: an angle is up to 32 times as far off as its frequency.
        exponents = torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half
        self.register_buffer("frequencies", 1.0 / 10000.0**exponents, persistent=False)  # [head / 4]

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embedding_mask: Tensor,
        encoder_hidden_states_t5: Tensor,
        text_embedding_mask_t5: Tensor,
    ) -> tuple[Tensor, ...]:
        """Predict what the scheduler config says, usually the velocity, and the variance.

        Args:
            latents: [batch, channels, height, width]; height and width are multiples of the patch size.
            timestep: [batch], a training index.
            encoder_hidden_states, encoder_hidden_states_t5: [batch, 77, …] and [batch, 256, …].
            text_embedding_mask, text_embedding_mask_t5: int64 [batch, 77] and [batch, 256], 1 where a token is.

        Returns:
            ``prediction`` and ``variance``, both shaped like ``latents``.
        """
        height, width = (latents.shape[axis] for axis in (2, 3))
        sizes = [torch.full((1,), side * _COMPRESSION, dtype=torch.float32) for side in (height, width)]
        original = torch.tensor(_ORIGINAL_SIZE, dtype=torch.float32)
        image_meta_size = torch.cat([original, *sizes, torch.zeros(2)])  # [6]
        output = self.transformer(
            latents,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            text_embedding_mask=text_embedding_mask,
            encoder_hidden_states_t5=encoder_hidden_states_t5,
            text_embedding_mask_t5=text_embedding_mask_t5,
            image_meta_size=image_meta_size,
            image_rotary_emb=self._rotary(height, width),
            return_dict=False,
        )[0]
        return output.chunk(2, dim=1)

    def _rotary(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [patches, head] of latents' sizes: columns first, then rows, each value twice."""
        patch = self.transformer.config.patch_size
        rows, columns = height // patch, width // patch
        sides = [torch.full((), side, dtype=torch.int64) for side in (rows, columns)]
        longest = torch.maximum(*sides)
        angles = []
        for count, side in zip((rows, columns), sides, strict=True):
            start, stop = resize_crop_region(side, longest, self.base)
            angles.append(cropped_positions(start, stop, count)[:, None] * self.frequencies)  # [side, head / 4]
        down, across = angles
        grid = (rows, columns, down.shape[1])
        both = torch.cat([across[None].expand(grid), down[:, None].expand(grid)], dim=2).flatten(0, 1)
        both = torch.stack([both, both], dim=2).flatten(1)  # [patches, head]
        return both.cos(), both.sin()


def resize_crop_region(side: Tensor, longest: Tensor, base: int) -> tuple[Tensor, Tensor]:
    """Return where a side starts and stops on a square grid of ``base``, in whole patches, int64 like ``side``.

    The grid is made as large as fits the square, and put in its middle; both numbers are rounded half to even, as
    Python's ``round`` in the pipeline does, here by whole numbers alone.
    """
    resized = divide_to_even(base * side, longest)
    start = divide_to_even(base - resized, torch.full_like(side, 2))
    return start, start + resized


class _Conditioning(nn.Module):
    """diffusers' ``HunyuanCombinedTimestepTextSizeStyleEmbedding`` of one size and the only style there is."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.time_proj, self.timestep_embedder = Sinusoid(256), embedding.timestep_embedder
        self.pooler, self.extra_embedder = embedding.pooler, embedding.extra_embedder
        self.style_embedder = getattr(embedding, "style_embedder", None)  # 1.2 has none

    def forward(
        self, timestep: Tensor, states: Tensor, image_meta_size: Tensor, style: None, hidden_dtype: torch.dtype
    ) -> Tensor:
        """Return the conditioning [batch, hidden] of timesteps [batch], T5's states, and a size [6]."""
        extra = self._pooled(states)
        if self.style_embedder is not None:
            sizes = self.time_proj(image_meta_size).reshape(1, -1)  # [1, 6 · 256]
            shared = torch.cat([sizes, self.style_embedder.weight[:1]], dim=1)
            extra = torch.cat([extra, shared.expand(extra.shape[0], -1)], dim=1)
        return self.timestep_embedder(self.time_proj(timestep)) + self.extra_embedder(extra)

    def _pooled(self, states: Tensor) -> Tensor:
        """Return what the mean of states [batch, tokens, width] attends to, padding included, [batch, pooled]."""
        pooler = self.pooler
        x = torch.cat([states.mean(dim=1, keepdim=True), states], dim=1) + pooler.positional_embedding
        q, k, v = (
            linear(source).unflatten(2, (pooler.num_heads, -1)).transpose(1, 2)  # [batch, heads, tokens + 1, head]
            for linear, source in ((pooler.q_proj, x[:, :1]), (pooler.k_proj, x), (pooler.v_proj, x))
        )
        pooled = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return pooler.c_proj(pooled)[:, 0]


class _Reference(nn.Module):
    """The transformer of diffusers, called as its pipeline calls it."""

    def __init__(self, transformer: HunyuanDiT2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, latents: Tensor, timestep: Tensor, *texts: Tensor) -> tuple[Tensor, ...]:
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

        batch, patch = len(latents), self.transformer.config.patch_size
        grid = (latents.shape[2] // patch, latents.shape[3] // patch)
        region = get_resize_crop_region_for_grid(grid, _BASE_PIXELS // _COMPRESSION // patch)
        head = self.transformer.inner_dim // self.transformer.num_heads
        pixels = [side * _COMPRESSION for side in latents.shape[2:]]
        output = self.transformer(
            latents,
            timestep,
            *texts,
            image_meta_size=torch.tensor([[*_ORIGINAL_SIZE, *pixels, 0, 0]], dtype=torch.float32).repeat(batch, 1),
            style=torch.zeros(batch, dtype=torch.int64),
            image_rotary_emb=get_2d_rotary_pos_embed(head, region, grid),
            return_dict=False,
        )[0]
        return output.chunk(2, dim=1)
