"""The encoder of BERT (Devlin et al. 2019), as HunyuanDiT reads it: last hidden states under a mask, no pooler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.errors import SourceError
from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts

__all__ = ["Bert", "graph"]


def graph(
    folder: Path,
    component: str,
    *,
    tokens: int,
    output: str = "encoder_hidden_states",
    mask_output: str | None = None,
) -> Graph:
    """Return the graph of the BERT in ``folder``: ``input_ids``, ``attention_mask`` → its last hidden states.

    Args:
        component: its name in the bundle.
        tokens: how many a prompt has, typically; at most the model's ``max_position_embeddings``.
        output: the name of the hidden states, float32 [batch, sequence_length, width].
        mask_output: also give the mask itself, int64 [batch, sequence_length], under this name.

    Raises:
        SourceError: the folder holds no such model, or one with relative positions.
    """
    config = parts.read_config(folder, "bert")
    limit = parts.check_positions(folder, config, tokens)
    if (kind := getattr(config, "position_embedding_type", None)) not in (None, "absolute"):
        raise SourceError(f"{folder} has {kind} positions; supported are absolute ones")
    outputs = [parts.hidden_states(output, config.hidden_size, limit)]
    if mask_output is not None:
        outputs.append(parts.mask_tensor(mask_output, limit))
    gives_mask = mask_output is not None
    return Graph(
        component,
        parts.text_component(component, parts.input_tensors(config.vocab_size, mask=True, maximum=limit), outputs),
        lambda: parts.load(lambda: Bert(config, gives_mask), folder, lambda key: key.removeprefix("bert.")),
        {"batch": 2, "sequence_length": tokens},
        reference=lambda: _Reference(folder, gives_mask),
        feeds=parts.mask_feeds(config.vocab_size),
    )


class Bert(nn.Module):
    """``input_ids``, ``attention_mask`` [batch, length] → (hidden states, and the mask where it is wanted)."""

    def __init__(self, config: Any, gives_mask: bool) -> None:
        super().__init__()
        self.gives_mask = gives_mask
        self.embeddings = _Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        x = self.embeddings(input_ids)
        length = input_ids.shape[1]
        mask = parts.key_mask(attention_mask).expand(-1, 1, length, length)
        for layer in self.encoder["layer"]:  # type: ignore[attr-defined]
            x = layer(x, mask)
        return (x, parts.made_anew(attention_mask)) if self.gives_mask else (x,)


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = self.position_embeddings(torch.arange(input_ids.shape[1]))
        first_kind = self.token_type_embeddings.weight[0]  # a prompt is one text, all of the first kind
        return self.LayerNorm(self.word_embeddings(input_ids) + first_kind + positions)


class _Layer(nn.Module):
    """The names are the checkpoint's."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention = nn.Module()
        self.attention.self = nn.Module()
        for name in ("query", "key", "value"):
            setattr(self.attention.self, name, nn.Linear(width, width))
        self.attention.output = _Output(width, width, config.layer_norm_eps)
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, config.intermediate_size)
        self.output = _Output(config.intermediate_size, width, config.layer_norm_eps)
        self.activation = parts.activation(config.hidden_act)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        one: Any = self.attention.self
        q, k, v = (
            linear(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for linear in (one.query, one.key, one.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [batch, heads, length, width / heads]
        x = self.attention.output(attended.transpose(1, 2).reshape(batch, length, width), x)  # type: ignore[operator]
        return self.output(self.activation(self.intermediate.dense(x)), x)  # type: ignore[operator]


class _Output(nn.Module):
    """A linear layer, added to what came before, normalised."""

    def __init__(self, inner: int, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)


class _Reference(nn.Module):
    """The model of transformers, called as HunyuanDiT's pipeline calls it."""

    def __init__(self, folder: Path, gives_mask: bool) -> None:
        super().__init__()
        from transformers import BertModel

        self.model = load_transformers(BertModel, folder, add_pooling_layer=False)
        self.gives_mask = gives_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.model(input_ids, attention_mask=attention_mask)[0]
        return (states, attention_mask) if self.gives_mask else (states,)
