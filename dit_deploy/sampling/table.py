"""A sampler as a table.

Every sampler that latent diffusion uses is linear in the current sample, one saved earlier sample, the
last few converted model outputs and fresh noise. A row of :class:`SolverTable` holds those coefficients
for one evaluation of the denoiser, so neither the loop (:class:`dit_deploy.sampling.state.SolverState`) nor the
one in C++ branches on a scheduler's name. Two terms are not linear and have columns of their own: the
learned-range variance (Nichol & Dhariwal 2021, eq. 15) and the clipping of a predicted sample.

One row, for the old ``sample`` and ``saved`` and the denoiser's ``prediction``::

    prediction = denoiser(input_scale · sample, timestep)
    m_0        = clamp(output[0] · sample + output[1] · prediction, −clip, clip)
    basis      = (sample, saved, prediction, noise, m_0, m_1, …)      m_k: the m_0 of k rows before
    sample, saved = sample_row · basis, saved_row · basis
    sample    += exp(½ (f · log_variance[1] + (1 − f) · log_variance[0])) · noise,  f = (variance + 1) / 2
                                                                                    (where log_variance is no NaN)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError

__all__ = ["BASIS", "SolverTable"]

#: What the first columns of ``SolverTable.sample`` and ``SolverTable.saved`` multiply. The converted model
#: outputs m_0, m_1, … follow: that of this row, of the row before, and so on.
BASIS = ("sample", "saved", "prediction", "noise")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_FORMAT = 1
#: The one value that a column may hold besides finite numbers; JSON has neither, so ``null`` stands for it.
_SPECIAL = {"clip": np.inf, "log_variance": np.nan}


@dataclass(frozen=True, eq=False)
class SolverTable:
    """The coefficients of a sampler: R rows, one for each evaluation of the denoiser; K outputs remembered.

    Args:
        timesteps: float64 [R], what the denoiser is fed; the unit is that of the diffusers scheduler's
            ``timesteps`` (a training index, or sigma · num_train_timesteps for flow matching).
        step: int64 [R], the inference step that a row belongs to: 0 … num_steps − 1, not falling.
        num_steps: how many inference steps there are.
        input_scale: float64 [R], model input = input_scale · sample.
        output: float64 [R, 2], m_0 = output[0] · sample + output[1] · prediction.
        clip: float64 [R], m_0 is clamped to ±clip; infinity leaves it.
        saved: float64 [R, 4 + K], the new saved sample over the basis (see the module's docstring).
        sample: float64 [R, 4 + K], the new sample over the same basis, of the old sample and saved sample.
        noise_draws: int64 [R], how many standard-normal draws of the latents' shape diffusers makes in this
            row; the last one is the noise of the basis. Draws that are multiplied by 0 count: they move the
            generator.
        log_variance: float64 [R, 2], smallest and largest log-variance of a learned-range model, NaN where the
            row has no such term.
        initial_noise_scale: what standard-normal noise is multiplied by to give the first sample.
        start: (signal, noise), the first sample of image-to-image: signal · clean latents + noise · ε.

    Raises:
        InputError: a shape disagrees, or a coefficient is not finite (the schedule has no such step).
    """

    timesteps: Floats
    step: Integers
    num_steps: int
    input_scale: Floats
    output: Floats
    clip: Floats
    saved: Floats
    sample: Floats
    noise_draws: Integers
    log_variance: Floats
    initial_noise_scale: float
    start: tuple[float, float]

    def __post_init__(self) -> None:
        rows = len(self.timesteps)
        width = np.shape(self.sample)[-1] if np.ndim(self.sample) == 2 else 0
        if rows < 1 or width < len(BASIS):
            raise InputError(
                f"solver table: {rows} rows over {width} columns came, at least 1 over {len(BASIS)} expected"
            )
        shapes: dict[str, tuple[int, ...]] = {
            "timesteps": (rows,), "step": (rows,), "input_scale": (rows,), "output": (rows, 2), "clip": (rows,),
            "saved": (rows, width), "sample": (rows, width), "noise_draws": (rows,), "log_variance": (rows, 2),
        }  # fmt: skip
        for name, shape in shapes.items():
            dtype = np.int64 if name in ("step", "noise_draws") else np.float64
            column = np.array(getattr(self, name), dtype=dtype)
            if column.shape != shape:
                raise InputError(f"solver table: {name} has shape {column.shape}, {shape} expected")
            self._check_values(name, column)
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        if self.step[0] != 0 or self.step[-1] != self.num_steps - 1 or np.any((np.diff(self.step) & ~1) != 0):
            raise InputError(f"solver table: step must run from 0 to {self.num_steps - 1} without gaps")
        if np.any(self.noise_draws < 0) or np.any(self.noise_draws[self.uses_noise] < 1):
            raise InputError("solver table: a row uses noise and draws none")
        if not np.all(np.isfinite([self.initial_noise_scale, *self.start])):
            raise InputError("solver table: initial_noise_scale and start must be finite")

    def _check_values(self, name: str, column: NDArray[Any]) -> None:
        fine = np.isfinite(column)
        if name == "clip":
            fine |= column == np.inf
        elif name == "log_variance":
            fine |= np.isnan(column).all(axis=-1, keepdims=True)
        if not fine.all():
            row = int(np.argwhere(~fine)[0][0])
            raise InputError(
                f"this scheduler config has no finite step at timestep {self.timesteps[row]:g} (row {row}, {name}): "
                "use another timestep_spacing, prediction_type, final_sigmas_type or number of steps"
            )

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def history(self) -> int:
        """K: how many converted model outputs the basis holds."""
        return int(self.sample.shape[1]) - len(BASIS)

    @property
    def needs_variance(self) -> bool:
        """Whether the denoiser's learned variance is used (learned-range)."""
        return not bool(np.isnan(self.log_variance).all())

    @property
    def uses_noise(self) -> NDArray[np.bool_]:
        """bool [R]: the rows that need noise given, whatever else they draw."""
        column = BASIS.index("noise")
        linear = (self.sample[:, column] != 0.0) | (self.saved[:, column] != 0.0)
        return np.asarray(linear | ~np.isnan(self.log_variance[:, 0]), np.bool_)

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON-able lists and numbers; ``null`` for an infinite clip and a NaN log-variance."""
        document: dict[str, Any] = {"format": _FORMAT, "basis": [*BASIS, *(f"m_{k}" for k in range(self.history))]}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _SPECIAL:
                value = np.where(np.isfinite(value), value.astype(object), np.array(None))
            document[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
        document["start"] = list(self.start)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SolverTable:
        """Return the table that :meth:`to_json` wrote.

        Raises:
            InputError: a column is missing, of another shape, or the format is another one.
        """
        if document.get("format") != _FORMAT:
            raise InputError(f"solver table: format {document.get('format')!r} came, {_FORMAT} expected")
        try:
            values = {field.name: document[field.name] for field in fields(cls)}
            for name, special in _SPECIAL.items():
                column = np.array(values[name], dtype=np.float64)  # null becomes NaN
                values[name] = np.where(np.isnan(column), special, column)
            values["num_steps"] = int(values["num_steps"])
            values["initial_noise_scale"] = float(values["initial_noise_scale"])
            signal, noise = values["start"]
            values["start"] = (float(signal), float(noise))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"solver table: not a table that to_json wrote ({error!r})") from error
