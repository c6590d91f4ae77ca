"""What a bundle's own sampling makes of small errors, asked where an engine's pictures miss the limit in decibels.

A limit in decibels stands for an error of the predictions, as the trained demo multiplies it. Other models multiply it
more: strong guidance, and a multistep solver with few steps on a prompt that the model never learned, can turn the
rounding of any half-precision network into another picture, PyTorch's own included. So it is measured whether the limit
means anything for the bundle: by pictures of the plain graphs whose predictions are off by what it stands for. Where
those miss it too, decibels tell nothing, and the engine is held against that error itself: its components beside the
plain ones, on the same inputs, all along the trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from dit_deploy.bundle import Bundle, Component
from dit_deploy.parity.engine import Drawn, EngineParity, compare_with_plain
from dit_deploy.parity.metrics import relative_error
from dit_deploy.runtimes import Binding, Runner
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

__all__ = ["Amplification"]

Progress = Callable[[str, int, int], None]

#: Of ten thousand normal numbers the largest is about as many deviations from 0.
_DEVIATIONS = 4.0


class Amplification:
    """Judges engines of one bundle against ``plain`` by the error that their limit stands for.

    Args:
        plain: of :func:`~dit_deploy.parity.engine.plain_pictures`.
        precision, allowed: whose limit it is, and :attr:`~dit_deploy.parity.limits.Limits.prediction` of it.
        seed: that ``plain`` was drawn with.
    """

    def __init__(
        self,
        bundle: Bundle,
        plain: Drawn,
        precision: str,
        allowed: float,
        *,
        seed: int = 0,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._bundle, self._plain, self._precision, self._allowed = bundle, plain, precision, allowed
        self._seed, self._threads, self._progress = seed, threads, progress
        self._psnr: float | None = None

    def weigh(self, parity: EngineParity, runners: Mapping[str, Runner]) -> EngineParity:
        """Return the figures of an engine; with what tells a fault from a restless model where they miss the limit.

        Args:
            parity: of the engine.
            runners: its components.
        """
        if parity.passed or parity.failure:
            return parity
        parity = replace(parity, allowed=self._allowed, amplified=self.psnr())
        if self.psnr() >= parity.limit:
            return parity  # for this bundle, too, the limit stands for what it is said to
        return replace(parity, components=self._beside(runners))

    def psnr(self) -> float:
        """Return decibels of the plain graphs' pictures with predictions off at random by what is allowed.

        Each value of a prediction is off by a normal number of its own, the largest by about ``allowed`` of the largest
        value.
        """
        if self._psnr is None:
            experts = self._bundle.manifest.experts
            names = ("denoiser",) if experts is None else ("denoiser", experts.component)
            self._psnr = self._draw({name: _Disturbed(self._open(name), self._allowed) for name in names}).psnr
        return self._psnr

    def _beside(self, runners: Mapping[str, Runner]) -> float:
        """Return the largest difference of any output of ``runners`` from the plain one's, relative to the largest."""
        watched = {name: _Beside(self._open(name), runner) for name, runner in runners.items()}
        self._draw(watched)
        return max(one.largest for one in watched.values())

    def _open(self, name: str) -> Runner:
        return OnnxRuntimeRunner(self._bundle.component_path(name), self._bundle.component(name), threads=self._threads)

    def _draw(self, runners: Mapping[str, Runner]) -> EngineParity:
        return compare_with_plain(
            self._bundle,
            self._plain,
            self._precision,
            runners=runners,
            seed=self._seed,
            threads=self._threads,
            progress=None if self._progress is None else self._say,
        )

    def _say(self, _what: str, done: int, total: int) -> None:
        assert self._progress is not None
        self._progress("measuring what the sampling makes of small errors", done, total)


class _Disturbed:
    """A denoiser whose predictions are off at random."""

    def __init__(self, inner: Runner, error: float) -> None:
        self._inner, self._error = inner, error
        self._random = np.random.default_rng(0)

    @property
    def component(self) -> Component:
        return self._inner.component

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        return _DisturbedBinding(self._inner.bind(sizes), self._error, self._random)


class _DisturbedBinding:
    def __init__(self, inner: Binding, error: float, random: np.random.Generator) -> None:
        self._inner, self._error, self._random = inner, error, random
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self) -> None:
        self._inner.run()
        prediction = self.outputs["prediction"]
        deviation = np.abs(prediction).max() * self._error / _DEVIATIONS
        prediction += (deviation * self._random.standard_normal(prediction.shape)).astype(prediction.dtype)


class _Beside:
    """A plain component, and beside it an engine's on the same inputs.

    Attributes:
        largest: difference of any floating-point output so far, relative to the plain one's largest value.
    """

    def __init__(self, plain: Runner, engine: Runner) -> None:
        self._plain, self._engine = plain, engine
        self.largest = 0.0

    @property
    def component(self) -> Component:
        return self._plain.component

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        return _BesideBinding(self, self._plain.bind(sizes), self._engine.bind(sizes))


class _BesideBinding:
    def __init__(self, watched: _Beside, plain: Binding, engine: Binding) -> None:
        self._watched, self._plain, self._engine = watched, plain, engine
        self.inputs, self.outputs = plain.inputs, plain.outputs

    def run(self) -> None:
        for name, array in self.inputs.items():
            self._engine.inputs[name][...] = array  # before either runs: a backend may use its inputs' memory
        self._plain.run()
        self._engine.run()
        for name, array in self.outputs.items():
            if array.dtype.kind == "f":
                found = relative_error(self._engine.outputs[name], array)
                self._watched.largest = max(self._watched.largest, found)
