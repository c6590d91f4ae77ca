"""The steps of one run, and how they are computed on the host, which every backend can."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.guided import Denoiser
from dit_deploy.sampling import SolverState

__all__ = ["HostSteps", "Steps"]

Array = NDArray[Any]
Floats = NDArray[np.float32]


class Steps(Protocol):
    """What the pipeline does row by row: :meth:`predict`, draw noise meanwhile, :meth:`advance`."""

    @property
    def seconds(self) -> float:
        """Spent in the denoiser; where the update runs on the device too, in both."""

    def __enter__(self) -> Steps:
        """Borrow what the steps need."""

    def __exit__(self, *exception: object) -> None:
        """Give it back."""

    def predict(self, row: int) -> None:
        """Evaluate the denoiser on the current sample."""

    def advance(self, row: int, noise: Floats | None) -> None:
        """Apply the row of the table; ``noise`` is the last that the row drew."""

    def check(self, when: str) -> None:
        """Raise :class:`BackendError` where the sample is not finite."""

    def latents(self) -> Floats:
        """Return the current sample, valid until the next call of any method."""


class HostSteps:
    """The update by numpy, on buffers of the host."""

    def __init__(self, denoiser: Denoiser, state: SolverState) -> None:
        self._denoiser, self._state = denoiser, state
        self._predicted: tuple[Array, Array | None] | None = None

    @property
    def seconds(self) -> float:
        """Spent in the denoiser."""
        return self._denoiser.seconds

    def __enter__(self) -> HostSteps:
        self._denoiser.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._denoiser.__exit__(*exception)

    def predict(self, row: int) -> None:
        """Evaluate the denoiser, with guidance."""
        self._predicted = self._denoiser(self._state, row)

    def advance(self, row: int, noise: Floats | None) -> None:
        """Apply the row to what :meth:`predict` left."""
        assert self._predicted is not None
        prediction, variance = self._predicted
        self._state.advance(row, prediction, variance if self._state.table.needs_variance else None, noise)

    def check(self, when: str) -> None:
        """Raise :class:`BackendError` where the sample is not finite."""
        check_finite(self._state.sample, "the latents hold", when)

    def latents(self) -> Floats:
        """Return the sample itself."""
        return self._state.sample
