"""Whether a captured CUDA graph computes what the run that it was captured from computed.

A graph may be empty, or read memory that is no longer what it was (NVIDIA/TensorRT issues 3798 and 2603), and nothing
fails then. So the first replay of each is compared with an ordinary run on the same inputs; the outputs are spoiled
between the two.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.runtimes.device import Buffer, Device

__all__ = ["disagreement", "replay_differs", "warn_eager"]

Array = NDArray[Any]

#: The same kernels on the same values: only sums whose order is not fixed may differ.
TOLERANCE = 1e-3


def replay_differs(
    device: Device,
    outputs: Mapping[str, tuple[Buffer, Array]],
    eager: Callable[[], object],
    capture: Callable[[], object],
    replay: Callable[[], object],
) -> str:
    """Run ``eager``, ``capture`` and ``replay``; return how the last differs from the first, empty where it does not.

    The outputs are those of the replay afterwards.

    Args:
        outputs: each output's buffer, and an array of its shape and dtype, by name.
    """
    eager()
    expected = _read(device, outputs)
    capture()
    for buffer, like in outputs.values():
        device.upload(buffer, np.full_like(like, np.nan if like.dtype.kind == "f" else 0))
    replay()
    return disagreement(expected, _read(device, outputs))


def disagreement(expected: Mapping[str, Array], found: Mapping[str, Array]) -> str:
    """Return how ``found`` differs from ``expected`` by more than :data:`TOLERANCE` of its largest value."""
    for name, array in expected.items():
        other = found[name]
        fine = np.isfinite(array)
        if not np.array_equal(fine, np.isfinite(other)):
            return f"{name} is not finite in other places"
        if not fine.any():
            continue
        largest = float(np.abs(array[fine]).max())
        difference = float(np.abs(array[fine].astype(np.float64) - other[fine]).max())
        if difference > TOLERANCE * largest:
            return f"{name} differs by {difference:.1e}, its largest value is {largest:.1e}"
    return ""


def warn_eager(what: str, reason: str) -> None:
    """Warn that ``what`` runs without a CUDA graph from here on."""
    warnings.warn(f"{what} runs without a CUDA graph, somewhat slower: {reason}", RuntimeWarning, stacklevel=3)


def _read(device: Device, outputs: Mapping[str, tuple[Buffer, Array]]) -> dict[str, Array]:
    read = {}
    for name, (buffer, like) in outputs.items():
        read[name] = np.empty_like(like)
        device.download(buffer, read[name])
    return read
