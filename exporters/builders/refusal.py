"""A graph that TensorRT refuses: which node, where that came from in the source model, why, and what to try."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from dit_deploy.text import one_line

__all__ = ["SourceNames", "advice", "explain"]

#: What the exporter keeps of the module that a node came from: a list of module names, as Python writes it.
_SCOPES = "pkg.torch.onnx.name_scopes"

#: What a library says (searched for, case aside) → what to try. The first that fits.
_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"attention operation was not supported by a dedicated kernel",
        "fp16 or bf16, as fused attention takes no fp32 and no odd head size; or attention decomposed",
    ),
    (
        r"\[Turing\]|for Turing|SM75",
        "fp16, which 7.5 needs for matrix products, or leave compute capability 7.5 out",
    ),
    (
        r"workspace limit|allowed workspace",
        "a larger workspace, or narrower profiles",
    ),
    (
        r"could not find any implementation|no implementation|no tactics",
        "narrower profiles (several, rather than one wide), a larger workspace, or another precision",
    ),
    (
        r"out ?of ?memory|insufficient memory|failed_allocation|mem_alloc|bad_alloc|memory (ran|runs) out",
        "a smaller maximum batch or resolution, a limited workspace, or a machine with more memory",
    ),
    (
        r"must have (the )?same (input )?types?|same type|type mismatch|incompatible types|types? .* not match",
        "a Cast where the types meet: a strongly typed network converts nothing by itself",
    ),
    (
        r"zero point|zeropoint",
        "symmetric int8 quantisation, with zero points of 0",
    ),
    (
        r"resize.*(bf16|bfloat16)|(bf16|bfloat16).*resize",
        "a Cast to float32 around Resize",
    ),
    (
        r"cuda_success|cuda driver version|no cuda-capable|cuda error",
        "a machine with an NVIDIA GPU: this build asks the GPU for something",
    ),
    (
        r"min<=opt<=max|optimization profile",
        "profiles whose minimum, optimum and maximum are in order and within the axes",
    ),
    (
        r"unsupported_node|no importer|not supported|unsupported|plugin not found|checkDet|^false$",
        "another export of this operator, or this component with the onnxruntime backend",
    ),
    (
        r"holds no graph|input file cannot be found|failed to parse",
        "exporting it again: the file is not whole",
    ),
    (
        r"crashed \(",
        "another precision, or attention decomposed; other components may build, and this one run with onnxruntime",
    ),
)

#: Where nothing better is known.
_OTHERWISE = "another precision, or this component with the onnxruntime backend"

#: How messages name the node that they are about.
_NAMED = (
    r"could not find any implementation for node (?P<node>\{[^}]*\}|[^\s)]*[^\s.)])",
    r"cannot compile operation '(?P<node>[^']+)'",
    r"invalid node - (?P<node>\S+)",
    r"api usage error \((?P<node>[^\s:]+): i[a-z]+layer",
    r"\[ONNX Layer: (?P<node>[^\]]+)\]",
)

#: What of a message is of use to nobody here: places in a source that is not public, and its wrapping.
_NOISE = re.compile(
    "|".join(
        (
            r"\s*\b[Ii]n \w+ at /\S+",
            r"\[\w+\.(?:cpp|h):[^\]]*\]\s*",
            r"\w+\.cpp:\d+: ",
            r"I\w+::\w+: ",
            r"Error Code \d+: ",
            r"Invalid Node - \S+\s",
            r"API Usage Error \(",
            r"Myelin \(\s*",
            r"\w*CheckException: ",
            r"CHECK\([^.]*\) failed\.\s*(?=[A-Z])",
            r"\(See https?://[^)]*\)\s*",
        )
    )
)

#: Lines that stand around a message, and the remark that there is no driver, made where none is needed too.
_REMARKS = re.compile(r"cudaError 35|CUDA driver version is insufficient|^--- (Begin|End)|^Node name:|^While parsing")


@dataclass(frozen=True)
class _Node:
    operator: str
    scope: str
    weights: tuple[str, ...]


class SourceNames:
    """Where the nodes of an ONNX file come from. The file's weights are not read."""

    def __init__(self, path: Path) -> None:
        self._nodes: dict[str, _Node] = {}
        try:
            graph = ir.load(path).graph
        except Exception:  # what is wrong with the file is for the library to say
            return
        for node in graph.all_nodes():
            if node.name:
                self._nodes[node.name] = _Node(node.op_type, _scope(node), tuple(_weights(node)))

    def describe(self, name: str, operator: str = "") -> str:
        """Write what is known of a node: ``node_7 (MatMul; blocks.0.to_q in the source model; weights …)``."""
        node = self._nodes.get(name)
        if node is None:
            return f"{name} ({operator})" if operator else name
        parts = [node.operator]
        if node.scope:
            parts.append(f"{node.scope} in the source model")
        if node.weights:
            parts.append(f"weights {', '.join(node.weights)}")
        return f"{name} ({'; '.join(parts)})"

    def of_operators(self, operators: Iterable[str]) -> list[str]:
        """Return the names of the nodes with one of these operators."""
        wanted = set(operators)
        return [name for name, node in self._nodes.items() if node.operator in wanted]

    def named(self, kept: Iterable[str]) -> set[str]:
        """Return the names of the nodes that ``kept`` means: by node, weight, layer or module.

        A layer is called by its weight's name less ``.weight``.
        """
        wanted = set(kept)
        return {name for name, node in self._nodes.items() if wanted & set(self._words(name, node))}

    @staticmethod
    def _words(name: str, node: _Node) -> list[str]:
        layers = [weight.removesuffix(".weight") for weight in node.weights]
        return [name, node.scope, *node.weights, *layers]


def explain(path: Path, library: str, details: Sequence[Mapping[str, Any]]) -> str:
    """Return one line on why ``library`` refuses the graph in ``path``.

    Args:
        library: its name and version.
        details: what it said: ``message``, and where it was said of a node, ``node``, ``operator``, ``code``,
            ``functions``. The first with a node is told; the others are mostly its echoes.
    """
    names = SourceNames(path)
    details = [one for one in details if _reason(one)] or [{"message": "it gives no reason"}]
    chosen = next((one for one in details if one.get("node")), details[0])
    reason = _reason(chosen)
    said = " ".join(f"{one.get('code', '')} {one.get('message', '')}" for one in details)
    node = str(chosen.get("node") or _node_in(said))
    if node:
        where = f"node {_described(names, node, str(chosen.get('operator', '')))}"
    elif "ttention" in said and (nodes := names.of_operators(("Attention", "MultiHeadAttention"))):
        more = f", and {len(nodes) - 1} more of its kind" if len(nodes) > 1 else ""
        where = f"node {names.describe(nodes[0])}{more}"
    else:
        where = ""
    inside = f" (inside function {' → '.join(chosen['functions'])})" if chosen.get("functions") else ""
    parts = [f"{library} refuses {path.name}", *([f"{where}{inside}"] if where else []), reason]
    return f"{': '.join(parts)}. Try {advice(said, str(chosen.get('operator', '')))}"


def advice(said: str, operator: str = "") -> str:
    """Return what to try for what a library said."""
    text = f"{operator} {said}".strip()
    for pattern, what in _ADVICE:
        if re.search(pattern, text, re.IGNORECASE):
            return what
    return _OTHERWISE


def _reason(detail: Mapping[str, Any]) -> str:
    """Return a detail's message in one line, without what says nothing; empty where nothing is left."""
    lines = [line for line in str(detail.get("message", "")).splitlines() if not _REMARKS.search(line)]
    text = one_line(_NOISE.sub("", one_line(" ".join(lines), limit=None)), limit=240).rstrip(".; ")
    while text.endswith(")") and text.count(")") > text.count("("):  # what it closed is gone
        text = text[:-1].rstrip(".; ")
    if text == "false" and detail.get("code"):  # a check that has no words
        text = f"{detail['code']}: there is no importer for the operator {detail.get('operator', '')}"
    return text


def _node_in(said: str) -> str:
    for pattern in _NAMED:
        if found := re.search(pattern, said, re.IGNORECASE):
            return found["node"]
    return ""


def _described(names: SourceNames, node: str, operator: str) -> str:
    """Describe a node, or a region of compiled nodes: ``{ForeignNode[first...last]}``."""
    if region := re.search(r"ForeignNode\[(.+?)\.\.\.(.+?)\]", node):
        return f"{names.describe(region[1])} … {names.describe(region[2])}"
    return names.describe(node, operator)


def _scope(node: ir.Node) -> str:
    """Return the module that a node came from, the innermost with a dotted name, or the innermost at all."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    except (SyntaxError, ValueError):
        return ""
    modules = [str(scope) for scope in scopes[:-1] if scope]  # the last is the operation itself
    return modules[-1] if modules else ""


def _weights(node: ir.Node) -> Iterable[str]:
    """Yield the weights among a node's inputs, also behind a Cast, a Transpose or a pair of Q and DQ."""
    for value in node.inputs:
        steps = 0
        while value is not None and steps < 4:
            if value.is_initializer():
                if value.name and value.shape is not None and len(value.shape) > 0:
                    yield value.name
                break
            producer = value.producer()
            if producer is None or producer.op_type not in ("Cast", "Transpose", "DequantizeLinear", "QuantizeLinear"):
                break
            value, steps = producer.inputs[0], steps + 1
