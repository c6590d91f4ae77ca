"""Gemma 2 (2024) as Sana reads it: last hidden states of the first token and of the last ones of a padded prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, TensorSpec
from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts
from dit_deploy.exporters.text_encoders.decoder import Decoder, DecoderConfig, decoder_config

__all__ = ["Gemma", "graph"]


def graph(
    folder: Path,
    component: str,
    *,
    tokens: int,
    output: str = "encoder_hidden_states",
    mask_output: str | None = None,
    keep: int | None = None,
) -> Graph:
    """Return the graph of the Gemma 2 in ``folder``: ``input_ids``, ``attention_mask`` → its last hidden states.

    Texts are padded on the right, as Sana's pipeline sets its tokenizer: padding on the left would attend to nothing,
    and implementations differ in what that gives.

    Args:
        component: its name in the bundle.
        tokens: how many a prompt has, typically.
        output: the name of the hidden states, float32 [batch, sequence_length or keep, width].
        mask_output: also give the mask, int64, of the same tokens.
        keep: give of the ``sequence_length`` ≥ ``keep`` tokens the first one and the last ``keep`` − 1, as Sana does to
            drop the instruction in front of the prompt.

    Raises:
        SourceError: the folder holds no such model.
    """
    config = parts.read_config(folder, "gemma2")
    decoder = _config(folder, config)
    outputs = [parts.hidden_states(output, config.hidden_size)]
    if mask_output is not None:
        outputs.append(parts.mask_tensor(mask_output))
    inputs = parts.input_tensors(config.vocab_size, mask=True, minimum=keep or 1)
    if keep is not None:
        outputs = [_kept(spec, keep) for spec in outputs]
    options: dict[str, Any] = {"keep": keep, "gives_mask": mask_output is not None}
    return Graph(
        component,
        parts.text_component(component, inputs, outputs),
        lambda: parts.load(lambda: Gemma(decoder, **options), folder, parts.decoder_name),
        {"batch": 3, "sequence_length": max(tokens, keep or 1)},
        reference=lambda: _Reference(folder, **options),
        feeds=parts.mask_feeds(config.vocab_size),
    )


def _kept(spec: TensorSpec, keep: int) -> TensorSpec:
    return spec.model_copy(update={"axes": (Axis(name="batch"), keep, *spec.axes[2:])})


def _config(folder: Path, config: Any) -> DecoderConfig:
    return decoder_config(
        folder,
        config,
        activation=config.hidden_activation,
        scale=config.query_pre_attn_scalar**-0.5,
        sandwich=True,
        norm_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
        softcap=config.attn_logit_softcapping,
    )


def _select(x: Tensor, keep: int | None) -> Tensor:
    return x if keep is None else torch.cat([x[:, :1], x[:, x.shape[1] - (keep - 1) :]], dim=1)


class Gemma(nn.Module):
    """``input_ids``, ``attention_mask`` [batch, length] → (hidden states, and the mask where it is wanted)."""

    def __init__(self, config: DecoderConfig, *, keep: int | None, gives_mask: bool) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.keep, self.gives_mask = keep, gives_mask

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = _select(self.model(input_ids, attention_mask), self.keep)
        return (states, _select(parts.made_anew(attention_mask), self.keep)) if self.gives_mask else (states,)


class _Reference(nn.Module):
    """The model of transformers, read as Sana's pipeline reads it."""

    def __init__(self, folder: Path, *, keep: int | None, gives_mask: bool) -> None:
        super().__init__()
        from transformers import Gemma2Model

        self.model = load_transformers(Gemma2Model, folder)
        self.gives_mask = gives_mask
        self.select = slice(None) if keep is None else [0, *range(-keep + 1, 0)]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.model(input_ids, attention_mask=attention_mask)[0][:, self.select]
        return (states, attention_mask[:, self.select]) if self.gives_mask else (states,)
