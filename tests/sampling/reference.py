"""Runs a diffusers scheduler and a solver table on the same made-up denoiser, and compares them step by step.

Two references. The plain one is the diffusers class as it is, in float32. The exact one is the same class with its
step in float64, on the same float32 schedule (its square roots rounded correctly: torch's vectorised ones are off
by one unit in the last place in about one of six values, depending on the machine). The exact one tells whose
rounding a difference is: several of the classes lose three to five digits in float32, mostly where they subtract
numbers that nearly agree (``exp(-h) - 1``, ``(sample - x0) / sigma``).
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dit_deploy.sampling import NoiseSource, SolverState, SolverTable, solver_table

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
diffusers.utils.logging.set_verbosity_error()

#: 60 elements a sample, 120 a batch: neither is a multiple of 16
SHAPE = (2, 3, 4, 5)
STEPS = (1, 2, 4, 20, 50, 250)
LIMIT = 1e-5
#: below this, float32 diffusers is as good as exact and must agree with us too
QUIET = 3e-6

_RANDOM = np.random.RandomState(0)
_FIELDS = _RANDOM.standard_normal((600, *SHAPE)).astype(np.float32)
_WEIGHTS = (_RANDOM.standard_normal((60, 60)) / np.sqrt(60)).astype(np.float32)


def denoiser(model_input: NDArray[Any], timestep: float, row: int, channels: int = 3) -> NDArray[np.float32]:
    """A bounded prediction that depends on its input and timestep, so that wrong scalings show; [2, channels, 4, 5]."""
    flat = np.asarray(model_input, np.float32).reshape(2, 60)
    seen = np.tanh(flat @ _WEIGHTS + np.float32(timestep / 1000)).reshape(SHAPE)
    prediction = np.float32(0.8) * _FIELDS[row] + np.float32(0.2) * seen
    return prediction if channels == 3 else np.concatenate([prediction, np.tanh(_FIELDS[-1 - row])], axis=1)


@dataclass
class Trajectory:
    timesteps: list[float]
    samples: list[NDArray[np.float64]]
    next_noise: NDArray[np.float32]  # what the generator would yield now: it tells how much was drawn


class _DoubleTorch:
    """torch as a scheduler's module sees it, where casting to float32 keeps float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def _correct_square_roots() -> Iterator[None]:
    root, power = torch.Tensor.sqrt, torch.Tensor.__pow__

    def exact_root(tensor: Any) -> Any:
        return root(tensor.double()).to(tensor.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "sqrt", exact_root)
        patch.setattr(torch, "sqrt", exact_root)
        patch.setattr(torch.Tensor, "__pow__", lambda t, e: exact_root(t) if e == 0.5 else power(t, e))
        yield


@contextmanager
def _double_steps(scheduler: Any) -> Iterator[None]:
    module = importlib.import_module(type(scheduler).__module__)
    if hasattr(scheduler, "get_lms_coefficient"):  # Python's floats are doubles too, and its quadrature is slow
        scheduler.sigmas = scheduler.sigmas.double().tolist()
    for name in ("sigmas", "alphas_cumprod", "final_alpha_cumprod", "one"):
        if isinstance(getattr(scheduler, name, None), torch.Tensor):
            setattr(scheduler, name, getattr(scheduler, name).double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "torch", _DoubleTorch())
        if hasattr(module, "randn_tensor"):  # the noise stays float32's
            draw = module.randn_tensor
            patch.setattr(
                module,
                "randn_tensor",
                lambda shape, dtype=None, **rest: draw(shape, dtype=torch.float32, **rest).double(),
            )
        yield


@contextmanager
def _nothing(_: Any = None) -> Iterator[None]:
    yield


def make_scheduler(
    name: str, options: Mapping[str, Any], steps: int, *, exact: bool, begin: int = 0, **set_timesteps: Any
) -> Any:
    """Return a diffusers scheduler set to run ``steps`` steps from step ``begin``."""
    with _correct_square_roots() if exact else _nothing(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, about how torch's tensors are converted
        scheduler = getattr(diffusers, name)(**options)
        scheduler.set_timesteps(
            **({} if "sigmas" in set_timesteps else {"num_inference_steps": steps}), **set_timesteps
        )
    if hasattr(scheduler, "set_begin_index"):
        # Pipelines of image-to-image do this. The others let the scheduler look up the first timestep, which finds
        # the second of two equal ones.
        scheduler.set_begin_index(begin * scheduler.order)
    return scheduler


def run_scheduler(
    scheduler: Any, *, exact: bool, begin: int = 0, seed: int = 5, channels: int = 3, eta: float | None = None
) -> Trajectory:
    """Run a diffusers scheduler as a pipeline does."""
    generator = torch.Generator("cpu").manual_seed(seed)
    sample = torch.randn(SHAPE, generator=generator) * initial_noise_scale(scheduler)
    arguments = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    if eta is not None:
        arguments["eta"] = eta
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    samples = []
    with _double_steps(scheduler) if exact else _nothing(), torch.inference_mode():
        sample = sample.double() if exact else sample
        for row, timestep in enumerate(timesteps):
            model_input = sample
            if hasattr(scheduler, "scale_model_input"):
                model_input = scheduler.scale_model_input(sample, timestep)
            prediction = torch.from_numpy(denoiser(model_input.numpy(), float(timestep), row, channels))
            sample = scheduler.step(prediction.to(sample.dtype), timestep, sample, **arguments).prev_sample
            samples.append(sample.double().numpy().copy())
    after = torch.randn(40, generator=generator).numpy()
    return Trajectory([float(timestep) for timestep in timesteps], samples, after)


def run_table(table: SolverTable, *, seed: int = 5, channels: int = 3) -> Trajectory:
    """Run a solver table on the same denoiser and noise."""
    source = NoiseSource(seed)
    state = SolverState(table, SHAPE)
    state.reset(source.draw(SHAPE) * np.float32(table.initial_noise_scale))
    samples, noise = [], None
    for row in range(len(table)):
        output = denoiser(state.model_input(row), table.timesteps[row], row, channels)
        for _ in range(table.noise_draws[row]):
            noise = source.draw(SHAPE)
        variance = output[:, 3:] if table.needs_variance else None
        samples.append(state.advance(row, output[:, :3], variance, noise).astype(np.float64))
    return Trajectory(table.timesteps.tolist(), samples, source.draw((40,)))


def initial_noise_scale(scheduler: Any) -> float:
    """Return diffusers' init_noise_sigma; the flow-matching schedulers have none."""
    return (
        float(scheduler.init_noise_sigma) if "init_noise_sigma" in dir(type(scheduler)) + list(vars(scheduler)) else 1.0
    )


def start_of(scheduler: Any, begin: int) -> tuple[float, float]:
    """Return (signal, noise) as ``add_noise`` or ``scale_noise`` mixes them at the first timestep that is run."""
    timestep = scheduler.timesteps[begin * scheduler.order][None]
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    if hasattr(scheduler, "add_noise"):
        return float(scheduler.add_noise(one, zero, timestep)), float(scheduler.add_noise(zero, one, timestep))
    return float(scheduler.scale_noise(one, timestep, zero)), float(scheduler.scale_noise(zero, timestep, one))


def difference(ours: Trajectory, theirs: Trajectory) -> float:
    """Return the largest relative difference ‖a − b‖∞ / ‖b‖∞ over the steps; both must be finite."""
    assert all(np.isfinite(sample).all() for run in (ours, theirs) for sample in run.samples)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours.samples, theirs.samples, strict=True))


def check(
    name: str,
    options: Mapping[str, Any],
    steps: int,
    *,
    begin: int = 0,
    channels: int = 3,
    eta: float | None = None,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
    plain: bool = True,
) -> tuple[float, float]:
    """Compare table and scheduler in everything that a run shows; return the differences to the two references.

    ``plain=False`` leaves out the float32 reference, where it is slow.
    """
    table = solver_table(
        {"_class_name": name, **options},
        steps,
        begin=begin,
        sigmas=sigmas,
        mu=mu,
        **({} if eta is None else {"eta": eta}),
    )
    own = None if sigmas is None else np.array(sigmas)
    extra = {key: value for key, value in {"sigmas": own, "mu": mu}.items() if value is not None}
    ours = run_table(table, channels=channels)
    runs: list[Trajectory] = []
    for exact in (True, False)[: 1 + plain]:
        scheduler = make_scheduler(name, options, steps, exact=exact, begin=begin, **extra)
        assert table.initial_noise_scale == pytest.approx(initial_noise_scale(scheduler), rel=1e-6)
        runs.append(run_scheduler(scheduler, exact=exact, begin=begin, channels=channels, eta=eta))
    scheduler = make_scheduler(name, options, steps, exact=False, begin=begin, **extra)
    assert table.start == pytest.approx(start_of(scheduler, begin), rel=1e-6, abs=1e-6)
    assert table.num_steps == steps - begin
    compare(ours, *runs)
    return difference(ours, runs[0]), difference(ours, runs[-1])


def compare(ours: Trajectory, exact: Trajectory, plain: Trajectory | None = None) -> None:
    """Assert that a run of ours agrees with both references."""
    np.testing.assert_allclose(ours.timesteps, exact.timesteps, rtol=1e-6)
    np.testing.assert_allclose(ours.next_noise, exact.next_noise, atol=1e-6, err_msg="draws of noise")
    error = difference(ours, exact)
    assert error <= LIMIT, f"{error:.1e} from float64 diffusers, at most {LIMIT:.0e} allowed"
    if plain is None:
        return
    noise = difference(plain, exact)
    if noise <= QUIET:
        error = difference(ours, plain)
        assert error <= LIMIT, f"{error:.1e} from float32 diffusers, at most {LIMIT:.0e} allowed"
    else:  # float32 diffusers is the noisy side: it must be further from the exact run than we are
        assert error < noise, f"{error:.1e} of ours, {noise:.1e} of diffusers from its own float64 run"
