"""What precision the heavy layers of a network have: FP16 asked is FP16 got.

A strongly typed network computes in the types that it was given, and nothing warns where those are not the ones
that were meant: a Cast too many, and an engine is built in float32 that was asked for in float16. So the
matrix products, convolutions and attention layers of the network are counted before it is built. Beside them an
engine takes no time worth counting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit_deploy.errors import BackendError

__all__ = [
    "HeavyLayer",
    "check_layers",
    "check_weights",
    "count_engine_layers",
    "count_types",
    "heavy_layers",
    "precisions",
]

#: TensorRT's names of types → ours.
_PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8", "FP8": "fp8", "FP4": "fp4"}

_KINDS = {
    "MATRIX_MULTIPLY": "matmul",
    "EINSUM": "matmul",
    "CONVOLUTION": "convolution",
    "DECONVOLUTION": "convolution",
    "ATTENTION_INPUT": "attention",
}

#: Layers that hand on what they get, so that a product sees through them to a dequantisation.
_TRANSPARENT = {"SHUFFLE", "SQUEEZE", "UNSQUEEZE", "IDENTITY"}

#: Bytes that an engine may have beside the graph's weights: constants that are computed while it is built.
_SMALL_WEIGHTS = 1 << 16

#: What heavy layers may have, for the precision that was asked. Of a quantised network only the linear layers are.
_ALLOWED = {
    "fp32": {"fp32"},
    "fp16": {"fp16"},
    "bf16": {"bf16"},
    "int8": {"int8", "fp16", "bf16"},
    "fp8": {"fp8", "fp16", "bf16"},
}


@dataclass(frozen=True)
class HeavyLayer:
    """One layer that costs time: ``HeavyLayer("node_MatMul_7", "matmul", "fp16")``.

    ``name`` is the ONNX node's. A product of two dequantised tensors has the precision that they were quantised to.
    """

    name: str
    kind: str
    precision: str


def count_types(network: Any) -> dict[str, int]:
    """Return how many layers of each type an ``INetworkDefinition`` has, the most frequent first."""
    return dict(Counter(_type_of(layer) for layer in _layers(network)).most_common())


def heavy_layers(network: Any) -> list[HeavyLayer]:
    """Return the heavy layers of an ``INetworkDefinition`` in their order; products of integers are left out."""
    layers = list(_layers(network))
    makers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    found = []
    for layer in layers:
        kind = _KINDS.get(_type_of(layer))
        if kind is None:
            continue
        inputs = [tensor for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]
        precision = _PRECISIONS.get(inputs[0].dtype.name)
        if precision is None:
            continue
        quantized = {_quantized(tensor, makers) for tensor in inputs[:2]}
        if kind != "attention" and len(quantized) == 1 and len(inputs) > 1:
            precision = quantized.pop() or precision
        found.append(HeavyLayer(_name_of(layer), kind, precision))
    return found


def precisions(layers: Iterable[HeavyLayer]) -> dict[str, dict[str, int]]:
    """Return kind → precision → how many: ``{"matmul": {"fp16": 40, "fp32": 2}, "attention": {"fp16": 6}}``."""
    counts: dict[str, dict[str, int]] = {}
    for layer in layers:
        of_kind = counts.setdefault(layer.kind, {})
        of_kind[layer.precision] = of_kind.get(layer.precision, 0) + 1
    return counts


def check_layers(
    layers: Sequence[HeavyLayer], asked: str, *, kept: Collection[str] = (), quantized: int | None = None
) -> None:
    """Hold the heavy layers against the precision that was asked for.

    Args:
        asked: fp32, fp16, bf16, int8 or fp8.
        kept: names of nodes that were left in another precision on purpose.
        quantized: linear layers that have quantised inputs and weights in the graph.

    Raises:
        BackendError: a layer that was not kept has another precision, or other than ``quantized`` layers are
            quantised. The message names the first few.
    """
    wrong = [layer for layer in layers if layer.precision not in _ALLOWED[asked] and layer.name not in kept]
    if wrong:
        shown = ", ".join(f"{layer.name} ({layer.kind}, {layer.precision})" for layer in wrong[:3])
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BackendError(
            f"{asked} was asked, but {len(wrong)} of {len(layers)} heavy layers would compute in another precision: "
            f"{shown}{more}"
        )
    if asked in ("int8", "fp8"):
        counted = sum(layer.precision == asked for layer in layers)
        if counted == 0:
            raise BackendError(f"{asked} was asked, but not one of {len(layers)} heavy layers is quantised")
        if quantized is not None and counted != quantized:
            raise BackendError(
                f"{asked} was asked for {quantized} linear layers, but {counted} are quantised in the network"
            )


def check_weights(announced: int, stored: int, asked: str) -> None:
    """Hold the weights of a built engine against those of its graph, in bytes: half the bits, half the bytes.

    This is what can be seen of a TensorRT-RTX engine without a GPU to load it on. For graphs of 0.2 … 260 MB in
    float16, int8 and fp8, with one profile and with four, version 1.7.1 announced within 2 % of the graph's bytes.

    Raises:
        BackendError: the engine has a fifth more: the library converted weights to a wider type.
    """
    if announced > 1.2 * stored + _SMALL_WEIGHTS:
        raise BackendError(
            f"{asked} was asked, but the built engine holds {announced / 1e6:.1f} MB of weights where the graph has "
            f"{stored / 1e6:.1f} MB: the library converted them to a wider type"
        )


def count_engine_layers(information: Mapping[str, Any]) -> dict[str, int]:
    """Count the layers of a built engine by type and output type, from ``EngineInspector``'s JSON.

    ``{"gemm → Half": 40, …}``. An engine that was built without details lists names only: then it is empty.
    Kernels that are compiled together stand there as one.
    """
    counts: Counter[str] = Counter()
    for layer in information.get("Layers", ()):
        if not isinstance(layer, dict):
            continue
        outputs = [one for one in layer.get("Outputs", ()) if isinstance(one, dict)]
        types = {str(one.get("Datatype") or one.get("Format/Datatype") or "?").strip() for one in outputs}
        counts[f"{layer.get('LayerType', '?')} → {', '.join(sorted(types)) or 'nothing'}"] += 1
    return dict(counts.most_common())


def _layers(network: Any) -> Iterator[Any]:
    for index in range(network.num_layers):
        yield network.get_layer(index)


def _type_of(layer: Any) -> str:
    return str(layer.type.name)


def _name_of(layer: Any) -> str:
    """Return the name of the ONNX node: a layer's own name may have been made unique."""
    metadata = str(getattr(layer, "metadata", "") or "")
    if metadata.startswith("[ONNX Layer: ") and metadata.endswith("]"):
        return metadata[len("[ONNX Layer: ") : -1]
    return str(layer.name).removesuffix("_AttentionInput")


def _quantized(tensor: Any, makers: Mapping[str, Any]) -> str | None:
    """Return what a tensor was quantised to, or ``None`` where it was not."""
    while (layer := makers.get(tensor.name)) is not None:
        if _type_of(layer) == "DEQUANTIZE":
            return _PRECISIONS.get(layer.get_input(0).dtype.name)
        if _type_of(layer) not in _TRANSPARENT:
            return None
        tensor = layer.get_input(0)
    return None
