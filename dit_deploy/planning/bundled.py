"""The plan of a bundle: every graph of it, at the sizes of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dit_deploy.bundle import Axis, Bundle, Component
from dit_deploy.errors import InputError
from dit_deploy.planning.costs import GraphCosts, graph_costs
from dit_deploy.planning.plan import ComponentPlan, Plan, Run, make_plan, plan_component
from dit_deploy.planning.sharding import gpus_needed
from dit_deploy.runtimes.autoencoder import pictures_at_once, pieces_of
from dit_deploy.runtimes.frames import latent_frames, pixel_frames
from dit_deploy.runtimes.memory import smaller_pieces
from dit_deploy.runtimes.plan import plan_steps
from dit_deploy.runtimes.tiling import Span

__all__ = ["plan_bundle"]

#: Tokens of a text where nothing says how many; those of CLIP.
_TEXT = 77


def plan_bundle(bundle: Bundle, **asked: Any) -> Plan:
    """Plan one run of a bundle's own pictures or videos.

    Args:
        asked: fields of :class:`~dit_deploy.planning.plan.Run`.

    Raises:
        InputError: a number is out of range, or the precision is not known.
        BackendError: the packages that read graphs are not installed.
    """
    run = Run(**asked)
    manifest = bundle.manifest
    if run.experts == "one" and manifest.experts is None:
        raise InputError("experts: one came, but this bundle has a single denoiser; leave it out")
    extent = _extent(bundle, run)
    steps = run.steps or manifest.scheduler.num_inference_steps
    both = manifest.guidance.kind == "classifier_free" if run.guided is None else run.guided
    planned: list[ComponentPlan] = []
    everywhere = None
    for name, calls in _calls(bundle, steps, both, extent.tokens).items():
        batch = run.batch
        if name.startswith("denoiser"):
            batch *= 2 if both else 1
        elif name == "vae_decoder":
            batch, calls = _groups(run.batch, extent)
        planned.append(plan_component(name, calls, _costs(bundle, name, extent, batch, run), run))
        if name == "denoiser" and run.window is not None:
            whole = _costs(bundle, name, extent, batch, replace(run, window=None))
            everywhere = plan_component(name, calls, whole, run)
    plan = make_plan(
        f"{manifest.family}, {extent}, batch {run.batch}, {steps} steps",
        extent.tokens,
        planned,
        run,
        usual_steps=manifest.scheduler.num_inference_steps,
        everywhere=everywhere,
    )
    if plan.fits is False and "vae_decoder" in manifest.components:
        return _tiled(bundle, plan, extent, run)
    return plan


@dataclass(frozen=True)
class _Extent:
    """The size of one sample.

    Attributes:
        rows, columns: pixels.
        sizes: of the grids of patches and of latents.
        num_frames, frames: of the video and of its latents; 0 and 1 of a picture.
        by_frame: whether a VAE of pictures decodes a video frame by frame.
        piece: of time, where the decoder always takes a video in pieces; it sees one more latent frame at once.
    """

    rows: int
    columns: int
    sizes: dict[str, int]
    num_frames: int = 0
    frames: int = 1
    by_frame: bool = False
    piece: Span | None = None

    @property
    def tokens(self) -> int:
        return math.prod(size for name, size in self.sizes.items() if name.startswith("patch_"))

    def __str__(self) -> str:
        size = f"{self.rows} × {self.columns} pixels"
        return f"{self.num_frames} frames of {size}" if self.num_frames else size


def _extent(bundle: Bundle, run: Run) -> _Extent:
    manifest = bundle.manifest
    latents = manifest.latents
    compression = latents.spatial_compression
    multiple = latents.patch_size * compression
    rows = _size("height", run.height, latents.height * compression, multiple)
    columns = _size("width", run.width, latents.width * compression, multiple)
    sizes = {
        "patch_height": rows // multiple,
        "patch_width": columns // multiple,
        "latent_height": rows // compression,
        "latent_width": columns // compression,
    }
    if latents.frames is None:
        if run.frames is not None:
            raise InputError(f"frames: {run.frames} came, but this bundle draws pictures; leave it out")
        return _Extent(rows, columns, sizes)
    frames = latent_frames(manifest, run.frames) or latents.frames
    axis = bundle.component("denoiser").input("latents").axes[2]
    assert isinstance(axis, Axis)
    decoder = manifest.components.get("vae_decoder")
    piece = pieces_of(None, manifest).frames
    return _Extent(
        rows,
        columns,
        {**sizes, "patch_frames": axis.free(frames) or 1, "latent_frames": frames},
        pixel_frames(manifest, frames),
        frames,
        decoder is not None and len(decoder.input("latents").axes) == 4,
        piece if piece is not None and frames > piece.tile else None,
    )


def _calls(bundle: Bundle, steps: int, both: bool, tokens: int) -> dict[str, int]:
    """Return component → how often it is called, in the order in which they run."""
    manifest = bundle.manifest
    calls: dict[str, int] = {}
    if manifest.prompts is not None:
        names = sorted({encoder.component for encoder in manifest.prompts.encoders})
        calls |= dict.fromkeys([*names, *([manifest.prompts.join] if manifest.prompts.join else [])], 2 if both else 1)
    given = manifest.image_conditions
    if given is not None and given.required:
        calls |= {given.component: 1} | ({given.encoder.component: 1} if given.encoder is not None else {})
    calls["denoiser"] = steps
    if manifest.experts is not None:
        below = _below(bundle, steps, tokens)
        calls["denoiser"], calls[manifest.experts.component] = steps - below, below
    if "vae_decoder" in manifest.components:
        calls["vae_decoder"] = 1
    return calls


def _below(bundle: Bundle, steps: int, tokens: int) -> int:
    """Return how many of the steps are the second expert's."""
    experts = bundle.manifest.experts
    assert experts is not None
    made = plan_steps(
        bundle,
        num_inference_steps=steps,
        scheduler=None,
        eta=0.0,
        from_image=False,
        strength=None,
        tokens=tokens,
    )
    trained = bundle.scheduler_config().get("num_train_timesteps", 1000)
    rows = zip(made.table.step, made.table.timesteps, strict=True)
    return len({int(step) for step, timestep in rows if timestep < experts.boundary * trained})


def _costs(
    bundle: Bundle, name: str, extent: _Extent, batch: int, run: Run, sizes: Mapping[str, int] | None = None
) -> GraphCosts:
    component = bundle.component(name)
    own: dict[str, int] = {**_text_sizes(component), **extent.sizes, "batch": batch, **(sizes or {})}
    if name == "vae_decoder" and extent.piece is not None:
        own["latent_frames"] = min(own["latent_frames"], extent.piece.tile + 1)
    window = run.window if name.startswith("denoiser") else None
    return graph_costs(bundle.component_path(name), component, own, run.bytes_[1], window)


def _groups(batch: int, extent: _Extent) -> tuple[int, int]:
    """Return how many samples the decoder takes at once, and how often it is called."""
    samples, frames = (batch * extent.frames, 1) if extent.by_frame else (batch, extent.num_frames or 1)
    group = min(samples, pictures_at_once(extent.rows * extent.columns * frames))
    pieces = 1 if extent.piece is None else math.ceil(extent.frames / extent.piece.stride)
    return group, math.ceil(samples / group) * pieces


def _tiled(bundle: Bundle, plan: Plan, extent: _Extent, run: Run) -> Plan:
    """Return the plan with the VAE in the largest pieces that fit, or as it is where none does."""
    whole = next(one for one in plan.components if one.name == "vae_decoder")
    others = [one for one in plan.components if one.name != "vae_decoder"]
    weights = plan.memory - max(one.activations for one in plan.components)
    assert run.device is not None
    for tile, sizes in _pieces(bundle, extent):
        costs = _costs(bundle, "vae_decoder", extent, 1, run, sizes)
        # every pixel is decoded all the same, and the overlaps twice
        kept = replace(whole, activations=costs.activations)
        memory = weights + max(one.activations for one in (*others, kept))
        if memory <= run.device.memory:
            gpus = gpus_needed(run.device.memory, weights, 0.0, memory - weights)
            return replace(plan, components=(*others, kept), memory=memory, fits=True, vae_tile=tile, gpus=gpus)
    return plan


def _pieces(bundle: Bundle, extent: _Extent) -> Iterator[tuple[int | str, dict[str, int]]]:
    """Yield what ``vae_tile`` may be, with the sizes of such a piece."""
    names = [name for name in ("latent_frames", "latent_height", "latent_width") if name in extent.sizes]
    size = tuple(extent.sizes[name] for name in names)
    for tile, pieces in smaller_pieces(bundle.manifest, size, pieces_of(None, bundle.manifest)):
        yield tile, dict(zip(names, pieces.extent(size), strict=True))


def _text_sizes(component: Component) -> dict[str, int]:
    """Return lengths of texts at their longest, where a component declares them."""
    sizes: dict[str, int] = {}
    for spec in component.inputs:
        for axis in spec.axes:
            if not isinstance(axis, int) and axis.name not in ("batch",):
                sizes.setdefault(axis.name, axis.maximum or _TEXT)
    return sizes


def _size(name: str, given: int | None, default: int, multiple: int) -> int:
    size = default if given is None else given
    if size < 1 or size % multiple:
        raise InputError(f"{name}: {size} came, expected a multiple of {multiple} pixels")
    return size
