"""The VAE's pieces by a memory budget: the largest that fit, from the shapes that its graphs note."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dit_deploy.bundle import Axis, Bundle, Manifest
from dit_deploy.bundle.activations import NotedGraph, NotedNode, peak_bytes, read_graph
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.tiling import Pieces, square

__all__ = ["Choice", "decoder_bytes", "pieces_within", "read_bytes", "smaller_pieces"]

#: What a runtime takes beyond the values that live at once: arrays laid out anew for a convolution, an allocator that
#: rounds up. ONNX Runtime on a CPU took 1.2 to 1.95 times these values (tests/runtimes/test_memory.py measures it).
_ROOM = 2.0
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
#: Pieces have a multiple of so many latent pixels on a side, so that the quarter that they share is whole.
_QUARTERS = 4


@dataclass(frozen=True)
class Choice:
    """Pieces, what ``vae_tile`` gives them (``None`` where nothing does), and the bytes that the VAE needs for one."""

    pieces: Pieces
    vae_tile: int | str | None
    bytes: float


def read_bytes(value: object, name: str = "vae_memory") -> int:
    """Return a number of bytes: an integer, or text with a unit of powers of 1000, such as ``2G`` or ``512M``.

    Raises:
        InputError: it is neither, or not above 0.
    """
    found: float = 0
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", value.strip())):
        found = float(match[1]) * _UNITS[match[2]]
    if not 1 <= found < math.inf:
        raise InputError(f"{name}: {shown(value)} came, expected bytes above 0, such as 2G or 512M")
    return int(found)


def pieces_within(bundle: Bundle, memory: object, size: tuple[int, ...], always: Pieces, encoded: int = 0) -> Pieces:
    """Return the largest pieces of latents with which the VAE keeps to a budget: the whole, if it does.

    Args:
        memory: bytes beside the weights, as :func:`read_bytes` takes them.
        size: of the latents, [frames,] height, width.
        always: how the family is cut where memory is plenty.
        encoded: how many pictures or videos are encoded, all at once; one at a time is decoded.

    Raises:
        InputError: the budget is not enough for the smallest piece; the message says what is.
        BundleError: a graph cannot be read.
    """
    budget = read_bytes(memory)
    choices = sorted(_choices(bundle, size, always, encoded), key=lambda choice: -choice.bytes)
    for choice in choices:
        if choice.bytes <= budget:
            return replace(choice.pieces, samples=1)
    least = choices[-1]
    raise InputError(
        f"vae_memory: {_amount(budget)} came; the smallest piece of this size needs {_amount(least.bytes, up=True)} "
        "beside the weights; give that much, or draw a smaller size"
    )


def smaller_pieces(manifest: Manifest, size: tuple[int, ...], always: Pieces) -> Iterator[tuple[int | str, Pieces]]:
    """Yield what ``vae_tile`` may be for latents of ``size`` with its pieces: ever smaller squares, its family's."""
    compression = manifest.latents.spatial_compression
    tile = _QUARTERS
    while tile * 2 < max(size[-2:]):
        tile *= 2
    while tile >= _QUARTERS:
        yield tile * compression, square(tile, always.frames)
        tile //= 2
    if manifest.tiling is not None:
        yield "model", Pieces.of(manifest.tiling)


def decoder_bytes(bundle: Bundle, extent: tuple[int, ...], batch: int = 1, bytes_each: int = 4) -> float:
    """Return about how many bytes one call of the VAE's decoder takes beside its weights; an upper bound on a CPU.

    Attention is taken for one that holds all its scores, as ONNX Runtime's on a CPU does.

    Args:
        extent: of the latents, [frames,] height, width.
        bytes_each: of a floating-point activation.

    Raises:
        InputError: the graph's file does not tell the shapes of its values.
        BundleError: it cannot be read.
    """
    axes = bundle.component("vae_decoder").input("latents").axes[2:]
    sizes = {"batch": batch}
    for axis, length in zip(axes, extent[-len(axes) :], strict=True):  # a VAE of pictures decodes one frame at a time
        if isinstance(axis, Axis):
            sizes[axis.name] = max(axis.minimum, math.ceil((length - axis.offset) / axis.multiple))
    graph = _noted(bundle.component_path("vae_decoder"))
    made = [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]
    if any(value not in graph.values or graph.values[value].shape(sizes) is None for value in made):
        raise InputError("vae_memory: this bundle's VAE decoder does not tell the shapes of its values; give vae_tile")

    def size(value: str) -> float:
        return graph.values[value].bytes(sizes, bytes_each)

    def scores(node: NotedNode) -> float:
        return bytes_each * _scores(graph, node, sizes) if node.op_type == "Attention" else 0.0

    return _ROOM * peak_bytes(graph.nodes, graph.inputs, graph.outputs, graph.weights, size, scores)


def _choices(bundle: Bundle, size: tuple[int, ...], always: Pieces, encoded: int) -> Iterator[Choice]:
    manifest = bundle.manifest
    offered: list[tuple[int | str | None, Pieces]] = [(None, always), *smaller_pieces(manifest, size, always)]
    own = Pieces.of(manifest.tiling).frames if manifest.tiling is not None else None
    if own is not None and always.frames is None:
        # squares cut in time as the family cuts, the smallest pieces that there are
        offered += [(None, replace(pieces, frames=own)) for tile, pieces in offered if isinstance(tile, int)]
    for tile, pieces in offered:
        # An encoder is its decoder turned round, and smaller.
        yield Choice(pieces, tile, decoder_bytes(bundle, pieces.extent(size), max(1, encoded)))


def _scores(graph: NotedGraph, node: NotedNode, sizes: Mapping[str, int]) -> float:
    """Return how many scores a node of attention makes: batch · heads · queries · keys."""
    query, key = (graph.values[name].shape(sizes) for name in node.inputs[:2])
    assert query is not None and key is not None  # every shape is told
    if len(query) == 4:  # [batch, heads, tokens, head]
        return float(math.prod(query[:3]) * key[2])
    return float(query[0] * (node.heads or 1) * query[1] * key[1])  # [batch, tokens, heads · head]


@functools.lru_cache(maxsize=8)
def _noted(path: Path) -> NotedGraph:
    return read_graph(path)


def _amount(value: float, *, up: bool = False) -> str:
    """Write bytes as :func:`read_bytes` takes them: ``1.5G``; rounded up where less would not do."""
    unit, size = next((unit, size) for unit, size in reversed(_UNITS.items()) if value >= size or not unit)
    digits = value / size * 10
    return f"{(math.ceil(digits) if up else round(digits)) / 10:g}{unit}"
