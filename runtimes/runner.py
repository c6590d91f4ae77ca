"""What a pipeline asks of a backend: bind sizes once, then write inputs, run, read outputs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from numpy.typing import NDArray

from dit_deploy.bundle import Component

__all__ = ["Binding", "BindingPool", "Runner"]

Array = NDArray[Any]


class Binding(Protocol):
    """A component's input and output buffers for one set of sizes. One caller at a time may use it."""

    @property
    def inputs(self) -> Mapping[str, Array]:
        """Arrays to write into, by name."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """Arrays to read after :meth:`run`, by name; the next run overwrites them."""

    def run(self) -> None:
        """Compute ``outputs`` from ``inputs``, in place."""


class Runner(Protocol):
    """One component loaded by a backend. May be shared by threads, each with bindings of its own."""

    @property
    def component(self) -> Component:
        """The declaration of its inputs and outputs."""

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        """Allocate buffers for the free sizes ``sizes``, such as ``{"batch": 2, "patch_height": 16, …}``."""


class BindingPool:
    """Keeps a runner's bindings, so that a second picture of a size allocates nothing.

    At most ``capacity`` idle bindings are kept; the least recently used goes first.
    """

    def __init__(self, runner: Runner, capacity: int = 4) -> None:
        self.runner = runner
        self._capacity = capacity
        self._idle: OrderedDict[int, tuple[tuple[tuple[str, int], ...], Binding]] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, **sizes: int) -> Iterator[Binding]:
        """Lend a binding for ``sizes``, to this caller alone until the ``with`` block ends."""
        key = tuple(sorted(sizes.items()))
        binding = self._take(key) or self.runner.bind(sizes)
        try:
            yield binding
        finally:
            with self._lock:
                self._idle[id(binding)] = (key, binding)
                while len(self._idle) > self._capacity:
                    self._idle.popitem(last=False)

    def _take(self, key: tuple[tuple[str, int], ...]) -> Binding | None:
        with self._lock:
            for identity, (held, binding) in reversed(self._idle.items()):
                if held == key:
                    del self._idle[identity]
                    return binding
        return None
