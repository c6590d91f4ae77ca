"""Llama (Touvron et al. 2023; Llama 3, 2024) as HunyuanVideo reads it: hidden states behind a prompt's template."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts
from dit_deploy.exporters.text_encoders.decoder import Decoder, DecoderConfig, decoder_config

__all__ = ["Llama", "graph"]


def graph(
    folder: Path,
    component: str,
    *,
    tokens: int,
    output: str = "encoder_hidden_states",
    mask_output: str = "encoder_attention_mask",
    hidden_layer: int | None = None,
    drop: int = 0,
) -> Graph:
    """Return the graph of the Llama in ``folder``: ``input_ids``, ``attention_mask`` → hidden states and their mask.

    Args:
        component: its name in the bundle.
        tokens: how many a prompt has, typically, those of the template included.
        output: the name of the hidden states, float32 [batch, sequence_length - drop, width].
        mask_output: the name of their mask, int64 [batch, sequence_length - drop].
        hidden_layer: see :func:`~dit_deploy.exporters.text_encoders.decoder.decoder_config`.
        drop: leave out this many tokens at the start of each text, those of a template; the others stay where they are.

    Raises:
        SourceError: the folder holds no such model, or none with as many layers.
    """
    config = parts.read_config(folder, "llama")
    if config.mlp_bias:
        raise SourceError(f"{folder} has mlp_bias, which no released Llama has, and is not supported")
    decoder = decoder_config(folder, config, hidden_layer)
    whole = parts.hidden_states(output, config.hidden_size), parts.mask_tensor(mask_output)
    outputs = [_behind(spec, drop) for spec in whole]
    return Graph(
        component,
        parts.text_component(component, parts.input_tensors(config.vocab_size, mask=True, minimum=drop + 1), outputs),
        lambda: parts.load(lambda: Llama(decoder, drop), folder, parts.decoder_name),
        {"batch": 3, "sequence_length": max(tokens, drop + 1)},
        reference=lambda: _Reference(folder, hidden_layer, drop),
        feeds=parts.mask_feeds(config.vocab_size, least=drop + 1),
    )


def _behind(spec: TensorSpec, drop: int) -> TensorSpec:
    """Return ``spec`` without the first ``drop`` tokens."""
    batch, _, *rest = spec.axes
    tokens = Axis(name="sequence_length", offset=-drop, minimum=drop + 1)
    return spec.model_copy(update={"axes": (batch, tokens, *rest)})


class Llama(nn.Module):
    """``input_ids``, ``attention_mask`` [batch, length] → hidden states [batch, length − drop, width]; their mask."""

    def __init__(self, config: DecoderConfig, drop: int) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.drop = drop

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        states = self.model(input_ids, attention_mask)
        return states[:, self.drop :], parts.made_anew(attention_mask[:, self.drop :])


class _Reference(nn.Module):
    """The model of transformers, its states cut as the pipelines do."""

    def __init__(self, folder: Path, hidden_layer: int | None, drop: int) -> None:
        super().__init__()
        from transformers import LlamaModel

        self.model = load_transformers(LlamaModel, folder)
        self.layer, self.drop = -1 if hidden_layer is None else hidden_layer, drop

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return found.hidden_states[self.layer][:, self.drop :], attention_mask[:, self.drop :]
