"""SpacetimeDiT: a diffusion transformer over spacetime patches of video, the project's own, to train and to study.

A video of latents is cut into patches of p_t × p_h × p_w, each a token; a transformer runs over all of them, whatever
their number, with text by cross-attention (Sora: Brooks et al. 2024, "Video generation models as world simulators").
What is taken from where:

- blocks and their modulation, adaLN-Zero: Peebles & Xie, DiT (ICCV 2023, arXiv 2212.09748)
- attention over space and over time in turn: ViViT (Arnab et al. 2021, arXiv 2103.15691, model 3), in a DiT first by
  Latte (Ma et al. 2024, arXiv 2401.03048, variant 1)
- cross-attention to text after self-attention: PixArt-α (Chen et al. 2023, arXiv 2310.00426); beside the timestep the
  text as a whole, here the mean of its tokens: Stable Diffusion 3 (Esser et al. 2024, arXiv 2403.03206)
- rotary positions in three axes: RoPE (Su et al. 2021, arXiv 2104.09864), split over axes as in CogVideoX (Yang et al.
  2024, arXiv 2408.06072); sines and cosines in three axes likewise
- queries and keys of length √d before their product: Dehghani et al. 2023 (arXiv 2302.05442), with RMSNorm as in Stable
  Diffusion 3
- windows that shift inwards at the border, so that each patch sees equally many: Neighborhood Attention (Hassani et al.
  2023, arXiv 2204.07143); shared by the queries of a block as in blocked local attention (Vaswani et al. 2021, HaloNet,
  arXiv 2103.12731)

A picture is a video of one frame: the same weights serve both. Where patches are longer than a frame, the first of them
holds one frame alone, as causal video autoencoders have it: 1, 1 + p_t, 1 + 2·p_t, … frames fit.

Nothing of the size is a number in Python: grid, positions and windows are computed from the latents' own axes, so that
one traced graph serves every number of frames, height and width. Everything is real float32, without complex numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.errors import SourceError
from dit_deploy.exporters.families.dit import FREQUENCIES, geometric_frequencies, modulate
from dit_deploy.exporters.masks import key_bias

__all__ = ["SpacetimeDiT", "SpacetimeDiTConfig"]

_EPSILON = 1e-6  # of every normalisation


@dataclass(frozen=True)
class SpacetimeDiTConfig:
    """Sizes of a SpacetimeDiT.

    ``SpacetimeDiTConfig(hidden_size=1152, depth=28, num_heads=16)`` has DiT-XL/2's sizes, and cross-attention more.

    Attributes:
        in_channels: of the latents; the prediction has as many.
        text_width: channels of the text's hidden states.
        patch_size: frames, rows and columns of a patch: (p_t, p_h, p_w).
        attention: ``joint``, every patch to every patch; or ``factorised``, blocks 0, 2, … over the patches of a frame,
            blocks 1, 3, … over the patches at a place.
        positions: ``rotary``, turning queries and keys, which tells how far apart patches are; ``sincos``, added to the
            patches once, which tells where each is; or ``both``.
        window: frames, rows and columns of patches that each patch sees, M = their product; ``None`` sees everything.
            Even numbers, or 1 for the own frame, row or column alone; where the video has fewer, all of them are seen.
            The queries of a block of half as many along each axis share a window, so a patch sees at least a quarter of
            ``window`` on either side, but at a border, where windows shift inwards.
        mlp_ratio: width of the feed-forward layers over ``hidden_size``.
        sample_size: frames, rows and columns of the latents in training, which runtimes take where none are asked for.
    """

    hidden_size: int
    depth: int
    num_heads: int
    in_channels: int = 16
    text_width: int = 512
    patch_size: tuple[int, int, int] = (1, 2, 2)
    attention: Literal["joint", "factorised"] = "joint"
    positions: Literal["rotary", "sincos", "both"] = "rotary"
    window: tuple[int, int, int] | None = None
    mlp_ratio: float = 4.0
    sample_size: tuple[int, int, int] = (16, 32, 32)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size % 8:
            raise SourceError(
                f"hidden_size {self.hidden_size} must be a multiple of 8 and of the {self.num_heads} heads"
            )
        if self.head_dim % 2 or self.head_dim < 6:
            raise SourceError(
                f"{self.hidden_size} channels in {self.num_heads} heads are {self.head_dim} each; rotary positions in "
                "three axes take an even number of at least 6"
            )
        triples = {"patch_size": self.patch_size, "window": self.window or (1, 1, 1), "sample_size": self.sample_size}
        for name, triple in triples.items():
            if len(triple) != 3 or min(triple) < 1:
                raise SourceError(f"{name} {list(triple)} is not three numbers of at least 1: frames, rows, columns")
        if any(side > 1 and side % 2 for side in self.window or ()):
            raise SourceError(f"window {list(self.window or ())} must have even sides, or sides of 1")
        for name, value, known in (
            ("attention", self.attention, ("joint", "factorised")),
            ("positions", self.positions, ("rotary", "sincos", "both")),
        ):
            if value not in known:
                raise SourceError(f"{name} {value!r} is none of {', '.join(known)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpacetimeDiTConfig:
        """Return the config that :meth:`to_dict` wrote; names that begin with ``_`` are left out.

        Raises:
            SourceError: a name is not known or missing, or a value is not what it must be.
        """
        given: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in values.items() if name[0] != "_"
        }
        if unknown := sorted(set(given) - {each.name for each in fields(cls)}):
            raise SourceError(f"a SpacetimeDiT has no {unknown[0]!r}")
        try:
            return cls(**given)
        except TypeError as error:
            raise SourceError(f"the config of a SpacetimeDiT does not fit: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        return {"_class_name": SpacetimeDiT.__name__, **asdict(self)}

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_heads

    def axes_of(self, layer: int) -> Literal["all", "space", "time"]:
        """Which axes block ``layer``, from 0, attends over."""
        if self.attention == "joint":
            return "all"
        return "time" if layer % 2 else "space"


def rotary_angles(grid: tuple[int, int, int], frequencies: tuple[Tensor, ...]) -> Tensor:
    """Return the angle [patches, head_dim / 2] of each pair of channels at each patch of a grid, frame by frame.

    ``frequencies`` are those of each axis, radians a patch; a pair turns with the position along its own axis.
    """
    frames, height, width = grid
    shape = (frames, height, width, -1)
    along = [
        torch.arange(length, device=each.device)[:, None] * each[None, :]  # [length, pairs of this axis]
        for length, each in zip(grid, frequencies, strict=True)
    ]
    parts = [
        along[0][:, None, None, :].expand(*shape),
        along[1][None, :, None, :].expand(*shape),
        along[2][None, None, :, :].expand(*shape),
    ]
    return torch.cat(parts, dim=3).flatten(0, 2)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn ``x`` [batch, patches, heads, head_dim] by angles whose cosines and sines are [patches, 1, head_dim].

    Channel i and channel i + head_dim / 2 are the real and the imaginary part of one number.
    """
    real, imaginary = x.chunk(2, dim=3)
    return x * cosines + torch.cat([-imaginary, real], dim=3) * sines


def sincos_table(grid: tuple[int, int, int], frequencies: tuple[Tensor, ...]) -> Tensor:
    """Return position embeddings [1, patches, hidden]: sines, then cosines, of frame, row and column."""
    angles = rotary_angles(grid, frequencies)  # [patches, hidden / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)[None]


@dataclass(frozen=True)
class Windows:
    """Which patches attend to which: blocks of queries, each with the keys that it shares.

    Attributes:
        queries: int64 [blocks · block], patches in the order of blocks; a block that the grid cuts off repeats some.
        keys: int64 [blocks · seen], the patches that each block sees.
        block: queries of a block.
        seen: keys of a block, M or all there are.
        back: int64 [patches], where each patch is among ``queries``.
    """

    queries: Tensor
    keys: Tensor
    block: int
    seen: int
    back: Tensor


def windows(grid: tuple[int, int, int], window: tuple[int, int, int]) -> Windows:
    """Return the windows of a grid of patches (frames, rows, columns), counted frame by frame."""
    queries, keys, back = zip(*(_along(length, seen) for length, seen in zip(grid, window, strict=True)), strict=True)
    blocks = [side // 2 if side > 1 else 1 for side in window]
    seen = [_fewer(side, length) if side > 1 else 1 for length, side in zip(grid, window, strict=True)]
    _, height, width = grid
    count_down, count_across = queries[1].shape[0], queries[2].shape[0]
    # The place of a patch: its block, and where it is inside, along each axis.
    block = (back[0][0][:, None, None] * count_down + back[1][0][:, None]) * count_across + back[2][0]
    inside = (back[0][1][:, None, None] * blocks[1] + back[1][1][:, None]) * blocks[2] + back[2][1]
    size = blocks[0] * blocks[1] * blocks[2]
    return Windows(
        queries=_combined(queries, height, width),
        keys=_combined(keys, height, width),
        block=size,
        seen=seen[0] * seen[1] * seen[2],
        back=(block * size + inside).flatten(),
    )


def _fewer(window: int, length: int) -> int:
    """The smaller of the two, also where ``length`` is a size that is not known yet."""
    fewer: int = torch.sym_min(window, length)  # type: ignore[no-untyped-call]
    return fewer


def _along(length: int, window: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Along one axis: queries [blocks, block], keys [blocks, seen], and of each place its block and its place there."""
    places = torch.arange(length)
    if window == 1:
        return places[:, None], places[:, None], (places, torch.zeros_like(places))
    block = window // 2
    seen = _fewer(window, length)
    starts = torch.arange((length + block - 1) // block) * block
    first = torch.minimum((starts - (window - block) // 2).clamp(min=0), places[-1] + 1 - seen)
    queries = torch.minimum(starts[:, None] + torch.arange(block), places[-1])
    return queries, first[:, None] + torch.arange(seen), (places // block, places % block)


def _combined(along: tuple[Tensor, Tensor, Tensor], height: int, width: int) -> Tensor:
    """Patches, counted frame by frame, of places [blocks, n] along each axis: [all blocks · all places in them]."""
    frames = along[0][:, None, None, :, None, None]
    rows = along[1][None, :, None, None, :, None]
    columns = along[2][None, None, :, None, None, :]
    return ((frames * height + rows) * width + columns).flatten()


class RMSNorm(nn.Module):
    """x / √(mean of x² over the last axis) · weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + _EPSILON) * self.weight


class SelfAttention(nn.Module):
    """Attention of patches to patches: all, those of the frame, or those at the place; in windows or not."""

    def __init__(self, config: SpacetimeDiTConfig, layer: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.num_heads, self.axes = config.num_heads, config.axes_of(layer)
        self.to_q, self.to_k, self.to_v = (nn.Linear(hidden, hidden) for _ in range(3))
        self.to_out = nn.Linear(hidden, hidden)
        self.norm_q, self.norm_k = RMSNorm(config.head_dim), RMSNorm(config.head_dim)

    def forward(
        self,
        x: Tensor,
        grid: tuple[int, int, int],
        turn: tuple[Tensor, Tensor] | None,
        window: Windows | None,
    ) -> Tensor:
        """Attend over ``x`` [batch, patches, hidden]; ``turn`` holds cosines and sines for :func:`rotate`."""
        frames, height, width = grid
        q, k, v = (one(x).unflatten(2, (self.num_heads, -1)) for one in (self.to_q, self.to_k, self.to_v))
        q, k = self.norm_q(q), self.norm_k(k)  # [batch, patches, heads, head_dim]
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        if self.axes == "space":  # [batch · frames, patches of a frame, …]
            q, k, v = (one.reshape(-1, height * width, *one.shape[2:]) for one in (q, k, v))
        elif self.axes == "time":  # [batch · patches of a frame, frames, …]
            q, k, v = (self._frames_last(one, frames, height * width) for one in (q, k, v))
        x = self._attend(q, k, v, window).flatten(2)
        if self.axes == "space":
            x = x.reshape(-1, frames * height * width, x.shape[2])
        elif self.axes == "time":
            x = x.reshape(-1, height * width, frames, x.shape[2]).transpose(1, 2).flatten(1, 2)
        return self.to_out(x)

    @staticmethod
    def _frames_last(x: Tensor, frames: int, places: int) -> Tensor:
        """[batch, frames · places, heads, head_dim] → [batch · places, frames, heads, head_dim]."""
        return x.reshape(-1, frames, places, *x.shape[2:]).transpose(1, 2).flatten(0, 1)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, window: Windows | None) -> Tensor:
        """Attention of [n, tokens, heads, head_dim] each, in blocks where there are windows."""
        count = q.shape[0]
        if window is not None:  # [n · blocks, block or seen, heads, head_dim]
            q = q.index_select(1, window.queries).reshape(-1, window.block, *q.shape[2:])
            k, v = (one.index_select(1, window.keys).reshape(-1, window.seen, *one.shape[2:]) for one in (k, v))
        x = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2)
        if window is not None:
            x = x.reshape(count, -1, *x.shape[2:]).index_select(1, window.back)
        return x


class CrossAttention(nn.Module):
    """Attention of patches to the text's tokens."""

    def __init__(self, config: SpacetimeDiTConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(hidden, hidden) for _ in range(3))
        self.to_out = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        """Attend from ``x`` [batch, patches, hidden] to ``text`` [batch, tokens, hidden] with an added bias."""
        q, k, v = (
            one.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # [batch, heads, patches or tokens, head_dim]
            for one in (self.to_q(x), self.to_k(text), self.to_v(text))
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.to_out(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and the last modulated by adaLN-Zero."""

    def __init__(self, config: SpacetimeDiTConfig, layer: int) -> None:
        super().__init__()
        hidden, mlp = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=_EPSILON, elementwise_affine=False)
        self.attention = SelfAttention(config, layer)
        self.cross_norm = nn.LayerNorm(hidden, eps=_EPSILON)
        self.cross_attention = CrossAttention(config)
        self.mlp_norm = nn.LayerNorm(hidden, eps=_EPSILON, elementwise_affine=False)
        self.mlp_in, self.mlp_out = nn.Linear(hidden, mlp), nn.Linear(mlp, hidden)

    def forward(
        self,
        x: Tensor,
        conditioning: Tensor,
        text: Tensor,
        bias: Tensor,
        grid: tuple[int, int, int],
        turn: tuple[Tensor, Tensor] | None,
        window: Windows | None,
    ) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation(conditioning).chunk(6, dim=1)
        attended = self.attention(modulate(self.attention_norm(x), shift_msa, scale_msa), grid, turn, window)
        x = x + gate_msa[:, None] * attended
        x = x + self.cross_attention(self.cross_norm(x), text, bias)
        expanded = F.gelu(self.mlp_in(modulate(self.mlp_norm(x), shift_mlp, scale_mlp)), approximate="tanh")
        return x + gate_mlp[:, None] * self.mlp_out(expanded)


class SpacetimeDiT(nn.Module):
    """The denoiser. A fresh one is initialised to be trained: adaLN-Zero, so its prediction is 0 everywhere."""

    timestep_frequencies: Tensor

    def __init__(self, config: SpacetimeDiTConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        volume = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
        self.register_buffer("timestep_frequencies", geometric_frequencies(FREQUENCIES // 2), persistent=False)
        for kind, width in (("rotary", config.head_dim), ("sincos", hidden)):
            for axis, pairs in enumerate(_pairs(width)):
                self.register_buffer(f"{kind}_frequencies_{axis}", geometric_frequencies(pairs), persistent=False)
        self.patch_in = nn.Linear(volume * config.in_channels, hidden)
        self.timestep_in, self.timestep_out = nn.Linear(FREQUENCIES, hidden), nn.Linear(hidden, hidden)
        self.text_in, self.text_out = nn.Linear(config.text_width, hidden), nn.Linear(hidden, hidden)
        self.text_mean = nn.Linear(hidden, hidden)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.final_modulation = nn.Linear(hidden, 2 * hidden)
        self.final_norm = nn.LayerNorm(hidden, eps=_EPSILON, elementwise_affine=False)
        self.patch_out = nn.Linear(hidden, volume * config.in_channels)
        self._initialise()

    def _initialise(self) -> None:
        """DiT's initialisation: Xavier for linear layers; 0 for modulation, what text adds anywhere, and the last."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear in (self.timestep_in, self.timestep_out, self.text_in, self.text_out):
            nn.init.normal_(linear.weight, std=0.02)
        zero: list[nn.Linear] = [self.text_mean, self.final_modulation, self.patch_out]
        for block in self.blocks:
            zero += [block.modulation, block.cross_attention.to_out]  # type: ignore[list-item, union-attr]
        for linear in zero:
            nn.init.zeros_(linear.weight)

    def _frequencies(self, kind: Literal["rotary", "sincos"]) -> tuple[Tensor, ...]:
        """Return the frequencies along frames, rows and columns."""
        return tuple(getattr(self, f"{kind}_frequencies_{axis}") for axis in range(3))

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        """Predict, of noisy latents, what the model was trained to: velocity or noise.

        Args:
            latents: [batch, channels, frames, height, width]; height and width are multiples of the patch's, frames a
                multiple of p_t, plus 1 − p_t.
            timestep: [batch], a training index 0 … 1000; fractions are allowed.
            encoder_hidden_states: the text's, [batch, tokens, text_width].
            encoder_attention_mask: int64 [batch, tokens], 1 where a token is.

        Returns:
            ``prediction``, shaped like ``latents``.
        """
        config = self.config
        x, grid = self._patches(latents)
        x = self.patch_in(x)  # [batch, patches, hidden]
        if config.positions != "rotary":
            x = x + sincos_table(grid, self._frequencies("sincos"))
        turn: tuple[Tensor, Tensor] | None = None
        if config.positions != "sincos":
            angles = rotary_angles(grid, self._frequencies("rotary"))
            turn = _both_halves(angles.cos()), _both_halves(angles.sin())
        window = self._windows(grid)

        angles = timestep[:, None] * self.timestep_frequencies[None, :]  # [batch, 128]
        sinusoid = torch.cat([angles.cos(), angles.sin()], dim=1)
        text = self.text_out(F.gelu(self.text_in(encoder_hidden_states), approximate="tanh"))  # [batch, tokens, hidden]
        seen = encoder_attention_mask.to(x.dtype)[:, :, None]
        mean = (text * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        conditioning = F.silu(self.timestep_out(F.silu(self.timestep_in(sinusoid))) + self.text_mean(mean))
        bias = key_bias(encoder_attention_mask, x.shape[1], x.dtype)  # [batch, 1, patches, tokens]

        for layer, block in enumerate(self.blocks):
            x = block(x, conditioning, text, bias, grid, turn, window.get(config.axes_of(layer)))

        shift, scale = self.final_modulation(conditioning).chunk(2, dim=1)
        return (self._video(self.patch_out(modulate(self.final_norm(x), shift, scale)), grid),)

    def _patches(self, latents: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Return the patches [batch, patches, channels · volume], frame by frame, row by row, and their grid."""
        batch, channels = latents.shape[:2]
        p_t, p_h, p_w = self.config.patch_size
        if p_t > 1:  # the first frame is alone in its patch
            latents = torch.cat([latents[:, :, :1].expand(-1, -1, p_t - 1, -1, -1), latents], dim=2)
        grid = latents.shape[2] // p_t, latents.shape[3] // p_h, latents.shape[4] // p_w
        x = latents.reshape(batch, channels, grid[0], p_t, grid[1], p_h, grid[2], p_w)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [batch, frames, height, width, channels, p_t, p_h, p_w]
        return x.reshape(batch, grid[0] * grid[1] * grid[2], channels * p_t * p_h * p_w), grid

    def _video(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Undo :meth:`_patches`."""
        batch, channels = x.shape[0], self.config.in_channels
        p_t, p_h, p_w = self.config.patch_size
        frames, height, width = grid
        x = x.reshape(batch, frames, height, width, channels, p_t, p_h, p_w).permute(0, 4, 1, 5, 2, 6, 3, 7)
        x = x.reshape(batch, channels, frames * p_t, height * p_h, width * p_w)
        return x[:, :, p_t - 1 :]

    def _windows(self, grid: tuple[int, int, int]) -> dict[str, Windows]:
        """Return the windows of each kind of block; none where everything is seen."""
        if self.config.window is None:
            return {}
        frames, height, width = grid
        by_frame, by_row, by_column = self.config.window
        if self.config.attention == "joint":
            return {"all": windows(grid, self.config.window)}
        return {
            "space": windows((1, height, width), (1, by_row, by_column)),
            "time": windows((frames, 1, 1), (by_frame, 1, 1)),
        }


def _both_halves(x: Tensor) -> Tensor:
    """[patches, head_dim / 2] → [patches, 1, head_dim], for all heads."""
    return torch.cat([x, x], dim=1)[:, None, :]


def _pairs(width: int) -> tuple[int, int, int]:
    """How many of ``width`` / 2 pairs of channels encode frame, row, column: about a quarter, and the rest halved."""
    pairs = width // 2
    space = max(1, 3 * pairs // 8)
    return pairs - 2 * space, space, space
