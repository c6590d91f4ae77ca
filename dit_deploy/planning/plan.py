"""What drawing costs: each component's operations and bytes, the shortest time that a device allows, and if it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dit_deploy.errors import InputError
from dit_deploy.planning.costs import GraphCosts
from dit_deploy.planning.devices import Device
from dit_deploy.planning.sharding import Gpus, gpus_needed

__all__ = ["Comparison", "ComponentPlan", "Plan", "Run", "make_plan", "plan_component", "precision_bytes"]

#: precision → bytes of a weight and of an activation; 8 bits are those of linear layers, activations stay 16 wide.
_BYTES = {"fp32": (4, 4), "fp16": (2, 2), "bf16": (2, 2), "int8": (1, 2), "fp8": (1, 2)}


@dataclass(frozen=True)
class ComponentPlan:
    """One component in one run.

    Attributes:
        name: of the component.
        calls: how often it is called.
        operations: of one call.
        attention: the share of attention's products in them, 0 … 1.
        weights, activations: bytes, those of one call.
        seconds: the shortest that all calls take on the device; ``None`` without one.
        block: bytes of the largest block's weights.
    """

    name: str
    calls: int
    operations: float
    attention: float
    weights: float
    activations: float
    seconds: float | None
    block: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """What a choice changes: the same run otherwise.

    Attributes:
        what: the run without the choice, in words.
        operations: of that whole run.
        seconds: the shortest that it takes; ``None`` without a device.
    """

    what: str
    operations: float
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """A run planned.

    Attributes:
        subject: what is planned, in words.
        tokens: patches of one sample.
        components: in the order in which they run.
        memory: bytes at once: all weights, and the most that one call needs besides.
        seconds: the shortest that a run takes; ``None`` without a device.
        fits: whether ``memory`` is in the device's; ``None`` where that is not known.
        vae_tile: pixels of the largest piece with which the VAE fits where the whole picture does not, or ``"model"``,
            the family's own pieces; else ``None``.
        operations: of the whole run.
        notes: what else there is to know, a line each: sizes that were rounded, experts.
        compared: what a window, or another number of steps, changes.
        gpus: how many of the device hold it; ``None`` where its memory is not known.
    """

    subject: str
    tokens: int
    precision: str
    device: str | None
    components: tuple[ComponentPlan, ...]
    memory: float
    seconds: float | None
    fits: bool | None
    vae_tile: int | str | None = None
    operations: float = 0.0
    notes: tuple[str, ...] = ()
    compared: tuple[Comparison, ...] = ()
    gpus: Gpus | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """What is asked of a run; ``None`` leaves it to the model.

    Attributes:
        height, width: pixels.
        frames: of a video.
        batch: samples.
        steps, guided: of the sampler.
        window: patches that a patch attends to, were the model made so.
        precision: what products compute in.
        device: what it runs on.
        experts: how many of two experts are in memory at once.
    """

    height: int | None = None
    width: int | None = None
    frames: int | None = None
    batch: int = 1
    steps: int | None = None
    guided: bool | None = None
    window: int | None = None
    precision: str = "fp16"
    device: Device | None = None
    experts: Literal["both", "one"] = "both"
    bytes_: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes_", precision_bytes(self.precision))
        for name in ("height", "width", "frames", "batch", "steps", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: {value} came, an integer of 1 or more was expected")
        if self.experts not in ("both", "one"):
            raise InputError(f"experts: {self.experts!r} came, expected both or one")


def precision_bytes(precision: str) -> tuple[int, int]:
    """Return the bytes of a weight and of an activation; :class:`InputError` where the precision is not known."""
    if precision not in _BYTES:
        raise InputError(f"precision: {precision!r} came, expected one of {', '.join(_BYTES)}")
    return _BYTES[precision]


def plan_component(name: str, calls: int, costs: GraphCosts, run: Run) -> ComponentPlan:
    """Return what ``calls`` calls of a component cost in ``run``."""
    weights = float(costs.weights * run.bytes_[0])
    share = costs.attention / costs.operations if costs.operations else 0.0
    block = float(costs.block * run.bytes_[0])
    planned = ComponentPlan(name, calls, costs.operations, share, weights, costs.activations, None, block)
    return replace(planned, seconds=_seconds(planned, run))


def make_plan(
    subject: str,
    tokens: int,
    planned: Sequence[ComponentPlan],
    run: Run,
    *,
    usual_steps: int,
    everywhere: ComponentPlan | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Return the plan of what its components cost.

    Args:
        planned: in the order in which they run; those called ``denoiser…`` are called once a step.
        usual_steps: of the model, to compare with.
        everywhere: where a window is planned, the denoiser with attention to all patches.
        notes: to go with it.
    """
    spare = 0.0
    if run.experts == "one":
        experts = [one.weights for one in planned if one.name.startswith("denoiser")]
        spare = sum(experts) - max(experts)
    weights = sum(one.weights for one in planned) - spare
    activations = max(one.activations for one in planned)
    device = run.device
    seconds = _total(planned)
    room = device.memory if device is not None else 0.0
    compared = []
    if run.window is not None and everywhere is not None:
        others = [replace(everywhere, name=one.name, calls=one.calls) if _steps(one) else one for one in planned]
        compared.append(_comparison("attention to all patches instead", others, run))
    if run.steps is not None and run.steps != usual_steps:
        others = [
            replace(one, calls=round(one.calls * usual_steps / run.steps)) if _steps(one) else one for one in planned
        ]
        compared.append(_comparison(f"the usual {usual_steps} steps instead", others, run))
    return Plan(
        subject=subject,
        tokens=tokens,
        precision=run.precision,
        device=device.name if device else None,
        components=tuple(planned),
        memory=weights + activations,
        seconds=seconds,
        fits=weights + activations <= room if room else None,
        operations=_operations(planned),
        notes=tuple(notes),
        compared=tuple(compared),
        gpus=gpus_needed(room, weights, max(one.block for one in planned), activations) if room else None,
    )


def _steps(one: ComponentPlan) -> bool:
    return one.name.startswith("denoiser")


def _operations(planned: Sequence[ComponentPlan]) -> float:
    return sum(one.calls * one.operations for one in planned)


def _comparison(what: str, planned: Sequence[ComponentPlan], run: Run) -> Comparison:
    timed = [replace(one, seconds=_seconds(one, run)) for one in planned]
    return Comparison(what, _operations(timed), _total(timed))


def _total(planned: Sequence[ComponentPlan]) -> float | None:
    if all(one.seconds is None for one in planned):
        return None
    return sum(one.seconds or 0.0 for one in planned)


def _seconds(one: ComponentPlan, run: Run) -> float | None:
    """Return the shortest time of all calls: of computing, or of moving what is computed with."""
    device = run.device
    if device is None or not (device.tera or device.bandwidth):
        return None
    bounds = [0.0]
    if device.tera:
        bounds.append(one.operations / device.peak(run.precision))
    if device.bandwidth:
        bounds.append((one.weights + one.activations) / device.bandwidth)
    return one.calls * max(bounds)
