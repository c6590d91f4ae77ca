"""CogVideoX 2B, 5B and 1.5, from text and from a picture (Yang et al. 2024, arXiv 2408.06072).

One transformer over text and video tokens alike, with an adaLN of its own for either. The network is diffusers' own but
for what depends on sizes, which its pipelines and modules compute in Python: positions of three kinds.

- 2B adds sines and cosines of frame, column and row, at any size.
- 5B turns queries and keys by them (rotary). The grid of patches is laid over the usual one, scaled to fit and put in
  its middle. Its image-to-video model adds a learned table too, and knows one height and width.
- 1.5 turns them by frame, row and column themselves, up to the usual grid. A patch has two latent frames: an odd
  number of them, which is what the autoencoder takes, is made even by one in front.

``use_dynamic_cfg`` of the pipelines is left out: it takes the training timestep where the formula has the step, and its
scale jumps at random from step to step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXTransformer3DModel
from diffusers.models.embeddings import CogVideoXPatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import (
    Axis,
    Component,
    Guidance,
    ImageConditions,
    Latents,
    PromptEncoder,
    Prompts,
    Scheduler,
    TensorSpec,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_cogvideox as autoencoder
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families._rotary import cropped_positions, divide_to_even, rotate
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import t5
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["Denoiser", "crop_region", "open_pipeline"]

#: Tokens of a prompt, which the pipelines pad to and give no mask of.
_TOKENS = 226
#: Pictures a second that the models were trained at, as their cards say; no config does. The second is 1.5's.
_FRAME_RATES = (8.0, 16.0)
#: What 1.5's image-to-video model is told of a video's offset, always.
_OFFSET = 2.0
#: Patches on a side up to which positions are the pipelines' to the last patch, 4096 pixels.
_LONGEST = 256
#: Patches on a side at which the denoiser is proved.
_PROVED = 8
_BATCH = Axis(name="batch")
_IMAGE = "image_latents"


def open_pipeline(folder: Path) -> Source:
    """Open a folder that one of CogVideoX's pipelines saved.

    Raises:
        SourceError: a part is missing, of a form that the pipeline cannot run, or parts do not fit each other.
    """
    from_image = files.read_json(folder / "model_index.json")["_class_name"] == CogVideoXImageToVideoPipeline.__name__
    transformer, vae, text_encoder = folder / "transformer", folder / "vae", folder / "text_encoder"
    config = _config(transformer, from_image=from_image)
    record = read_record(folder, "transformer", "vae", "text_encoder")
    scheduler_config = record["scheduler_config"]
    vae_config = autoencoder.read(vae, config["out_channels"])
    padding = 0 if config["patch_size_t"] is None else 1
    encoder = t5.graph(text_encoder, "text_encoder", tokens=_TOKENS, attends_mask=False)
    check_width(folder, encoder, config["text_embed_dim"], "text_embed_dim")
    graphs = [encoder, *autoencoder.graphs(vae, vae_config, padding)]
    if from_image:
        graphs.append(autoencoder.image_graph(vae, vae_config, padding, "image_conditions", _IMAGE))
    sides = {f"patch_{side}": min(_PROVED, _base(config)[index]) for index, side in enumerate(("height", "width"))}
    graphs.append(
        Graph(
            "denoiser",
            _component(config, scheduler_config),
            lambda: Denoiser(_load(transformer)),
            {"batch": 2, "patch_frames": 4, **sides, "sequence_length": _TOKENS},
            reference=lambda: _Reference(_load(transformer)),
        )
    )
    return Source(
        family="cogvideox",
        **record,
        graphs=tuple(graphs),
        latents=Latents(
            channels=config["out_channels"],
            frames=_usual_frames(config) + padding,
            height=config["sample_height"],
            width=config["sample_width"],
            patch_size=config["patch_size"],
            temporal_patch_size=1 + padding,
            spatial_compression=autoencoder.compression(vae_config),
            temporal_compression=autoencoder.FRAMES,
            scaling_factor=vae_config["scaling_factor"],
            frame_rate=_FRAME_RATES[padding],
            noise_axes="frames_channels",
        ),
        prediction=parts.read_prediction(scheduler_config),
        guidance=Guidance(kind="classifier_free", default_scale=6.0),
        scheduler=Scheduler(num_inference_steps=50),
        prompts=Prompts(
            encoders=(PromptEncoder(component="text_encoder", tokenizer="tokenizer/tokenizer.json"),),
        ),
        image_conditions=ImageConditions(component="image_conditions", required=True) if from_image else None,
        tiling=autoencoder.tiling(vae_config),
        files={"tokenizer/tokenizer.json": partial(tokenizer_json, folder / "tokenizer", length=_TOKENS)},
        notes=("a video has 8 k + 1 frames: the autoencoder's usual counts",),
    )


def _load(folder: Path) -> CogVideoXTransformer3DModel:
    return load_diffusers(CogVideoXTransformer3DModel, folder)


def _config(folder: Path, *, from_image: bool) -> dict[str, Any]:
    """Return the transformer's config with its class's defaults filled in, checked; no weight is read."""
    config = read_config(CogVideoXTransformer3DModel, folder)
    channels, taken = config["out_channels"], config["in_channels"]
    if taken != channels * (2 if from_image else 1):
        what = "image-to-video takes twice as many as it predicts" if from_image else "from text it takes as many"
        raise SourceError(f"{folder} takes {taken} channels and predicts {channels}; {what}")
    if not config["flip_sin_to_cos"] or config["freq_shift"]:
        raise SourceError(f"{folder} embeds timesteps in another way than CogVideoX (flip_sin_to_cos, freq_shift)")
    rotary, learned = config["use_rotary_positional_embeddings"], config["use_learned_positional_embeddings"]
    if rotary and config["attention_head_dim"] % 16:
        raise SourceError(
            f"{folder} has heads of {config['attention_head_dim']}; rotary positions need a multiple of 16"
        )
    if (learned or not rotary) and config["max_text_seq_length"] != _TOKENS:
        raise SourceError(
            f"{folder} has positions for {config['max_text_seq_length']} tokens of text; the pipelines give {_TOKENS}"
        )
    if config["patch_size_t"] not in (None, 2) or (config["patch_size_t"] and (learned or not rotary)):
        raise SourceError(
            f"{folder} has patch_size_t {config['patch_size_t']}; expected none, or 2 with rotary positions alone"
        )
    if config["ofs_embed_dim"] and not from_image:
        raise SourceError(f"{folder} takes an offset (ofs_embed_dim), which only image-to-video gives it")
    if config["temporal_compression_ratio"] != autoencoder.FRAMES:
        raise SourceError(
            f"{folder} has temporal_compression_ratio {config['temporal_compression_ratio']}; "
            f"expected {autoencoder.FRAMES}, the autoencoder's"
        )
    return config


def _usual_frames(config: Mapping[str, Any]) -> int:
    """Return the latent frames of the usual video without padding, an odd number."""
    frames = (config["sample_frames"] - 1) // autoencoder.FRAMES + 1
    return int(max(1, frames - 1 + frames % 2))


def _base(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the usual grid: rows and columns of patches."""
    return config["sample_height"] // config["patch_size"], config["sample_width"] // config["patch_size"]


def _component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    channels = config["out_channels"]
    learned = config["use_learned_positional_embeddings"]
    sides = []
    for side, usual in zip(("height", "width"), _base(config), strict=True):
        limit = usual if learned or config["patch_size_t"] else None
        sides.append(
            Axis(
                name=f"patch_{side}",
                multiple=config["patch_size"],
                minimum=usual if learned else 1,
                maximum=limit,
            )
        )
    frames = Axis(name="patch_frames", multiple=config["patch_size_t"] or 1)
    axes = (_BATCH, channels, frames, *sides)
    # Where positions are added, diffusers has them for so many tokens of text and for no others.
    tokens = Axis(name="sequence_length") if config["use_rotary_positional_embeddings"] and not learned else _TOKENS
    inputs = [
        TensorSpec(name="latents", dtype="float32", axes=axes),
        parts.timestep_tensor(scheduler_config),
        parts.text_tensor(config["text_embed_dim"], tokens=tokens),
    ]
    if config["in_channels"] != channels:
        inputs.append(TensorSpec(name=_IMAGE, dtype="float32", axes=axes, description="of the first picture"))
    prediction = TensorSpec(name="prediction", dtype="float32", axes=axes, description="what the model predicts")
    return Component(path="denoiser/model.onnx", inputs=tuple(inputs), outputs=(prediction,))


class Denoiser(nn.Module):
    """diffusers' transformer on latents with channels before frames, its positions computed from the latents' sizes.

    Args:
        transformer: is changed: its embeddings and its attention are replaced.
    """

    def __init__(self, transformer: CogVideoXTransformer3DModel) -> None:
        super().__init__()
        config = transformer.config
        self.patch, self.frames = config.patch_size, config.patch_size_t or 1
        self.offset = _OFFSET if config.ofs_embed_dim else None
        width = config.num_attention_heads * config.attention_head_dim
        transformer.time_proj = Sinusoid(width)
        if config.ofs_embed_dim:
            transformer.ofs_proj = Sinusoid(config.ofs_embed_dim)
        transformer.patch_embed = _Patches(transformer.patch_embed, _base(config))
        transformer.set_attn_processor(_Attention())
        self.rotary: _Rotary | None = None
        if config.use_rotary_positional_embeddings:
            self.rotary = _Rotary(config.attention_head_dim, None if config.patch_size_t else _base(config))
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, image_latents: Tensor | None = None
    ) -> tuple[Tensor]:
        """Predict what the scheduler config says, usually the velocity.

        Args:
            latents: [batch, channels, frames, height, width]; frames, height and width are whole patches.
            timestep: [batch], a training index.
            encoder_hidden_states: [batch, tokens, text_embed_dim], padding included.
            image_latents: shaped like ``latents``, of the first picture, and zeros: for image-to-video.

        Returns:
            the prediction, shaped like ``latents``.
        """
        x = latents if image_latents is None else torch.cat([latents, image_latents], dim=1)
        _, _, frames, height, width = latents.shape
        grid = (frames // self.frames, height // self.patch, width // self.patch)
        prediction = self.transformer(
            x.transpose(1, 2),
            encoder_hidden_states,
            timestep,
            ofs=None if self.offset is None else torch.full((1,), self.offset),
            image_rotary_emb=None if self.rotary is None else self.rotary(encoder_hidden_states.shape[1], *grid),
            return_dict=False,
        )[0]
        return (prediction.transpose(1, 2),)


class _Patches(nn.Module):
    """Text [batch, tokens, width] and latents [batch, frames, channels, height, width] → tokens of both, text first."""

    def __init__(self, embed: CogVideoXPatchEmbed, base: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.frames = embed.patch_size, embed.patch_size_t
        self.proj, self.text_proj = embed.proj, embed.text_proj
        self.positions: nn.Module | None = None
        if embed.use_positional_embeddings or embed.use_learned_positional_embeddings:
            self.positions = _Positions(embed)
        self.learned: nn.Module | None = None
        if embed.use_learned_positional_embeddings:
            self.learned = _LearnedPositions(embed, base)

    def forward(self, text: Tensor, latents: Tensor) -> Tensor:
        batch, frames, channels, height, width = latents.shape
        if self.frames is None:
            x = self.proj(latents.reshape(batch * frames, channels, height, width))
            rows, columns = x.shape[2], x.shape[3]
            x = x.reshape(batch, frames, -1, rows * columns).transpose(2, 3)
            x = x.reshape(batch, frames * rows * columns, -1)
        else:
            frames, rows, columns = frames // self.frames, height // self.patch, width // self.patch
            x = latents.reshape(batch, frames, self.frames, channels, rows, self.patch, columns, self.patch)
            x = x.permute(0, 1, 4, 6, 3, 2, 5, 7)  # a patch holds [channels, 2, 2, 2]
            x = self.proj(x.reshape(batch, frames * rows * columns, self.proj.in_features))
        tokens = torch.cat([self.text_proj(text), x], dim=1)
        if self.positions is None:
            return tokens
        positions = self.positions(frames, rows, columns)
        if self.learned is not None:
            return tokens + self.learned(positions, frames)
        return tokens + F.pad(positions, (0, 0, text.shape[1], 0))


class _Positions(nn.Module):
    """Sines, then cosines, of frame, column and row, in this order, [frames · rows · columns, width]."""

    temporal: Tensor
    spatial: Tensor

    def __init__(self, embed: CogVideoXPatchEmbed) -> None:
        super().__init__()
        for name, channels in (("temporal", embed.embed_dim // 4), ("spatial", 3 * embed.embed_dim // 8)):
            frequencies = 1.0 / 10000 ** (torch.arange(channels // 2, dtype=torch.float64) / (channels / 2))
            self.register_buffer(name, frequencies.float(), persistent=False)
        self.temporal_scale = embed.temporal_interpolation_scale
        self.spatial_scale = embed.spatial_interpolation_scale

    def forward(self, frames: int, rows: int, columns: int) -> Tensor:
        def encode(count: int, scale: float, frequencies: Tensor) -> Tensor:  # [count, 2 · frequencies]
            angles = (torch.arange(count, dtype=torch.float32) / scale)[:, None] * frequencies
            return torch.cat([angles.sin(), angles.cos()], dim=1)

        made = (
            encode(frames, self.temporal_scale, self.temporal)[:, None, None],
            encode(columns, self.spatial_scale, self.spatial)[None, None],
            encode(rows, self.spatial_scale, self.spatial)[None, :, None],
        )
        grid = (frames, rows, columns)
        return torch.cat([part.expand(*grid, part.shape[3]) for part in made], dim=3).flatten(0, 2)


class _LearnedPositions(nn.Module):
    """The table that was learned, [1, tokens, width], for a video of the usual length; computed positions else.

    That is what diffusers does. The table is of one height and width, and covers the text too.
    """

    def __init__(self, embed: CogVideoXPatchEmbed, base: tuple[int, int]) -> None:
        super().__init__()
        patches = base[0] * base[1]
        text, video = embed.pos_embedding[0].split(
            [embed.max_text_seq_length, embed.pos_embedding.shape[1] - embed.max_text_seq_length]
        )
        self.text = nn.Parameter(text.clone(), requires_grad=False)
        self.video = nn.Parameter(video.reshape(-1, patches, video.shape[1]).clone(), requires_grad=False)

    def forward(self, positions: Tensor, frames: int) -> Tensor:
        usual, patches, width = self.video.shape
        index = torch.arange(frames)
        here = (index[-1] == usual - 1).to(positions.dtype)  # 1 for the usual length, 0 for another
        learned = self.video[index.clamp(max=usual - 1)].reshape(frames * patches, width)
        video = learned * here + positions * (1 - here)
        return torch.cat([self.text * here, video])[None]


class _Rotary(nn.Module):
    """Cosines and sines [tokens + frames · rows · columns, head] of text, which is not turned, and of patches.

    A quarter of the channels turns by the frame, three eighths each by row and column; each value stands twice in a
    row.

    Args:
        head: channels of a head.
        base: the usual grid, rows and columns, that a grid is laid over; ``None``: rows and columns count themselves.
    """

    temporal: Tensor
    spatial: Tensor

    def __init__(self, head: int, base: tuple[int, int] | None) -> None:
        super().__init__()
        self.base = base
        for name, channels in (("temporal", head // 4), ("spatial", head // 8 * 3)):
            exponents = torch.arange(0, channels, 2, dtype=torch.float32) / channels
            self.register_buffer(name, 1.0 / 10000.0**exponents, persistent=False)

    def forward(self, tokens: int, frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        down, across = torch.arange(rows).float(), torch.arange(columns).float()
        if self.base is not None:
            starts, stops = crop_region(rows, columns, self.base)
            down, across = (
                cropped_positions(start, stop, count)
                for start, stop, count in zip(starts, stops, (rows, columns), strict=True)
            )
        turned = (
            (torch.arange(frames).float()[:, None] * self.temporal)[:, None, None],
            (down[:, None] * self.spatial)[None, :, None],
            (across[:, None] * self.spatial)[None, None],
        )
        angles = torch.cat([part.expand(frames, rows, columns, part.shape[3]) for part in turned], dim=3)
        angles = F.pad(angles.flatten(0, 2), (0, 0, tokens, 0))  # the angle of text is 0
        twice = torch.stack([angles, angles], dim=2).flatten(1)
        return twice.cos(), twice.sin()


def crop_region(rows: int, columns: int, base: tuple[int, int]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return where a grid begins and where it ends, (row, column) each, laid over ``base``, whole numbers as tensors.

    It is scaled to fit inside, and put in the middle; both are rounded half to even, as in the pipelines.
    """
    height, width = (torch.full((), side, dtype=torch.int64) for side in (rows, columns))
    tall = height * base[1] > width * base[0]
    shorter = torch.where(tall, divide_to_even(base[0] * width, height), divide_to_even(base[1] * height, width))
    if missed := missed_halves(base):
        grids = torch.tensor(missed, dtype=torch.int64)  # [missed, 3]
        here = (grids[:, 0] == height) & (grids[:, 1] == width)
        shorter = shorter + (here * grids[:, 2]).sum()
    down, across = torch.where(tall, base[0], shorter), torch.where(tall, shorter, base[1])
    top, left = (
        divide_to_even(side - made, torch.full_like(made, 2)) for side, made in zip(base, (down, across), strict=True)
    )
    return (top, left), (top + down, left + across)


@cache
def missed_halves(base: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return the grids up to :data:`_LONGEST` whose shorter side the pipelines round the other way, and by how much.

    It is so many and a half there. But the pipelines divide first, in float64, and what they multiply then may be off
    by a last place: ``round(30 / 52 * 13)`` is 7, where ``round(30 * 13 / 52)`` is 8. (rows, columns, 1 or −1) each.
    """
    missed = []
    for rows, columns in product(range(1, _LONGEST + 1), repeat=2):
        tall = rows * base[1] > columns * base[0]
        usual, longer, other = (base[0], rows, columns) if tall else (base[1], columns, rows)
        off = round(usual / longer * other) - round(usual * other / longer)
        if off:
            missed.append((rows, columns, off))
    return missed


class _Attention:
    """diffusers' ``CogVideoXAttnProcessor2_0`` for rotary angles of text and video together."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        tokens = encoder_hidden_states.shape[1]
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (
            linear(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)  # [batch, heads, tokens, head]
            for linear in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = attn.to_out[0](x)
        return x[:, tokens:], x[:, :tokens]


class _Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipelines call it."""

    def __init__(self, transformer: CogVideoXTransformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, image_latents: Tensor | None = None
    ) -> tuple[Tensor]:
        config = self.transformer.config
        x = latents if image_latents is None else torch.cat([latents, image_latents], dim=1)
        rotary = None
        if config.use_rotary_positional_embeddings:
            _, _, frames, height, width = latents.shape
            pipeline: Any = SimpleNamespace(transformer=self.transformer, vae_scale_factor_spatial=1)
            make = CogVideoXImageToVideoPipeline._prepare_rotary_positional_embeddings
            rotary = make(pipeline, height, width, frames, latents.device)
        prediction = self.transformer(
            hidden_states=x.permute(0, 2, 1, 3, 4),
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            ofs=None if config.ofs_embed_dim is None else latents.new_full((1,), fill_value=2.0),
            image_rotary_emb=rotary,
            return_dict=False,
        )[0]
        return (prediction.permute(0, 2, 1, 3, 4),)
