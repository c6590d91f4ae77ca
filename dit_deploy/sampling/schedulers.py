"""From a diffusers scheduler config to a solver table: the registry and its front door."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from dit_deploy.errors import InputError
from dit_deploy.sampling.options import Options, Request
from dit_deploy.sampling.solvers import (
    cogvideox,
    ddim,
    ddpm,
    dpm_solver,
    euler,
    flow_match,
    heun,
    lcm,
    lms,
    pndm,
    unipc,
)
from dit_deploy.sampling.table import SolverTable
from dit_deploy.text import one_line

__all__ = ["SCHEDULERS", "Solver", "image_to_image_begin", "resolve_scheduler", "solver_table"]


@dataclass(frozen=True)
class Solver:
    """One diffusers scheduler class.

    Args:
        options: option → diffusers' default.
        build: the table's builder.
        compatible: whether diffusers counts the class among those that share configs. Such a config carries options
            of the other classes, which do nothing.
        takes: the arguments of :func:`solver_table` that it has a use for.
        leaking: options of other classes that this class reads nevertheless where a config carries them.
        begins_as_diffusers: whether a table with ``begin`` > 0 is what diffusers' image-to-image does; two classes
            of diffusers err there (see their builders).
    """

    options: Mapping[str, Any]
    build: Callable[[Options, Request], SolverTable]
    compatible: bool = True
    takes: tuple[str, ...] = ()
    leaking: tuple[str, ...] = field(default=())
    begins_as_diffusers: bool = True


_ENDS = ("sigma_min", "sigma_max")

#: diffusers class name → how its table is built.
SCHEDULERS: dict[str, Solver] = {
    "DDPMScheduler": Solver(ddpm.OPTIONS, ddpm.build),
    "DDIMScheduler": Solver(ddim.OPTIONS, ddim.build, takes=("eta",)),
    "DPMSolverMultistepScheduler": Solver(dpm_solver.OPTIONS, dpm_solver.build, takes=("mu",), leaking=_ENDS),
    "UniPCMultistepScheduler": Solver(unipc.OPTIONS, unipc.build, takes=("sigmas", "mu")),
    "EulerDiscreteScheduler": Solver(euler.OPTIONS, euler.build),
    "EulerAncestralDiscreteScheduler": Solver(euler.ANCESTRAL_OPTIONS, euler.build_ancestral),
    "HeunDiscreteScheduler": Solver(heun.OPTIONS, heun.build, leaking=_ENDS),
    "LMSDiscreteScheduler": Solver(lms.OPTIONS, lms.build, leaking=_ENDS, begins_as_diffusers=False),
    "LCMScheduler": Solver(lcm.OPTIONS, lcm.build, compatible=False),
    "PNDMScheduler": Solver(pndm.OPTIONS, pndm.build, begins_as_diffusers=False),
    "FlowMatchEulerDiscreteScheduler": Solver(
        flow_match.OPTIONS, flow_match.build, compatible=False, takes=("sigmas", "mu"), leaking=_ENDS
    ),
    "FlowMatchHeunDiscreteScheduler": Solver(flow_match.HEUN_OPTIONS, flow_match.build_heun, compatible=False),
    "CogVideoXDDIMScheduler": Solver(cogvideox.OPTIONS, cogvideox.build_ddim),
    "CogVideoXDPMScheduler": Solver(cogvideox.OPTIONS, cogvideox.build_dpm),
}

#: Short name → class name.
SHORT_NAMES = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "dpmsolver++sde": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "lcm": "LCMScheduler",
    "pndm": "PNDMScheduler",
    "flow-euler": "FlowMatchEulerDiscreteScheduler",
    "flow-heun": "FlowMatchHeunDiscreteScheduler",
}
#: What a short name sets beyond the class.
_SHORT_NAME_OPTIONS: dict[str, dict[str, Any]] = {
    "dpmsolver++": {"algorithm_type": "dpmsolver++"},
    "dpmsolver++sde": {"algorithm_type": "sde-dpmsolver++"},
}

#: Options of compatible diffusers classes that have no solver here: they too may be carried along.
_FOREIGN_OPTIONS = frozenset(
    {
        "algorithm_type",
        "noise_sampler_seed",
        "rho",
        "sigma_data",
        "sigma_max",
        "sigma_min",
        "sigma_schedule",
        "solver_p",
    }
)


def _carried() -> frozenset[str]:
    """The options that diffusers drops in silence where a compatible class does not have them."""
    return _FOREIGN_OPTIONS.union(*(solver.options for solver in SCHEDULERS.values() if solver.compatible))


def solver_table(
    config: Mapping[str, Any],
    num_inference_steps: int,
    *,
    begin: int = 0,
    sigmas: Sequence[float] | None = None,
    mu: float | None = None,
    eta: float = 0.0,
) -> SolverTable:
    """Return the solver table of a diffusers scheduler config.

    Args:
        config: as in ``scheduler_config.json``, with ``_class_name``.
        num_inference_steps: of the whole schedule, 1 … num_train_timesteps.
        begin: inference steps left out at the start (see :func:`image_to_image_begin`); the warm-up of multistep
            solvers starts over there.
        sigmas: own noise levels from high to low, in (0, 1], one a step, before the config's shift; only flow
            matching has them (FLUX passes ``linspace(1, 1 / n, n)``).
        mu: the shift of a config with ``use_dynamic_shifting``.
        eta: of DDIM, 0 … 1.

    Raises:
        InputError: the class, an option or its value is not supported, or an argument is out of range or of no use
            to the class.
    """
    name = _class_name(config)
    solver = SCHEDULERS[name]
    steps = _whole("num_inference_steps", num_inference_steps, 1)
    if _whole("begin", begin, 0) >= steps:
        raise InputError(f"begin: {begin} came, fewer than num_inference_steps = {steps} was expected")
    eta = _number("eta", eta, 0.0, 1.0)
    for argument, value in {"sigmas": sigmas, "mu": mu, "eta": eta or None}.items():
        if value is not None and argument not in solver.takes:
            able = ", ".join(other for other, entry in SCHEDULERS.items() if argument in entry.takes)
            raise InputError(f"{argument}: {name} has no use for it; these have: {able}")
    levels = None if sigmas is None else _own_sigmas(sigmas, steps)
    mu = None if mu is None else _number("mu", mu)
    defaults = {**solver.options, **dict.fromkeys(solver.leaking)}
    options = Options(name, defaults, config, _carried() if solver.compatible else ())
    request = Request(num_inference_steps=steps, begin=begin, sigmas=levels, mu=mu, eta=eta)
    try:
        with np.errstate(all="ignore"):  # the table says which timestep has no finite step
            return solver.build(options, request)
    except (ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"{name}: two of the {steps} steps fall on the same noise level; use fewer steps or another spacing"
        ) from error
    except InputError:
        raise
    except (ValueError, IndexError) as error:  # of a logarithm, a linear system or a table, at levels that are none
        raise InputError(
            f"{name}: this config has no noise levels for {steps} steps; use fewer, another spacing or other sigmas"
        ) from error


def resolve_scheduler(base_config: Mapping[str, Any], name_or_config: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config to sample with, as diffusers' ``Class.from_config(base_config)`` has it.

    Args:
        base_config: the model's own scheduler config.
        name_or_config: None for that one; a whole config with ``_class_name``; or a diffusers class name or short
            name (``ddim``, ``dpmsolver++``, …), which takes the options of ``base_config`` that the class has, but for
            those that ``_use_default_values`` lists, and its own defaults for the rest.

    Raises:
        InputError: the name or class is not known; the message lists those that are.
    """
    if name_or_config is None or isinstance(name_or_config, Mapping):
        config = base_config if name_or_config is None else name_or_config
        _class_name(config)
        return dict(config)
    target = SHORT_NAMES.get(name_or_config, name_or_config) if isinstance(name_or_config, str) else None
    if target not in SCHEDULERS:
        raise InputError(
            f"scheduler: {name_or_config!r} is not known; expected one of {', '.join(SHORT_NAMES)}, "
            f"or of diffusers' classes {', '.join(SCHEDULERS)}"
        )
    solver, base = SCHEDULERS[target], SCHEDULERS[_class_name(base_config)]
    dropped = {*base.options, *_carried()} - {*solver.options, *solver.leaking}
    dropped.update(_default_names(base_config))
    options = {key: value for key, value in base_config.items() if not key.startswith("_") and key not in dropped}
    return {"_class_name": target, **options, **_SHORT_NAME_OPTIONS.get(name_or_config, {})}


def image_to_image_begin(num_inference_steps: int, strength: float, *, round_up: bool = False) -> int:
    """Return how many inference steps image-to-image leaves out, as diffusers' ``get_timesteps``.

    Args:
        num_inference_steps: of the whole schedule.
        strength: 0 … 1, the fraction of the steps that is run; at least one step must be.
        round_up: run the step that is begun, as pipelines of flow models do.

    Raises:
        InputError: an argument is out of range, or no step is left.
    """
    steps = _whole("num_inference_steps", num_inference_steps, 1)
    fraction = steps * _number("strength", strength, 0.0, 1.0)
    run = steps - int(steps - fraction) if round_up else min(int(fraction), steps)
    if run < 1:
        raise InputError(
            f"strength: {strength} of {steps} steps leaves none to run; use {1 / steps:g} or more, or more steps"
        )
    return steps - run


def _class_name(config: Mapping[str, Any]) -> str:
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise InputError(f"scheduler config: _class_name={name!r} is not supported; supported: {', '.join(SCHEDULERS)}")
    return name


def _default_names(config: Mapping[str, Any]) -> Collection[str]:
    names = config.get("_use_default_values", ())
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
        came = one_line(repr(names), 120)
        raise InputError(f"scheduler config: _use_default_values={came} came, a list of options' names was expected")
    return names


def _number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    number = math.nan
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        expected = "a finite number" if low == -math.inf else f"a number of {low:g} to {high:g}"
        raise InputError(f"{name}: {value!r} came, {expected} was expected")
    return number


def _whole(name: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise InputError(f"{name}: {value!r} came, an integer of {low} or more was expected")
    return int(value)


def _own_sigmas(sigmas: Sequence[float], steps: int) -> tuple[float, ...]:
    values = tuple(float(sigma) for sigma in sigmas)
    falling = all(high > low for high, low in pairwise(values))
    if len(values) != steps or not falling or not all(0.0 < value <= 1.0 for value in values):
        raise InputError(
            f"sigmas: expected num_inference_steps = {steps} falling numbers in (0, 1], {len(values)} came: {values}"
        )
    return values
