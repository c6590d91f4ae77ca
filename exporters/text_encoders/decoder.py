"""A decoder-only language model read for its hidden states: what Gemma 2, Llama, Qwen 2, 2.5-VL, Qwen 3 share.

RMS norms, rotary positions (Su et al. 2021), grouped keys and values (Ainslie et al. 2023) and a gated feed-forward
network (Shazeer 2020). Where the models differ, :class:`DecoderConfig` says how. Rotation is written out with sines and
cosines that have no batch axis: ONNX Runtime's RotaryEmbedding of opset 23 fails at batch 1 when its tables were traced
at batch 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.errors import SourceError
from dit_deploy.exporters.masks import MASKED
from dit_deploy.exporters.text_encoders import _parts as parts

__all__ = ["Decoder", "DecoderConfig", "decoder_config"]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and kind of a decoder, as far as hidden states need them.

    Attributes:
        windows: for each layer that is made, how many tokens back it looks, itself included; ``None``: to the start.
        final_norm: normalise what the last layer made gives.
        qkv_bias, out_bias: of the attention's projections.
        qk_norm: normalise queries and keys, head by head.
        sandwich: normalise also what attention and feed-forward give, before it is added.
        norm_offset: what is added to the weights of normalisations.
        embedding_scale: what embeddings are multiplied by.
        scale: what scores are multiplied by.
        softcap: scores s become c · tanh(s / c); ``None``: as they are.
    """

    vocabulary: int
    width: int
    heads: int
    groups: int
    head_width: int
    inner: int
    activation: str
    eps: float
    theta: float
    windows: tuple[int | None, ...]
    final_norm: bool
    scale: float
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    sandwich: bool = False
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    softcap: float | None = None


def decoder_config(folder: Path, config: Any, hidden_layer: int | None = None, **differences: Any) -> DecoderConfig:
    """Return the sizes and the kind of a decoder, as its transformers ``config`` says them.

    Args:
        folder: the model's, to name it.
        hidden_layer: which of transformers' ``hidden_states`` is read: ``None`` or −1, the last, after the final
            normalisation; −2, what the last layer takes, not normalised; and so on. Later layers are left out.
        differences: fields in which this kind of model is unlike the others, or whose config calls them otherwise.

    Raises:
        SourceError: there is no such layer, or rotary positions are scaled in a way that is not supported.
    """
    count = config.num_hidden_layers
    parts.check_layer(folder, count, hidden_layer)
    needed = count if hidden_layer is None else min(count, count + 1 + hidden_layer)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = getattr(config, "layer_types", None) or ("full_attention",) * count
    bias = getattr(config, "attention_bias", False)
    said = {
        "vocabulary": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "groups": config.num_key_value_heads,
        "head_width": head_width,
        "inner": config.intermediate_size,
        "activation": getattr(config, "hidden_act", None),
        "eps": config.rms_norm_eps,
        "theta": _rope_theta(folder, config),
        "windows": tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds[:needed]),
        "final_norm": hidden_layer in (None, -1),
        "scale": head_width**-0.5,
        "qkv_bias": bias,
        "out_bias": bias,
    }
    return DecoderConfig(**{**said, **differences})


def _rope_theta(folder: Path, config: Any) -> float:
    """Return the base of the rotary frequencies of a transformers config.

    Raises:
        SourceError: frequencies are scaled in a way that is not supported.
    """
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise SourceError(f"{folder} scales its rotary positions by {kind!r}; supported is 'default'")
    return float(rope.get("rope_theta", getattr(config, "rope_theta", 10000.0)))


class Decoder(nn.Module):
    """``input_ids``, ``attention_mask`` [batch, length] → hidden states [batch, length, width]."""

    frequencies: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.embedding_scale = config.embedding_scale
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.windows = config.windows
        self.layers = nn.ModuleList(_Layer(config) for _ in config.windows)
        self.norm = parts.RMSNorm(config.width, config.eps, config.norm_offset) if config.final_norm else None
        exponents = torch.arange(0, config.head_width, 2, dtype=torch.float32, device="cpu") / config.head_width
        self.register_buffer("frequencies", 1.0 / (config.theta**exponents), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed_tokens(input_ids) * self.embedding_scale
        positions = torch.arange(input_ids.shape[1])
        angles = positions[:, None].to(torch.float32) * self.frequencies[None, :]  # [length, head_width / 2]
        rotation = (angles.cos().repeat(1, 2), angles.sin().repeat(1, 2))
        behind = positions[:, None] - positions[None, :]  # [queries, keys]: how far a key lies back
        tokens = attention_mask[:, None, None, :] > 0  # [batch, 1, 1, keys]
        masks: dict[int | None, Tensor] = {}
        for window, layer in zip(self.windows, self.layers, strict=True):
            if window not in masks:
                seen = behind >= 0 if window is None else (behind >= 0) & (behind < window)
                masks[window] = torch.where(seen[None, None] & tokens, 0.0, MASKED)
            x = layer(x, rotation, masks[window])
        return x if self.norm is None else self.norm(x)


class _Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()

        def norm() -> parts.RMSNorm:
            return parts.RMSNorm(config.width, config.eps, config.norm_offset)

        self.sandwich = config.sandwich
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        if config.sandwich:
            self.pre_feedforward_layernorm, self.post_feedforward_layernorm = norm(), norm()
        self.self_attn = _Attention(config)
        self.mlp = _FeedForward(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        attended = self.self_attn(self.input_layernorm(x), rotation, mask)
        if not self.sandwich:
            x = x + attended
            return x + self.mlp(self.post_attention_layernorm(x))
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class _Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.width = config.heads, config.groups, config.head_width
        self.scale, self.softcap = config.scale, config.softcap
        inner, shared = self.heads * self.width, self.groups * self.width
        self.q_proj = nn.Linear(config.width, inner, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, shared, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, shared, bias=config.qkv_bias)
        self.o_proj = nn.Linear(inner, config.width, bias=config.out_bias)
        self.q_norm = parts.RMSNorm(self.width, config.eps) if config.qk_norm else None
        self.k_norm = parts.RMSNorm(self.width, config.eps) if config.qk_norm else None

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q = self.q_proj(x).view(batch, length, self.heads, self.width)
        k = self.k_proj(x).view(batch, length, self.groups, self.width)
        v = self.v_proj(x).view(batch, length, self.groups, self.width)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = _rotate(q.transpose(1, 2), rotation), _rotate(k.transpose(1, 2), rotation), v.transpose(1, 2)
        k, v = self._each_head(k), self._each_head(v)  # [batch, heads, length, head_width]
        if self.softcap is None:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)
        else:  # capped before the mask is added; the Attention of opset 23 caps after it, and would let masked keys in
            scores = torch.tanh(q @ k.transpose(2, 3) * (self.scale / self.softcap)) * self.softcap
            x = torch.softmax(scores + mask, dim=-1) @ v
        return self.o_proj(x.transpose(1, 2).reshape(batch, length, self.heads * self.width))

    def _each_head(self, x: Tensor) -> Tensor:
        """Return keys or values [batch, groups, length, width] once for each head of their group."""
        if self.groups == self.heads:
            return x
        batch, _, length, _ = x.shape
        x = x[:, :, None].expand(batch, self.groups, self.heads // self.groups, length, self.width)
        return x.reshape(batch, self.heads, length, self.width)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + width / 2) of x [batch, heads, length, width] by tables [length, width]."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class _FeedForward(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.inner, bias=False)
        self.up_proj = nn.Linear(config.width, config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, config.width, bias=False)
        self.act_fn = parts.activation(config.activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
