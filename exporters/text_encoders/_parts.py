"""What the text encoders share: their declarations, reading their folders, masks, and test inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, Component, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters.masks import MASKED
from dit_deploy.exporters.modules import parameters_without_storage
from dit_deploy.exporters.source import Feeds
from dit_deploy.exporters.weights import folder_tensors, read_json

__all__ = [
    "RMSNorm",
    "activation",
    "check_layer",
    "check_positions",
    "decoder_name",
    "hidden_states",
    "input_tensors",
    "key_mask",
    "load",
    "made_anew",
    "mask_feeds",
    "mask_tensor",
    "read_config",
    "text_component",
]


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · weight over the last axis, in float32 (Zhang & Sennrich 2019).

    ``offset`` is added to the weight: 1 in Gemma, whose weights are stored as the difference from 1.
    """

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight + self.offset if self.offset else self.weight
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight


def read_config(folder: Path, *kinds: str) -> Any:
    """Return the transformers config of a model folder, with the defaults of its class filled in.

    Raises:
        SourceError: the folder is missing, or its ``model_type`` is none of ``kinds``.
    """
    from transformers import AutoConfig

    if not folder.is_dir():
        raise SourceError(f"{folder} is missing; the pipeline cannot read prompts without this text encoder")
    found = read_json(folder / "config.json").get("model_type")
    if found not in kinds:
        raise SourceError(f"{folder} holds a model of type {found!r}; expected {' or '.join(map(repr, kinds))}")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the config classes check their fields with errors of several kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{folder}/config.json: {reason}") from error


def check_layer(folder: Path, count: int, hidden_layer: int | None) -> None:
    """Raise :class:`SourceError` where a model of ``count`` layers has no ``hidden_states[hidden_layer]``."""
    if hidden_layer is not None and not -count - 1 <= hidden_layer <= -1:
        raise SourceError(f"{folder} has {count} layers, none for hidden_states[{hidden_layer}]")


def check_positions(folder: Path, config: Any, tokens: int) -> int:
    """Return how many positions a model's table has; :class:`SourceError` where that is less than ``tokens``."""
    limit = int(config.max_position_embeddings)
    if tokens > limit:
        raise SourceError(f"{folder} has {limit} positions (max_position_embeddings); its tokenizer makes {tokens}")
    return limit


def activation(name: str) -> nn.Module:
    """Return the activation function that transformers calls ``name``."""
    from transformers.activations import ACT2FN

    try:
        return ACT2FN[name]
    except KeyError as error:
        raise SourceError(f"activation {name!r} is none that transformers knows") from error


def load(make: Callable[[], nn.Module], folder: Path, rename: Callable[[str], str] = lambda name: name) -> nn.Module:
    """Return the network that ``make`` builds with the weights of ``folder``, in float32.

    Weights that are float32 on disk stay mapped from it. Tensors that the network does not have, such as those of
    layers that are left out, are left on disk.

    Args:
        rename: the checkpoint's name of a tensor → the network's.

    Raises:
        SourceError: a tensor is missing or of another shape.
    """
    with parameters_without_storage():
        network = make()
    wanted = network.state_dict()
    tensors: dict[str, Tensor] = {}
    for key, tensor in folder_tensors(folder).items():
        name = rename(key)
        if name in wanted:
            tensors[name] = tensor.float()
    if missing := sorted(set(wanted) - set(tensors)):
        raise SourceError(f"{folder} lacks {missing[0]}, and {len(missing) - 1} more tensors of its config.json")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise SourceError(
                f"{folder}: {name} has shape {list(tensor.shape)}; config.json says {list(wanted[name].shape)}"
            )
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def decoder_name(key: str) -> str:
    """Return the network's name of a decoder's tensor: checkpoints say ``layers``, ``model.layers``, and for the
    language half of a model that sees ``model.layers`` or ``model.language_model.layers``."""
    return "model." + key.removeprefix("model.").removeprefix("language_model.")


def input_tensors(
    vocabulary: int, *, mask: bool, minimum: int = 1, maximum: int | None = None
) -> tuple[TensorSpec, ...]:
    """Declare ``input_ids`` and, with ``mask``, ``attention_mask``, int64 [batch, sequence_length]."""
    axes = (Axis(name="batch"), Axis(name="sequence_length", minimum=minimum, maximum=maximum))
    ids = TensorSpec(name="input_ids", dtype="int64", axes=axes, minimum=0, maximum=vocabulary - 1)
    if not mask:
        return (ids,)
    return ids, TensorSpec(
        name="attention_mask", dtype="int64", axes=axes, minimum=0, maximum=1, description="1 where a token is"
    )


def hidden_states(name: str, width: int, maximum: int | None = None) -> TensorSpec:
    """Declare hidden states, float32 [batch, sequence_length, width]."""
    axes = (Axis(name="batch"), Axis(name="sequence_length", maximum=maximum), width)
    return TensorSpec(name=name, dtype="float32", axes=axes)


def mask_tensor(name: str, maximum: int | None = None) -> TensorSpec:
    """Declare the mask of hidden states that is handed on, int64 [batch, sequence_length]."""
    axes = (Axis(name="batch"), Axis(name="sequence_length", maximum=maximum))
    return TensorSpec(name=name, dtype="int64", axes=axes, minimum=0, maximum=1, description="1 where a token is")


def text_component(name: str, inputs: tuple[TensorSpec, ...], outputs: list[TensorSpec]) -> Component:
    """Declare the component ``name`` at its usual place in a bundle."""
    return Component(path=f"{name}/model.onnx", inputs=inputs, outputs=tuple(outputs))


def key_mask(attention_mask: Tensor) -> Tensor:
    """Return what is added to scores [batch, heads, queries, keys], of shape [batch, 1, 1, keys]: 0, or ``MASKED``."""
    return ((1 - attention_mask) * MASKED).to(torch.float32)[:, None, None, :]


def made_anew(attention_mask: Tensor) -> Tensor:
    """Return an equal mask: a graph's input cannot be its output too."""
    return (attention_mask > 0).to(torch.int64)


def mask_feeds(vocabulary: int, *, least: int = 1) -> Feeds:
    """Return a maker of ids and masks of texts of ``least`` or more tokens, padded on the right."""

    def feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(seed)
        batch, length = sizes["batch"], sizes["sequence_length"]
        lengths = generator.integers(min(least, length), length, batch, endpoint=True)
        lengths[0] = length
        mask = (np.arange(length)[None, :] < lengths[:, None]).astype(np.int64)
        return {"input_ids": generator.integers(0, vocabulary, (batch, length)), "attention_mask": mask}

    return feeds
