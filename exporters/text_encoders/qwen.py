"""Qwen 2, the language half of Qwen 2.5-VL (Qwen-Image), and Qwen 3 (Z-Image), for texts alone.

Positions of Qwen 2.5-VL are triples of time, row and column. A text's are three times the same number, which is the
plain rotary embedding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts
from dit_deploy.exporters.text_encoders.decoder import Decoder, DecoderConfig, decoder_config

__all__ = ["Qwen", "graph"]

_KINDS = ("qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3")


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
    """Return the graph of the Qwen model in ``folder``: ``input_ids``, ``attention_mask`` → states of the tokens.

    The tokens stand at the front, whichever side was padded, and zeros after them: so Qwen-Image's and Z-Image's
    pipelines put them together.

    Args:
        component: its name in the bundle.
        tokens: how many a prompt has, typically, those of the template included.
        output: the name of the hidden states, float32 [batch, sequence_length, width].
        mask_output: the name of the mask of what stands in ``output``, int64 [batch, sequence_length].
        hidden_layer: see :func:`~dit_deploy.exporters.text_encoders.decoder.decoder_config`.
        drop: leave out this many tokens at the start of each text, those of a template.

    Raises:
        SourceError: the folder holds no such model, or none with as many layers.
    """
    config = parts.read_config(folder, *_KINDS)
    kind = config.model_type
    config = getattr(config, "text_config", config)
    qwen3 = config.model_type == "qwen3"
    # Qwen 2 has biases, and its config does not say so.
    differences = {"qk_norm": True} if qwen3 else {"qkv_bias": True, "out_bias": False}
    decoder = decoder_config(folder, config, hidden_layer, **differences)
    outputs = [parts.hidden_states(output, config.hidden_size), parts.mask_tensor(mask_output)]
    return Graph(
        component,
        parts.text_component(component, parts.input_tensors(config.vocab_size, mask=True, minimum=drop + 1), outputs),
        lambda: parts.load(lambda: Qwen(decoder, drop), folder, parts.decoder_name),
        {"batch": 3, "sequence_length": max(tokens, drop + 1)},
        reference=lambda: _Reference(folder, kind, hidden_layer, drop),
        feeds=parts.mask_feeds(config.vocab_size, least=drop + 1),
    )


class Qwen(nn.Module):
    """``input_ids``, ``attention_mask`` [batch, length] → hidden states of the tokens, zeros after them; their mask."""

    def __init__(self, config: DecoderConfig, drop: int) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.drop = drop

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        states = self.model(input_ids, attention_mask)  # [batch, length, width]
        batch, length = input_ids.shape
        first = attention_mask.to(torch.int32).argmax(dim=1)  # [batch]: 0 where padding is on the right
        count = attention_mask.sum(dim=1)
        places = torch.arange(length)[None, :]
        kept = places < (count - self.drop)[:, None]  # [batch, length]
        source = (places + (first + self.drop)[:, None]).clamp(max=length - 1)
        states = states[torch.arange(batch)[:, None], source]
        return states * kept[:, :, None].to(states.dtype), kept.to(torch.int64)


class _Reference(nn.Module):
    """The model of transformers, its states put together as the pipelines do."""

    def __init__(self, folder: Path, kind: str, hidden_layer: int | None, drop: int) -> None:
        super().__init__()
        import transformers

        classes = {
            "qwen2": "Qwen2Model",
            "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
            "qwen2_5_vl_text": "Qwen2_5_VLTextModel",
            "qwen3": "Qwen3Model",
        }
        self.model = load_transformers(getattr(transformers, classes[kind]), folder)
        self.layer, self.drop = -1 if hidden_layer is None else hidden_layer, drop

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        found = self.model(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        states = found.hidden_states[self.layer]
        texts = [one[mask.bool()][self.drop :] for one, mask in zip(states, attention_mask, strict=True)]
        packed, mask = torch.zeros_like(states), torch.zeros_like(attention_mask)
        for index, text in enumerate(texts):
            packed[index, : len(text)] = text
            mask[index, : len(text)] = 1
        return packed, mask
