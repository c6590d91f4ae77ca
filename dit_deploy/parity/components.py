"""Each component of a bundle against the reference, on random inputs at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Axis, Component, Profile, TensorSpec, shape_of
from dit_deploy.parity.metrics import cosine, largest_difference, relative_error
from dit_deploy.parity.report import ComponentError
from dit_deploy.runtimes.runner import BindingPool

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch import TorchReference

__all__ = ["Feeds", "compare_component", "example_inputs", "sizes_to_try"]

Array = NDArray[Any]
#: (sizes, seed) → inputs by name that random numbers of the declared range cannot stand for, such as masks.
Feeds = Callable[[Mapping[str, int], int], Mapping[str, Any]]
_LARGEST_TIMESTEP = {"training_index": 999.0, "sigma": 1.0}


def sizes_to_try(
    component: Component, typical: Mapping[str, int], profiles: Sequence[Profile] = ()
) -> list[dict[str, int]]:
    """Return free sizes: the typical ones, the smallest, an oblong one, and one a quarter larger than typical.

    A component that takes fewer sizes, as an engine does whose ``profiles`` are given, gets sizes near to them that it
    takes, each once. ``typical`` is what the component is proved at; a size that it does not name is its largest.
    """
    axes = {axis.name: axis for spec in component.inputs for axis in spec.axes if isinstance(axis, Axis)}
    usual = {name: axis.maximum or axis.minimum for name, axis in axes.items()} | dict(typical)

    def fit(wanted: Mapping[str, int], batch: int) -> dict[str, int]:
        wanted = {**wanted, "batch": batch}
        return {
            name: max(axis.minimum, min(wanted.get(name, 1), axis.maximum or wanted.get(name, 1)))
            for name, axis in axes.items()
        }

    oblong = {name: max(1, size // 2) if name.endswith("height") else size for name, size in usual.items()}
    larger = {name: size + max(1, size // 4) for name, size in usual.items()}
    wanted = [fit(usual, 2), fit({}, 1), fit(oblong, 3), fit(larger, 1)]
    chosen = [_held(sizes, profiles) for sizes in wanted]
    return [sizes for index, sizes in enumerate(chosen) if sizes not in chosen[:index]]


def _held(sizes: dict[str, int], profiles: Sequence[Profile]) -> dict[str, int]:
    """Return ``sizes`` where there are no profiles or one holds them, else the nearest that the first profile holds."""
    if not profiles or any(profile.holds(sizes) for profile in profiles):
        return sizes
    ranges = profiles[0].sizes
    return sizes | {name: max(one.minimum, min(sizes.get(name, 1), one.maximum)) for name, one in ranges.items()}


def example_inputs(
    component: Component, sizes: Mapping[str, int], timestep_unit: str, seed: int, feeds: Feeds | None = None
) -> dict[str, Array]:
    """Return random inputs in the declared ranges; timesteps are spread over the whole range, ends included.

    Where no range is declared, values are standard normal. ``feeds`` makes those that random numbers cannot stand for.
    """
    generator = np.random.default_rng(seed)
    given = feeds(sizes, seed) if feeds is not None else {}
    return {
        spec.name: np.asarray(
            given.get(spec.name, _values(spec, shape_of(spec, sizes), timestep_unit, generator))
        ).astype(spec.dtype)
        for spec in component.inputs
    }


def compare_component(
    name: str,
    pool: BindingPool,
    reference: TorchReference,
    sizes_tried: Sequence[Mapping[str, int]],
    timestep_unit: str,
    seed: int,
) -> Iterator[ComponentError]:
    """Yield the error of each output at each of ``sizes_tried``, such as :func:`sizes_to_try` returns.

    Args:
        pool: the engine's bindings of the component.
    """
    component = pool.runner.component
    made = reference.graph(name).feeds
    for index, sizes in enumerate(sizes_tried):
        feeds = example_inputs(component, sizes, timestep_unit, seed + index, made)
        expected = reference.run(name, feeds)
        with pool.borrow(**sizes) as binding:
            for key, array in feeds.items():
                binding.inputs[key][...] = array
            binding.run()
            for spec in component.outputs:
                found = binding.outputs[spec.name]
                yield ComponentError(
                    component=name,
                    output=spec.name,
                    sizes=sizes,
                    shape=tuple(found.shape),
                    largest=largest_difference(found, expected[spec.name]),
                    relative=relative_error(found, expected[spec.name]),
                    cosine=cosine(found, expected[spec.name]),
                )


def _values(spec: TensorSpec, shape: tuple[int, ...], timestep_unit: str, generator: np.random.Generator) -> Array:
    minimum, maximum = spec.minimum, spec.maximum
    if spec.name == "timestep":
        low = 0.0 if minimum is None else minimum
        high = _LARGEST_TIMESTEP[timestep_unit] if maximum is None else maximum
        spread = np.linspace(low, high, shape[0]) if shape[0] > 1 else generator.uniform(low, high, 1)
        return np.asarray(np.round(spread) if timestep_unit == "training_index" else spread)
    if minimum is None or maximum is None:
        return np.asarray(generator.standard_normal(shape))
    if spec.dtype.startswith("int"):
        return np.asarray(generator.integers(int(minimum), int(maximum), shape, endpoint=True))
    return np.asarray(generator.uniform(minimum, maximum, shape))
