"""What decides an engine: its plan, and the key that says whether the bundle has it already."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dit_deploy.bundle import Bundle
from dit_deploy.bundle.engine import BackendName, Precision, Profile, Target, graph_digest
from dit_deploy.exporters.builders.recipe import Recipe

__all__ = ["CalibrationOptions", "Plan", "TensorRTOptions", "key_parts"]


@dataclass(frozen=True)
class CalibrationOptions:
    """What is drawn to calibrate; ``None`` leaves it to :func:`dit_deploy.exporters.calibration.plan`."""

    samples: int | None = None
    evaluations: int | None = None
    steps: int | None = None
    seed: int = 0
    prompts: tuple[str, ...] | None = None

    def decisive(self) -> dict[str, str]:
        """Return what decides the engine, as text; prompts only where some were given."""
        chosen = asdict(self)
        if self.prompts is None:
            del chosen["prompts"]
        return {name: str(value) for name, value in chosen.items()}


@dataclass(frozen=True)
class TensorRTOptions:
    """Options that only the TensorRT libraries have; see :func:`dit_deploy.exporters.builders.tensorrt.build`."""

    strip_weights: bool = False
    refittable: bool = False
    version_compatible: bool = False
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    optimization_level: int | None = None

    def decisive(self) -> dict[str, Any]:
        """Return what of them decides the engine: a cache only decides how fast it is built."""
        chosen = {name: value for name, value in asdict(self).items() if name != "timing_cache"}
        return {name: value for name, value in chosen.items() if value not in (None, False)}


@dataclass(frozen=True)
class Plan:
    """Everything that decides an engine.

    Attributes:
        flavour: the TensorRT library that builds it, also where ONNX Runtime loads it; ``None`` for ONNX artefacts.
        recipes, profiles: by component.
        limit: decibels that the engine must reach; ``None`` where that is not checked.
        allowed: error of a prediction that the precision's own limit stands for; ``None`` where another limit was
            given, which then holds whatever the bundle's sampling makes of small errors.
    """

    name: str
    backend: BackendName
    version: str
    precision: Precision
    flavour: Literal["tensorrt", "tensorrt-rtx"] | None
    target: Target
    recipes: dict[str, Recipe]
    profiles: dict[str, tuple[Profile, ...]]
    calibration: CalibrationOptions
    tensorrt: TensorRTOptions
    limit: float | None
    allowed: float | None
    adjust: bool
    key_parts: dict[str, str] = field(default_factory=dict)


def key_parts(bundle: Bundle, plan: Plan) -> dict[str, str]:
    """Return what decides the engine's bytes, a line each, by a name that a person understands."""
    version = plan.version
    if plan.backend == "onnxruntime" and plan.flavour is None:
        version = ".".join(version.split(".")[:2])  # the artefact is a graph: a patch release changes nothing in it
    parts = {
        "backend": f"{plan.flavour if plan.flavour else plan.backend} {version}",
        "precision": plan.precision,
        "target": " ".join(filter(None, [plan.target.provider, *plan.target.compute_capabilities])) or "any",
    }
    for component, recipe in plan.recipes.items():
        parts[f"{component}.graph"] = graph_digest(bundle.manifest, component)
        parts |= {f"{component}.{name}": value for name, value in recipe.decisive().items()}
    for component, profiles in plan.profiles.items():
        parts[f"{component}.profiles"] = "; ".join(_profile_text(profile) for profile in profiles)
    if any(recipe.calibrated for recipe in plan.recipes.values()):
        parts |= {f"calibration.{name}": value for name, value in plan.calibration.decisive().items()}
    if plan.adjust:
        parts["limit"] = "none" if plan.limit is None else f"{plan.limit:g} dB"
        if plan.allowed is not None:
            parts["limit"] += f", or predictions off by {plan.allowed:g}"
    parts |= {name: str(value) for name, value in plan.tensorrt.decisive().items()}
    return parts


def _profile_text(profile: Profile) -> str:
    return ", ".join(f"{name} {one.minimum}/{one.optimum}/{one.maximum}" for name, one in sorted(profile.sizes.items()))
