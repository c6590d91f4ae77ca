"""The text half of CLIP (Radford et al. 2021), with and without the projection of its pooled output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle.manifest import Axis, TensorSpec
from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Feeds, Graph
from dit_deploy.exporters.text_encoders import _parts as parts

__all__ = ["CLIPText", "Layer", "graph"]

#: Configs older than November 2023 say this, whatever the tokenizer's end token is; such a model pools where the id is
#: largest, which the end token's was. transformers keeps to it, and so does this.
_OLD_END = 2


def graph(
    folder: Path,
    component: str,
    *,
    tokens: int,
    hidden_output: str | None,
    hidden_layer: int | None = None,
    pooled_output: str | None,
    projection: bool,
) -> Graph:
    """Return the graph of the CLIP text encoder in ``folder``. It takes no mask: pipelines give it none.

    Args:
        component: its name in the bundle.
        tokens: how many a prompt has, typically; at most the model's ``max_position_embeddings``.
        hidden_output: the name of the hidden states, float32 [batch, sequence_length, width]; ``None``: not given.
        hidden_layer: which: ``None`` are the last, after the final normalisation; −2 is ``hidden_states[-2]`` of
            transformers, before the last layer and not normalised (clip skip 1 of the pipelines is −3, and so on).
        pooled_output: the name of the state at the end token, normalised, float32 [batch, width or projection].
        projection: project the pooled state, as ``CLIPTextModelWithProjection``.

    Raises:
        SourceError: the folder holds no such model, or none with as many layers.
    """
    config = parts.read_config(folder, "clip_text_model", "clip")
    config = getattr(config, "text_config", config)
    limit = parts.check_positions(folder, config, tokens)
    parts.check_layer(folder, config.num_hidden_layers, hidden_layer)
    outputs = []
    if hidden_output is not None:
        outputs.append(parts.hidden_states(hidden_output, config.hidden_size, limit))
    if pooled_output is not None:
        width = config.projection_dim if projection else config.hidden_size
        outputs.append(TensorSpec(name=pooled_output, dtype="float32", axes=(Axis(name="batch"), width)))
    options: dict[str, Any] = {
        "hidden": hidden_output is not None,
        "layer": hidden_layer,
        "pooled": pooled_output is not None,
        "projection": projection,
    }
    return Graph(
        component,
        parts.text_component(component, parts.input_tensors(config.vocab_size, mask=False, maximum=limit), outputs),
        lambda: parts.load(lambda: CLIPText(config, **options), folder, lambda key: key.removeprefix("text_model.")),
        {"batch": 2, "sequence_length": tokens},
        reference=lambda: _Reference(folder, **options),
        feeds=_feeds(config.vocab_size, config.eos_token_id),
    )


class CLIPText(nn.Module):
    """``input_ids`` [batch, length] → (hidden states [batch, length, width], pooled [batch, …]), those that are wanted.

    The layers after the last one that is wanted are not made.
    """

    def __init__(self, config: Any, *, hidden: bool, layer: int | None, pooled: bool, projection: bool) -> None:
        super().__init__()
        count = config.num_hidden_layers
        self.hidden_after = None if not hidden or layer is None else count + 1 + layer
        self.hidden, self.pooled, self.end = hidden, pooled, config.eos_token_id
        needed = count if pooled or self.hidden_after is None else self.hidden_after
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config, needed)
        if pooled or self.hidden_after is None:
            self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if pooled and projection:
            self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        states = [self.embeddings(input_ids)]  # [batch, length, width], and after each layer
        for layer in self.encoder.layers:
            states.append(layer(states[-1]))
        outputs = []
        last = self.final_layer_norm(states[-1]) if hasattr(self, "final_layer_norm") else states[-1]
        if self.hidden:
            outputs.append(last if self.hidden_after is None else states[self.hidden_after])
        if self.pooled:
            # The first of several: argmax finds it, as padding may be of end tokens too.
            found = input_ids if self.end == _OLD_END else (input_ids == self.end).to(torch.int32)
            place = found.to(torch.int32).argmax(dim=-1)  # [batch]
            pooled = last[torch.arange(input_ids.shape[0]), place]
            outputs.append(self.text_projection(pooled) if hasattr(self, "text_projection") else pooled)
        return tuple(outputs)


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1])
        return self.token_embedding(input_ids) + self.position_embedding(positions)


class _Encoder(nn.Module):
    def __init__(self, config: Any, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, causal=True) for _ in range(count))


class Layer(nn.Module):
    """A layer of CLIP's encoders: of the text's, where a token sees those before it, or not ``causal``, the image's."""

    def __init__(self, config: Any, *, causal: bool) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = _Attention(config, causal)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class _Attention(nn.Module):
    """Each token attends to all; where it is causal, to itself and those before it."""

    def __init__(self, config: Any, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            one(x).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for one in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)  # [batch, heads, length, width / heads]
        return self.out_proj(x.transpose(1, 2).reshape(batch, length, width))


class _FeedForward(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation_fn = parts.activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


class _Reference(nn.Module):
    """The text model of transformers, read as the pipelines read it."""

    def __init__(self, folder: Path, *, hidden: bool, layer: int | None, pooled: bool, projection: bool) -> None:
        super().__init__()
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        self.model = load_transformers(CLIPTextModelWithProjection if projection else CLIPTextModel, folder)
        self.hidden, self.layer, self.pooled, self.projection = hidden, layer, pooled, projection

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        found = self.model(input_ids, output_hidden_states=True)
        outputs = []
        if self.hidden:
            outputs.append(found.last_hidden_state if self.layer is None else found.hidden_states[self.layer])
        if self.pooled:
            outputs.append(found.text_embeds if self.projection else found.pooler_output)
        return tuple(outputs)


def _feeds(vocabulary: int, end: int) -> Feeds:
    """Return a maker of ids with the end token at a place of its own in each text, and padding of end tokens after."""

    def feeds(sizes: Any, seed: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(seed)
        batch, length = sizes["batch"], sizes["sequence_length"]
        last = vocabulary - 1 if end == _OLD_END else end
        ids = generator.integers(0, vocabulary - 1, (batch, length))
        ends = generator.integers(0, length, batch)
        return {"input_ids": np.where(np.arange(length)[None, :] >= ends[:, None], last, ids)}

    return feeds
