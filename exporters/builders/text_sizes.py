"""How many tokens an engine's text encoders, and what comes after them, are built for: what the tokenizers make."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dit_deploy.bundle import Bundle, Component, TensorSpec, shape_of
from dit_deploy.bundle.engine import SizeRange
from dit_deploy.errors import BundleError
from dit_deploy.exporters.component_roles import denoisers
from dit_deploy.runtimes.integrity import check_file

__all__ = ["text_sizes"]

#: Tokens that are read at most where a tokenizer cuts nothing, and those of a usual prompt where it pads little.
_MOST, _USUAL = 512, 64

_ENDS = ("minimum", "optimum", "maximum")
#: (minimum, optimum, maximum) of each axis of a tensor; 0 for the batch, which others decide.
_Shape = tuple[tuple[int, int, int], ...]


def text_sizes(bundle: Bundle) -> dict[str, dict[str, SizeRange]]:
    """Return the ranges of free sizes that prompts decide: component → free size → range.

    A tokenizer that pads to a length gives that length alone; one that pads to the longest text of a batch everything
    up to where it cuts. What encoders give with such lengths goes on to the join and the denoiser.

    Raises:
        BundleError: a tokenizer was altered.
    """
    prompts = bundle.manifest.prompts
    if prompts is None:
        return {}
    found: dict[str, dict[str, SizeRange]] = {}
    made: dict[str, _Shape] = {}
    for encoder in prompts.encoders:
        component = bundle.component(encoder.component)
        lengths = [
            _lengths(bundle, path, component) for path in (encoder.tokenizer, encoder.negative_tokenizer) if path
        ]
        tokens = min(one[0] for one in lengths), lengths[0][1], max(one[2] for one in lengths)
        shapes: dict[str, _Shape] = {spec.name: ((0, 0, 0), tokens) for spec in component.inputs}
        found[encoder.component] = _solve(component, shapes)
        made |= _outputs(component, found[encoder.component])
    if prompts.join is not None:
        joined = bundle.component(prompts.join)
        found[prompts.join] = _solve(joined, made)
        made = _outputs(joined, found[prompts.join])
    for name in denoisers(bundle.manifest):
        found[name] = _solve(bundle.component(name), made)
        if prompts.padding == "dropped":  # one prompt is cut to its own tokens
            found[name] = {axis: one.model_copy(update={"minimum": 1}) for axis, one in found[name].items()}
    return found


def _lengths(bundle: Bundle, path: str, component: Component) -> tuple[int, int, int]:
    """Return how many tokens a tokenizer makes of a text: at least, usually, at most."""
    file = check_file(bundle, path)
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        padding, truncation = content["padding"], content["truncation"]
        if padding and isinstance(padding["strategy"], dict):
            fixed = int(padding["strategy"]["Fixed"])
            return fixed, fixed, fixed
        most = int(truncation["max_length"]) if truncation else None
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file} is no tokenizer: {error}") from error
    (axis,) = (axis for axis in component.input("input_ids").axes[1:])
    if isinstance(axis, int):
        return axis, axis, axis
    most = most or axis.maximum or _MOST
    return axis.minimum, max(axis.minimum, min(_USUAL, most)), most


def _solve(component: Component, shapes: Mapping[str, _Shape]) -> dict[str, SizeRange]:
    """Return the ranges of the component's free sizes, but the batch, that follow from its inputs' ``shapes``."""
    sizes: dict[str, SizeRange] = {}
    for spec in component.inputs:
        for axis, size in zip(spec.axes, shapes.get(spec.name, ()), strict=False):
            if not isinstance(axis, int) and axis.name != "batch":
                low, best, high = ((one - axis.offset) // axis.multiple for one in size)
                sizes.setdefault(axis.name, SizeRange(minimum=low, optimum=best, maximum=high))
    return sizes


def _outputs(component: Component, sizes: Mapping[str, SizeRange]) -> dict[str, _Shape]:
    """Return the shapes of a component's outputs by name."""
    ends = [{"batch": 1, **{name: getattr(one, end) for name, one in sizes.items()}} for end in _ENDS]
    return {spec.name: _transposed(spec, ends) for spec in component.outputs}


def _transposed(spec: TensorSpec, ends: list[dict[str, int]]) -> _Shape:
    low, best, high = (shape_of(spec, end) for end in ends)
    return tuple(zip(low, best, high, strict=True))
