"""Llama (Touvron et al. 2023; Llama 3, 2024) as HunyuanVideo reads it: hidden states behind a prompt's template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts
from dit_deploy.exporters.text_encoders.decoder import Decoder, DecoderConfig, check_layer, layers_for, rope_theta

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
        hidden_layer: ``None`` or −1: the last, after the final normalisation; −3: what the last layer but one takes,
            not normalised, as ``hidden_states`` of transformers. Layers that nothing needs are left out.
        drop: leave out this many tokens at the start of each text, those of a template; the others stay where they are.

    Raises:
        SourceError: the folder holds no such model, or none with as many layers.
    """
    config = parts.read_config(folder, "llama")
    check_layer(folder, config.num_hidden_layers, hidden_layer)
    if config.mlp_bias:
        raise SourceError(f"{folder} has mlp_bias, which no released Llama has, and is not supported")
    decoder = _config(config, rope_theta(folder, config), hidden_layer)
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


def _config(config: Any, theta: float, hidden_layer: int | None) -> DecoderConfig:
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return DecoderConfig(
        vocabulary=config.vocab_size,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        head_width=head_width,
        inner=config.intermediate_size,
        activation=config.hidden_act,
        eps=config.rms_norm_eps,
        theta=theta,
        windows=(None,) * layers_for(config.num_hidden_layers, hidden_layer),
        final_norm=hidden_layer in (None, -1),
        scale=head_width**-0.5,
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
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
