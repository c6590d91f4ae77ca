"""The encoder of T5 (Raffel et al. 2020), T5 1.1 with gated feed-forward, mT5, and UMT5 (Chung et al. 2023).

Relative positions are numbered by a table of whole numbers: transformers takes a logarithm of the distance and rounds
it down, which at a bucket's border is a matter of the last bit, and another runtime's logarithm has another one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts

__all__ = ["T5", "distance_buckets", "graph"]

_KINDS = ("t5", "mt5", "umt5")


def graph(
    folder: Path,
    component: str,
    *,
    tokens: int,
    output: str = "encoder_hidden_states",
    attends_mask: bool,
    mask_output: str | None = None,
    zero_padding: bool = False,
) -> Graph:
    """Return the graph of the T5 encoder in ``folder``: ``input_ids`` → its last hidden states, normalised.

    Args:
        component: its name in the bundle.
        tokens: how many a prompt has, typically.
        output: the name of the hidden states, float32 [batch, sequence_length, width].
        attends_mask: leave out padding as keys, as pipelines do that hand the encoder a mask; the graph then has an
            input ``attention_mask``.
        mask_output: also give the mask itself, int64 [batch, sequence_length], under this name.
        zero_padding: give zeros for padding, which the model behind it attends to (Wan).

    Raises:
        SourceError: the folder holds no such model.
    """
    config = parts.read_config(folder, *_KINDS)
    masked = attends_mask or mask_output is not None or zero_padding
    outputs = [parts.hidden_states(output, config.d_model)]
    if mask_output is not None:
        outputs.append(parts.mask_tensor(mask_output))
    options = {"attends_mask": attends_mask, "gives_mask": mask_output is not None, "zero_padding": zero_padding}
    return Graph(
        component,
        parts.text_component(component, parts.input_tensors(config.vocab_size, mask=masked), outputs),
        lambda: parts.load(lambda: T5(config, **options), folder, _name),
        {"batch": 2, "sequence_length": tokens},
        reference=lambda: _Reference(folder, config.model_type, **options),
        feeds=parts.mask_feeds(config.vocab_size) if masked else None,
    )


def distance_buckets(buckets: int, maximum: int) -> Tensor:
    """Return the bucket of each distance 0 … ``maximum`` in one direction, int64 [maximum + 1]; beyond, it is the last.

    Half of the ``buckets`` are for each direction; half of those for one distance each, the others for logarithmically
    growing ranges (Raffel et al. 2020, section 2.1). The formula is transformers', float32 included.
    """
    here = buckets // 2
    exact = here // 2
    distances = torch.arange(maximum + 1, device="cpu")
    large = torch.log(distances.float() / exact) / math.log(maximum / exact) * (here - exact)
    far = (exact + large.clamp(min=0).to(torch.long)).clamp(max=here - 1)
    return torch.where(distances < exact, distances, far)


class T5(nn.Module):
    """``input_ids`` [batch, length] → (hidden states [batch, length, width], and the mask where it is wanted)."""

    def __init__(self, config: Any, *, attends_mask: bool, gives_mask: bool, zero_padding: bool) -> None:
        super().__init__()
        self.attends_mask, self.gives_mask, self.zero_padding = attends_mask, gives_mask, zero_padding
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        everywhere = config.model_type == "umt5"
        self.block = nn.ModuleList(_Block(config, everywhere or layer == 0) for layer in range(config.num_layers))
        self.final_layer_norm = parts.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        x = self.embed_tokens(input_ids)  # [batch, length, width]
        positions = torch.arange(input_ids.shape[1])
        distances = positions[None, :] - positions[:, None]  # [queries, keys]
        mask = parts.key_mask(attention_mask) if self.attends_mask and attention_mask is not None else None
        bias: Tensor | None = None
        blocks: Any = self.block
        for block in blocks:
            attend, feed_forward = block.layer
            if attend.SelfAttention.relative_attention_bias is not None:
                bias = attend.SelfAttention.bias(distances)  # [1, heads, queries, keys]
                bias = bias if mask is None else bias + mask
            x = feed_forward(attend(x, bias))
        x = self.final_layer_norm(x)
        if self.zero_padding and attention_mask is not None:
            x = x * attention_mask[:, :, None].to(x.dtype)
        if not self.gives_mask or attention_mask is None:
            return (x,)
        return x, parts.made_anew(attention_mask)


class _Block(nn.Module):
    def __init__(self, config: Any, has_bias: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_SelfAttentionLayer(config, has_bias), _FeedForwardLayer(config)])


class _SelfAttentionLayer(nn.Module):
    def __init__(self, config: Any, has_bias: bool) -> None:
        super().__init__()
        self.SelfAttention = _Attention(config, has_bias)
        self.layer_norm = parts.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class _Attention(nn.Module):
    buckets: Tensor

    def __init__(self, config: Any, has_bias: bool) -> None:
        super().__init__()
        self.heads, self.width = config.num_heads, config.d_kv
        inner = self.heads * self.width
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        self.relative_attention_bias: nn.Embedding | None = None
        if has_bias:
            buckets, maximum = config.relative_attention_num_buckets, config.relative_attention_max_distance
            self.relative_attention_bias = nn.Embedding(buckets, self.heads)
            self.register_buffer("buckets", distance_buckets(buckets, maximum), persistent=False)

    def bias(self, distances: Tensor) -> Tensor:
        """Return the relative position bias [1, heads, queries, keys] of distances [queries, keys]."""
        assert self.relative_attention_bias is not None
        half = self.relative_attention_bias.num_embeddings // 2
        one_way = self.buckets[distances.abs().clamp(max=len(self.buckets) - 1)]
        values: Tensor = self.relative_attention_bias(one_way + (distances > 0).to(torch.long) * half)
        return values.permute(2, 0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        batch, length = x.shape[:2]
        q, k, v = (
            one(x).view(batch, length, self.heads, self.width).transpose(1, 2) for one in (self.q, self.k, self.v)
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)  # [batch, heads, length, width]
        return self.o(x.transpose(1, 2).reshape(batch, length, self.heads * self.width))


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.DenseReluDense = _FeedForward(config)
        self.layer_norm = parts.RMSNorm(config.d_model, config.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class _FeedForward(nn.Module):
    """wo(act(wi(x))), or gated: wo(act(wi_0(x)) · wi_1(x)) (Shazeer 2020)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gated = config.is_gated_act
        if self.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.act = parts.activation(config.dense_act_fn)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.wi_0(x)) * self.wi_1(x) if self.gated else self.act(self.wi(x))
        return self.wo(x)


class _Reference(nn.Module):
    """The encoder of transformers, called as the pipelines call it."""

    def __init__(self, folder: Path, kind: str, *, attends_mask: bool, gives_mask: bool, zero_padding: bool) -> None:
        super().__init__()
        from transformers import MT5EncoderModel, T5EncoderModel, UMT5EncoderModel

        classes = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}
        self.model = load_transformers(classes[kind], folder)
        self.attends_mask, self.gives_mask, self.zero_padding = attends_mask, gives_mask, zero_padding

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        states = self.model(input_ids, attention_mask=attention_mask if self.attends_mask else None)[0]
        if self.zero_padding and attention_mask is not None:
            states = states.masked_fill(attention_mask[:, :, None] == 0, 0.0)
        return (states, attention_mask) if self.gives_mask and attention_mask is not None else (states,)


def _name(key: str) -> str:
    """Return the network's name of a checkpoint's tensor; the embedding is stored under either of two names."""
    return key.replace("shared.weight", "embed_tokens.weight").removeprefix("encoder.")
