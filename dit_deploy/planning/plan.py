"""What drawing costs: each component's operations and bytes, the shortest time that a device allows, and if it fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from dit_deploy.bundle import Bundle, Component
from dit_deploy.errors import InputError
from dit_deploy.planning.architectures import ARCHITECTURES, architecture_costs, find_architecture
from dit_deploy.planning.costs import GraphCosts, graph_costs
from dit_deploy.planning.devices import Device

__all__ = ["ComponentPlan", "Plan", "plan_architecture", "plan_bundle"]

#: precision → bytes of a weight and of an activation; 8 bits are those of linear layers, activations stay 16 wide.
BYTES = {"fp32": (4, 4), "fp16": (2, 2), "bf16": (2, 2), "int8": (1, 2), "fp8": (1, 2)}


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
    """

    name: str
    calls: int
    operations: float
    attention: float
    weights: float
    activations: float
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
        vae_tile: pixels of the largest piece with which the VAE fits where the whole picture does not; else ``None``.
    """

    subject: str
    tokens: int
    precision: str
    device: str | None
    components: tuple[ComponentPlan, ...]
    memory: float
    seconds: float | None
    fits: bool | None
    vae_tile: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able values."""
        return asdict(self)


def plan_bundle(
    bundle: Bundle,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int = 1,
    steps: int | None = None,
    guided: bool | None = None,
    precision: str = "fp16",
    device: Device | None = None,
) -> Plan:
    """Plan one run of a bundle's own pictures.

    Args:
        height, width: pixels; the training size by default.
        batch: samples.
        steps, guided: the manifest's by default.
        precision: what products compute in.

    Raises:
        InputError: a number is out of range, or the precision is not known.
        BackendError: the packages that read graphs are not installed.
    """
    manifest = bundle.manifest
    latents = manifest.latents
    multiple = latents.patch_size * latents.spatial_compression
    rows = _size("height", height, latents.height * latents.spatial_compression, multiple)
    columns = _size("width", width, latents.width * latents.spatial_compression, multiple)
    steps = _positive("steps", manifest.scheduler.num_inference_steps if steps is None else steps)
    batch = _positive("batch", batch)
    both = manifest.guidance.kind == "classifier_free" if guided is None else guided
    weight_bytes, activation_bytes = _bytes(precision)
    sizes = {
        "patch_height": rows // multiple,
        "patch_width": columns // multiple,
        "latent_height": rows // latents.spatial_compression,
        "latent_width": columns // latents.spatial_compression,
    }
    tokens = sizes["patch_height"] * sizes["patch_width"]
    encoders = {encoder.component for encoder in manifest.prompts.encoders} if manifest.prompts is not None else set()
    join = manifest.prompts.join if manifest.prompts is not None else None
    planned: list[ComponentPlan] = []
    for name in [*sorted(encoders), *([join] if join else []), "denoiser", "vae_decoder"]:
        if name not in manifest.components:
            continue
        component = manifest.components[name]
        of_component = {**_text_sizes(component), **sizes, "batch": batch * (2 if both and name == "denoiser" else 1)}
        costs = graph_costs(bundle.component_path(name), component, of_component, activation_bytes)
        calls = {"denoiser": steps, "vae_decoder": 1}.get(name, 2 if both else 1)
        planned.append(_component(name, calls, costs, weight_bytes, precision, device))
    subject = f"{manifest.family}, {rows} × {columns} pixels, batch {batch}, {steps} steps"
    plan = _plan(subject, tokens, planned, precision, device)
    if plan.fits is False and "vae_decoder" in manifest.components:
        return _tiled(bundle, plan, batch, min(rows, columns), activation_bytes, weight_bytes, precision, device)
    return plan


def plan_architecture(
    name: str,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int = 1,
    steps: int | None = None,
    guided: bool | None = None,
    precision: str = "fp16",
    device: Device | None = None,
) -> Plan:
    """Plan the denoiser of a published architecture; arguments and errors are those of :func:`plan_bundle`."""
    one = find_architecture(name)
    if one is None:
        raise InputError(f"architecture: {name!r} is not known; it is one of {', '.join(ARCHITECTURES)}")
    multiple = one.patch_size * one.compression
    rows = _size("height", height, one.image_size, multiple)
    columns = _size("width", width, one.image_size, multiple)
    tokens = (rows // multiple) * (columns // multiple)
    steps, batch = _positive("steps", one.steps if steps is None else steps), _positive("batch", batch)
    both = one.guided if guided is None else guided
    weight_bytes, activation_bytes = _bytes(precision)
    costs = architecture_costs(name, batch * (2 if both else 1), tokens, activation_bytes)
    planned = [_component("denoiser", steps, costs, weight_bytes, precision, device)]
    subject = f"{name}, the denoiser alone, {rows} × {columns} pixels, batch {batch}, {steps} steps"
    return _plan(subject, tokens, planned, precision, device)


def _component(
    name: str, calls: int, costs: GraphCosts, weight_bytes: int, precision: str, device: Device | None
) -> ComponentPlan:
    weights = float(costs.weights * weight_bytes)
    seconds = None
    if device is not None:
        bounds = [0.0]
        if device.tera:
            bounds.append(costs.operations / device.peak(precision))
        if device.bandwidth:
            bounds.append((weights + costs.activations) / device.bandwidth)
        seconds = calls * max(bounds)
    share = costs.attention / costs.operations if costs.operations else 0.0
    return ComponentPlan(name, calls, costs.operations, share, weights, costs.activations, seconds)


def _plan(subject: str, tokens: int, planned: list[ComponentPlan], precision: str, device: Device | None) -> Plan:
    memory = sum(one.weights for one in planned) + max(one.activations for one in planned)
    seconds = None if device is None else sum(one.seconds or 0.0 for one in planned)
    fits = None if device is None or not device.memory else memory <= device.memory
    return Plan(subject, tokens, precision, device.name if device else None, tuple(planned), memory, seconds, fits)


def _tiled(
    bundle: Bundle,
    plan: Plan,
    batch: int,
    side: int,
    activation_bytes: int,
    weight_bytes: int,
    precision: str,
    device: Device | None,
) -> Plan:
    """Return the plan with the VAE in the largest pieces that fit, or as it is where none does."""
    compression = bundle.manifest.latents.spatial_compression
    others = [one for one in plan.components if one.name != "vae_decoder"]
    tile = 4 * compression
    while tile * 2 < side:
        tile *= 2
    while tile >= 4 * compression:
        sizes = {"batch": batch, "latent_height": tile // compression, "latent_width": tile // compression}
        costs = graph_costs(
            bundle.component_path("vae_decoder"), bundle.component("vae_decoder"), sizes, activation_bytes
        )
        decoder = _component("vae_decoder", 1, costs, weight_bytes, precision, device)
        tiled = _plan(plan.subject, plan.tokens, [*others, decoder], precision, device)
        if tiled.fits:
            whole = next(one for one in plan.components if one.name == "vae_decoder")
            # every pixel is decoded all the same, and the overlaps twice
            kept = replace(whole, activations=decoder.activations)
            return replace(tiled, components=(*others, kept), seconds=plan.seconds, vae_tile=tile)
        tile //= 2
    return plan


def _text_sizes(component: Component) -> dict[str, int]:
    """Return lengths of texts at their longest, where a component declares them."""
    sizes: dict[str, int] = {}
    for spec in component.inputs:
        for axis in spec.axes:
            if not isinstance(axis, int) and axis.name not in ("batch",):
                sizes.setdefault(axis.name, axis.maximum or 77)
    return sizes


def _bytes(precision: str) -> tuple[int, int]:
    if precision not in BYTES:
        raise InputError(f"precision: {precision!r} came, expected one of {', '.join(BYTES)}")
    return BYTES[precision]


def _size(name: str, given: int | None, default: int, multiple: int) -> int:
    size = default if given is None else given
    if size < 1 or size % multiple:
        raise InputError(f"{name}: {size} came, expected a multiple of {multiple} pixels")
    return size


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{name}: {value} came, an integer of 1 or more was expected")
    return value
