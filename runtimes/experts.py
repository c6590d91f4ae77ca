"""Two denoisers in one run, the second for low noise (Wan 2.2): which evaluates a row is a matter of its timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.runtimes.guided import Denoiser, Sampled

__all__ = ["ExpertDenoiser"]

Array = NDArray[Any]


class ExpertDenoiser:
    """Evaluates the first denoiser from ``boundary`` up and the second below; each is opened when its time comes.

    Args:
        first, second: make the denoisers; the one that is not in use is closed.
        boundary: in the unit of the table's timesteps.
        released: called with the name of the one that was closed, for whoever wants its memory back.
    """

    def __init__(
        self,
        first: Callable[[], Denoiser],
        second: Callable[[], Denoiser],
        boundary: float,
        released: Callable[[bool], None] = lambda first: None,
    ) -> None:
        self._make = {True: first, False: second}
        self._boundary, self._released = boundary, released
        self._active: tuple[bool, Denoiser] | None = None
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Spent in both denoisers."""
        return self._seconds + (self._active[1].seconds if self._active is not None else 0.0)

    def __enter__(self) -> ExpertDenoiser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def __call__(self, state: Sampled, row: int) -> tuple[Array, Array | None]:
        """Return ``prediction`` and ``variance`` of the denoiser whose timestep it is."""
        # In float32, as torch compares: a timestep is float32, and 833.3 is a hair below 0.8333 · 1000 there.
        high = bool(np.float32(state.table.timesteps[row]) >= np.float32(self._boundary))
        if self._active is None or self._active[0] != high:
            self._close()
            self._active = high, self._make[high]().__enter__()
        return self._active[1](state, row)

    def _close(self) -> None:
        if self._active is None:
            return
        high, denoiser = self._active
        self._seconds += denoiser.seconds
        self._active = None
        denoiser.__exit__(None, None, None)
        self._released(high)
