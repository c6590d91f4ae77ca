"""What passes a diffusers scheduler's ``step``, kept."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Evaluation", "Progress", "Recorder", "array"]

Floats = NDArray[np.float32]
#: Called after each evaluation of the denoiser with how many are done, and how many there will be.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the denoiser and the scheduler's step from it.

    Arrays are float32 [batch, channels, …], shaped like the latents.

    Attributes:
        timestep: what the scheduler was given, in its unit.
        sample: the latents before, not yet scaled for the denoiser.
        prediction: the guided prediction, without the learned variance.
        next_sample: the latents after.
    """

    timestep: float
    sample: Floats
    prediction: Floats
    next_sample: Floats


class Recorder:
    """Stands before a scheduler's ``step`` and keeps the first ``batch`` samples of what passes.

    Args:
        solver: a diffusers scheduler; its ``step`` is replaced.
        batch: samples; a pipeline may hand the scheduler both halves of guidance.
        channels: of the latents; what a network gives beyond them is its variance.
        arrange: (what passes) → the same in the bundle's order of axes.
    """

    def __init__(
        self,
        solver: Any,
        batch: int,
        channels: int,
        progress: Progress | None,
        arrange: Callable[[Tensor], Tensor],
    ) -> None:
        self.evaluations: list[Evaluation] = []
        step = solver.step
        signature = inspect.signature(step)

        @functools.wraps(step)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            before = array(arrange(given["sample"][:batch]))
            output = step(*args, **kwargs)
            after = output[0] if isinstance(output, tuple) else output.prev_sample
            prediction = array(arrange(given["model_output"][:batch])[:, :channels])
            self.evaluations.append(
                Evaluation(float(given["timestep"]), before, prediction, array(arrange(after[:batch])))
            )
            if progress is not None:
                progress(len(self.evaluations), max(len(solver.timesteps), len(self.evaluations)))
            return output

        solver.step = recorded


def array(tensor: Tensor) -> Floats:
    """Return a copy of a tensor as float32."""
    copied: Floats = tensor.detach().to(torch.float32).numpy().copy()
    return copied
