"""The denoiser with classifier-free guidance around it (Ho & Salimans 2022), on borrowed buffers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dit_deploy.runtimes.arguments import patch_grid
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.runner import Binding, BindingPool
from dit_deploy.sampling import Guidance, SolverTable

__all__ = ["Denoiser", "GuidedDenoiser", "Sampled"]

Array = NDArray[Any]
Copy = Literal["conditional", "unconditional", "skipping"]


class Sampled(Protocol):
    """What a denoiser is given of the sample: :class:`~dit_deploy.sampling.SolverState`, or a window of one."""

    @property
    def table(self) -> SolverTable:
        """The sampler's."""

    def model_input(self, row: int, out: Array) -> Array:
        """Write what the denoiser is fed in ``row`` to ``out``."""


class Denoiser(Protocol):
    """What the loop evaluates row by row."""

    @property
    def seconds(self) -> float:
        """Spent in the network."""

    def __enter__(self) -> Denoiser: ...

    def __exit__(self, *exception: object) -> None: ...

    def __call__(self, state: Sampled, row: int) -> tuple[Array, Array | None]:
        """Return ``prediction`` and ``variance`` (``None`` where nothing is learned), valid until the next call."""


class GuidedDenoiser:
    """Evaluates the denoiser for one run: same conditions, same sizes, another timestep each time.

    Batched guidance puts conditional and unconditional halves into one call, conditional first, as
    diffusers' ``DiTPipeline``; otherwise they are two calls on the same buffers. Skip-layer guidance is a call of
    its own, as there, so that an engine built for two copies of the sample has room for it.

    Args:
        pool: the denoiser's bindings.
        conditions: every input but ``latents`` and ``timestep``, for both halves. Where these have other sizes (texts
            of different lengths), the halves are two calls.
        guidance: scale, channels, interval, rescaling, and skip-layer guidance.
        shape: of the latents, [batch, channels, [frames,] height, width].
        timestep_scale: what the table's timesteps are multiplied by, to be in the unit that the denoiser takes.
    """

    def __init__(
        self,
        pool: BindingPool,
        conditions: Conditions,
        guidance: Guidance,
        shape: tuple[int, ...],
        timestep_scale: float = 1.0,
    ) -> None:
        self._pool = pool
        self._guidance = guidance
        self._shape = shape
        self._timestep_scale = timestep_scale
        self._batched = guidance.batched and conditions.same_shapes
        component = pool.runner.component
        grid = patch_grid(component, shape)
        others: dict[Copy, Mapping[str, Array]] = {
            "conditional": {},
            "unconditional": conditions.unconditional,
            "skipping": conditions.skipping,
        }
        self._copies = {
            name: _Copy(
                {**conditions.conditional, **other},
                {**grid, **conditions.sizes(component, conditional=name != "unconditional")},
            )
            for name, other in others.items()
        }
        self._stack = ExitStack()
        self._bindings: dict[tuple[tuple[str, int], ...], Binding] = {}
        self._first: dict[str, Array] = {}  # outputs of the first of two calls
        self._guided: Array | None = None  # where skip-layer guidance is added
        self.seconds = 0.0

    def __enter__(self) -> GuidedDenoiser:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bindings.clear()
        self._stack.close()

    def __call__(self, state: Sampled, row: int) -> tuple[Array, Array | None]:
        """Return ``prediction`` and ``variance`` (``None`` where nothing is learned), valid until the next call."""
        step = int(state.table.step[row])
        if not self._guidance.active(step, state.table.num_steps):
            outputs = self._run(state, row, "conditional")
            return outputs["prediction"], outputs.get("variance")
        batch = self._shape[0]
        if self._batched:
            outputs = self._run(state, row, "conditional", "unconditional")
            conditional = {name: array[:batch] for name, array in outputs.items()}
            unguided = {name: array[batch:] for name, array in outputs.items()}
        else:
            for name, array in self._run(state, row, "conditional").items():
                np.copyto(self._first.setdefault(name, np.empty_like(array)), array)
            conditional = self._first
            unguided = dict(self._run(state, row, "unconditional"))
        prediction, unconditional = conditional["prediction"], unguided["prediction"]
        if self._guidance.variance and "variance" in conditional:
            Guidance(self._guidance.scale).combine(
                conditional["variance"], unguided["variance"], out=conditional["variance"]
            )
        skip = self._guidance.skip
        if skip is None or not skip.active(step, state.table.num_steps):
            self._guidance.combine(prediction, unconditional, out=prediction)
        else:
            # The third call may write where the first did, so what it is compared with is kept.
            if self._guided is None:
                self._guided = np.empty_like(prediction)
            self._guidance.combine(prediction, unconditional, out=self._guided)
            kept = prediction.copy()
            skip.add(self._guided, kept, self._run(state, row, "skipping")["prediction"])
            prediction = self._guided
        # Unguided parts, such as most families' variance, are the conditional ones, as in the original's
        # forward_with_cfg.
        return prediction, conditional.get("variance")

    def _run(self, state: Sampled, row: int, *names: Copy) -> Mapping[str, Array]:
        """Evaluate the denoiser once on a copy of the sample for each of ``names``, with its conditions."""
        batch, copies = self._shape[0], len(names)
        sizes = {**self._copies[names[0]].sizes, "batch": batch * copies}
        key = tuple(sorted(sizes.items()))
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._stack.enter_context(self._pool.borrow(**sizes))
        latents = binding.inputs["latents"]
        state.model_input(row, out=latents[:batch])
        latents[batch:] = latents[: batch * (copies - 1)]
        binding.inputs["timestep"][:] = state.table.timesteps[row] * self._timestep_scale
        for index, copy in enumerate(names):
            for name, array in self._copies[copy].conditions.items():
                binding.inputs[name][index * batch : (index + 1) * batch] = array
        started = time.perf_counter()
        binding.run()
        self.seconds += time.perf_counter() - started
        return binding.outputs


@dataclass(frozen=True)
class _Copy:
    """The conditions of one copy of the sample, and the free sizes of the denoiser for it, without the batch."""

    conditions: Mapping[str, Array]
    sizes: Mapping[str, int]
