"""The sampling loop on the device: latents go up once and come down once.

The denoiser's runner and the solver graph's share a device. Each step uploads one row of coefficients (a hundred
bytes), and noise where a sampler draws it; the solver graph writes the next model input and timestep where the denoiser
reads them. What comes down after a step is one number, which tells whether everything is finite; waiting for it
costs the device some tens of microseconds of idleness a step, and stops a run at the step that went wrong.

Rescaled guidance, and guidance in two calls of half the memory, are left to the loop on the host
(:class:`dit_deploy.runtimes.steps.HostSteps`).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import patch_grid
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.device import Buffer, Device, DeviceBinding, DeviceRunner
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.sampling import Guidance, SolverTable
from dit_deploy.sampling.solver_row import OLDER, solver_rows

__all__ = ["DeviceSteps", "device_of", "why_not"]

Array = NDArray[Any]
Floats = NDArray[np.float32]


def why_not(
    denoiser: BindingPool,
    solver: BindingPool | None,
    guidance: Guidance,
    table: SolverTable,
    conditions: Conditions | None = None,
) -> str:
    """Return why a run cannot stay on the device, empty where it can."""
    device = device_of(denoiser)
    if device is None:
        return "the denoiser runs on the host"
    if solver is None:
        return "the engine has no solver graph; build it again"
    if device_of(solver) != device:
        return "the solver graph does not run on the denoiser's device"
    if guidance.scale > 1 and not guidance.batched:
        return "guidance in two calls is the host's"
    if guidance.skip is not None:
        return "skip-layer guidance is a third call, which is the host's"
    if guidance.scale > 1 and guidance.variance and table.needs_variance:
        return "a guided variance is the host's"
    if guidance.scale > 1 and conditions is not None and not conditions.same_shapes:
        return "conditions of two sizes are two calls, which is the host's"
    try:
        solver_rows(table, guidance)
    except InputError as error:
        return str(error)
    return ""


def device_of(pool: BindingPool) -> Device | None:
    """Return the device that a pool's bindings have their buffers on, or ``None`` for the host."""
    return pool.runner.device if isinstance(pool.runner, DeviceRunner) else None


class DeviceSteps:
    """The steps of one run, see :class:`~dit_deploy.runtimes.steps.Steps`; :func:`why_not` is empty.

    Args:
        denoiser, solver: bindings on the same device.
        conditions: every input of the denoiser but ``latents`` and ``timestep``.
        guidance: scale, channels and interval.
        table: the sampler.
        start: the first sample, [batch, channels, [frames,] height, width].
        timestep_scale: what the table's timesteps are multiplied by, to be in the unit that the denoiser takes.
    """

    def __init__(
        self,
        denoiser: BindingPool,
        solver: BindingPool,
        conditions: Conditions,
        guidance: Guidance,
        table: SolverTable,
        start: Floats,
        timestep_scale: float = 1.0,
    ) -> None:
        device = device_of(denoiser)
        assert device is not None
        self._device: Device = device
        self._pools = {"denoiser": denoiser, "solver": solver}
        self._rows = solver_rows(table, guidance, timestep_scale)
        self._batch, shape = len(start), start.shape
        self._grid = patch_grid(denoiser.runner.component, shape)
        self._sizes = conditions.sizes(denoiser.runner.component, conditional=True)
        self._conditions = {
            name: (array, conditions.unconditional.get(name, array)) for name, array in conditions.conditional.items()
        }
        self._stack = ExitStack()
        self._bound: dict[tuple[str, int, int], DeviceBinding] = {}
        self._host = np.empty(shape, np.float32)
        self._magnitude_read = np.empty(1, np.float32)
        self.seconds = 0.0

        def latents() -> Buffer:
            return device.allocate(shape, np.float32)

        self._sample, self._spare, self._saved, self._spare_saved = (latents() for _ in range(4))
        self._zeros, self._noise, self._converted = (latents() for _ in range(3))
        self._history = [latents() for _ in range(table.history - 1)]  # m_1 first
        self._coefficients = device.allocate(self._rows[0].coefficients.shape, np.float32)
        mask = np.zeros(shape[1], np.float32)
        mask[: guidance.channels] = 1.0
        self._channels = self._uploaded(mask)
        self._ones = {
            copies: self._uploaded(np.ones((copies, self._batch), np.float32))
            for copies in {self._copies(row) for row in range(len(self._rows))}
        }
        self._magnitude = device.allocate((1,), np.float32)
        self._start, self._input_scale = start, np.float32(table.input_scale[0])
        self._timestep = float(table.timesteps[0]) * timestep_scale

    def __enter__(self) -> DeviceSteps:
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._bound.clear()
        self._stack.close()

    def predict(self, row: int) -> None:
        """Start the denoiser on the model input that lies ready."""
        started = time.perf_counter()
        # Before the denoiser is busy: a copy from ordinary memory may wait for what was queued.
        self._device.upload(self._coefficients, self._rows[row].coefficients)
        self._denoiser(self._copies(row)).launch()
        self.seconds += time.perf_counter() - started

    def advance(self, row: int, noise: Floats | None) -> None:
        """Start the row's update, which also makes the next model input."""
        started = time.perf_counter()
        own = self._rows[row]
        copies, then = self._copies(row), self._copies(min(row + 1, len(self._rows) - 1))
        if own.noise:
            assert noise is not None
            self._device.upload(self._noise, noise)
        prediction, model_input = self._denoiser(copies).buffers, self._denoiser(then).buffers
        older = [self._history[k - 1] for k in own.older] + [self._zeros] * (OLDER - len(own.older))
        solver = self._solver(copies, then)
        buffers = {
            "sample": self._sample,
            "saved": self._saved,
            **{f"older_{place + 1}": buffer for place, buffer in enumerate(older)},
            "noise": self._noise,
            "prediction": prediction["prediction"],
            "copies": self._ones[then],
            "guided_channels": self._channels,
            "coefficients": self._coefficients,
            "next_sample": self._spare,
            "next_saved": self._spare_saved,
            "converted": self._converted,
            "model_input": model_input["latents"],
            "next_timestep": model_input["timestep"],
            "magnitude": self._magnitude,
        }
        if "variance" in {spec.name for spec in self._pools["solver"].runner.component.inputs}:
            buffers["variance"] = prediction["variance"]
        solver.attach(buffers)
        solver.launch()
        self._sample, self._spare = self._spare, self._sample
        self._saved, self._spare_saved = self._spare_saved, self._saved
        self._history.insert(0, self._converted)
        self._converted = self._history.pop()  # the oldest gives its place to the next row's
        self.seconds += time.perf_counter() - started

    def check(self, when: str) -> None:
        """Wait for the update, and raise :class:`BackendError` where a value is not finite."""
        started = time.perf_counter()
        self._device.download(self._magnitude, self._magnitude_read)
        self.seconds += time.perf_counter() - started
        check_finite(self._magnitude_read, "the latents hold", when)

    def latents(self) -> Floats:
        """Return the sample; the array is used again by the next call."""
        self._device.download(self._sample, self._host)
        return self._host

    def _begin(self) -> None:
        """Upload the first sample and the first model input, as the solver graph will make the later ones."""
        self._device.upload(self._sample, self._start)
        copies = self._copies(0)
        buffers = self._denoiser(copies).buffers
        self._device.upload(buffers["latents"], np.concatenate([self._input_scale * self._start] * copies))
        self._device.upload(buffers["timestep"], np.full(copies * self._batch, self._timestep, np.float32))

    def _copies(self, row: int) -> int:
        return 2 if self._rows[row].guided else 1

    def _denoiser(self, copies: int) -> DeviceBinding:
        """Return the denoiser's binding for so many copies of the sample, its conditions uploaded."""
        key = ("denoiser", copies, 0)
        if key not in self._bound:
            binding = self._borrow("denoiser", batch=copies * self._batch, **self._sizes)
            for name, halves in self._conditions.items():
                self._device.upload(binding.buffers[name], np.concatenate(halves[:copies]))
            self._bound[key] = binding
        return self._bound[key]

    def _solver(self, predictions: int, copies: int) -> DeviceBinding:
        key = ("solver", predictions, copies)
        if key not in self._bound:
            self._bound[key] = self._borrow("solver", batch=self._batch, predictions=predictions, copies=copies)
        return self._bound[key]

    def _borrow(self, pool: str, **sizes: int) -> DeviceBinding:
        return cast(DeviceBinding, self._stack.enter_context(self._pools[pool].borrow(**sizes, **self._grid)))

    def _uploaded(self, array: Floats) -> Buffer:
        buffer = self._device.allocate(array.shape, array.dtype)
        self._device.upload(buffer, array)
        return buffer
