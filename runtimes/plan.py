"""Which steps a run takes: the scheduler's config held against what the manifest says of the denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dit_deploy.bundle import Bundle, Prediction, Scheduler
from dit_deploy.errors import InputError
from dit_deploy.sampling import SCHEDULERS, SolverTable, image_to_image_begin, resolve_scheduler, solver_table

__all__ = ["Plan", "plan_steps", "prediction_type", "schedule_arguments", "timestep_scale"]

_DEFAULT_STRENGTH = 0.8
#: The pipelines' defaults of what they read from a scheduler config with dynamic shifting.
_SHIFT_DEFAULTS = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}


@dataclass(frozen=True)
class Plan:
    """The sampler's table, what its timesteps are multiplied by for the denoiser, and how many it was trained at."""

    table: SolverTable
    timestep_scale: float
    num_train_timesteps: int = 1000


def plan_steps(
    bundle: Bundle,
    *,
    num_inference_steps: int | None,
    scheduler: str | Mapping[str, Any] | None,
    eta: float,
    from_image: bool,
    strength: float | None,
    tokens: int,
) -> Plan:
    """Return the plan of a run; the arguments are those of :meth:`dit_deploy.Pipeline.__call__`.

    ``tokens`` is how many patches a sample has, by which a scheduler with dynamic shifting is shifted.

    Raises:
        InputError: an argument is out of range, or the scheduler is none for this model.
    """
    manifest = bundle.manifest
    steps = manifest.scheduler.num_inference_steps if num_inference_steps is None else num_inference_steps
    config = resolve_scheduler(bundle.scheduler_config(), scheduler)
    begin = 0
    if from_image:
        begin = image_to_image_begin(
            steps,
            _DEFAULT_STRENGTH if strength is None else strength,
            round_up=manifest.scheduler.strength == "rounded_up",
        )
    elif strength is not None:
        raise InputError(
            f"strength: {strength} came without an image or a video to start from; give one too, or leave it out"
        )
    takes = SCHEDULERS[config["_class_name"]].takes
    handed = schedule_arguments(config, manifest.scheduler, steps, tokens)
    table = solver_table(
        config, steps, eta=eta, begin=begin, **{name: value for name, value in handed.items() if name in takes}
    )
    asked, trained = prediction_type(config), manifest.prediction.type
    if asked != trained:
        raise InputError(
            f"scheduler: {config['_class_name']} takes the model's output for {asked}, but this bundle's denoiser "
            f"predicts {trained}; use a scheduler of that prediction_type"
        )
    if table.needs_variance and not manifest.prediction.learned_range_variance:
        raise InputError("scheduler: variance_type learned_range needs a model that learns one; use fixed_small")
    return Plan(table, timestep_scale(config, manifest.prediction), _trained_timesteps(config))


def schedule_arguments(
    config: Mapping[str, Any], scheduler: Scheduler, num_inference_steps: int, tokens: int
) -> dict[str, Any]:
    """Return ``mu`` and ``sigmas`` that the family's pipeline hands its scheduler's ``set_timesteps``, those it does.

    Args:
        config: resolved, of the scheduler that runs; it may have no use for them.
        scheduler: what the manifest says of the family's pipeline.
        tokens: patches of a sample, by which a config with dynamic shifting is shifted.
    """
    handed: dict[str, Any] = {}
    if config.get("use_dynamic_shifting"):
        handed["mu"] = _shift(config, tokens)
    if (sigmas := _own_sigmas(scheduler.sigmas, num_inference_steps)) is not None:
        handed["sigmas"] = sigmas
    return handed


def _own_sigmas(kind: str, steps: int) -> list[float] | None:
    """Return the noise levels that a pipeline passes to its scheduler, from high to low; ``None``: it passes none."""
    if kind == "linspace":
        return np.linspace(1.0, 1.0 / steps, steps).tolist()
    if kind == "linspace_to_zero":
        return np.linspace(1.0, 0.0, steps + 1)[:-1].tolist()
    return None


def _shift(config: Mapping[str, Any], tokens: int) -> float:
    """Return mu, linear in the number of tokens between two sizes of picture (``calculate_shift`` of diffusers)."""
    options = [(name, float(config.get(name, default))) for name, default in _SHIFT_DEFAULTS.items()]
    few, many, base, largest = (value for _, value in options)
    slope = (largest - base) / (many - few)
    return tokens * slope + (base - slope * few)


def prediction_type(config: Mapping[str, Any]) -> str:
    """Return what a resolved scheduler config takes the model's output for, in the manifest's words."""
    defaults = SCHEDULERS[config["_class_name"]].options
    if "prediction_type" not in defaults:
        return "flow_prediction"  # the FlowMatch classes know no other
    chosen = str(config.get("prediction_type", defaults["prediction_type"]))
    return "sample" if chosen == "original_sample" else chosen  # Euler has both names for it


def timestep_scale(config: Mapping[str, Any], prediction: Prediction) -> float:
    """Return what a table's timesteps are multiplied by, to be in the unit that the denoiser takes.

    A table counts as diffusers does, flow matching too: sigma · num_train_timesteps.
    """
    if prediction.timestep_unit == "training_index":
        return 1.0
    return 1.0 / _trained_timesteps(config)


def _trained_timesteps(config: Mapping[str, Any]) -> int:
    defaults = SCHEDULERS[config["_class_name"]].options
    return int(config.get("num_train_timesteps", defaults["num_train_timesteps"]))
