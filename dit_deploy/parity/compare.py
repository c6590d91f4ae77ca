"""The whole comparison of a bundle with its source: components, then generations."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_deploy.bundle import Bundle, EngineRecord
from dit_deploy.errors import InputError
from dit_deploy.parity.components import compare_component, sizes_to_try
from dit_deploy.parity.limits import limits_for
from dit_deploy.parity.report import ComponentError, ParityReport
from dit_deploy.parity.request import Files, first_request, from_pictures, starting_from
from dit_deploy.parity.trajectory import compare_run
from dit_deploy.runtimes.fit import made_for
from dit_deploy.runtimes.pipeline import Pipeline
from dit_deploy.runtimes.runner import Runner
from dit_deploy.sampling import SCHEDULERS, resolve_scheduler

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch import TorchReference

__all__ = ["parity"]

#: Called with one line, at the start of each part and every few seconds.
Progress = Callable[[str], None]


def parity(
    bundle: Bundle,
    reference: TorchReference,
    *,
    engine: str = "auto",
    precision: str | None = None,
    class_labels: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | Sequence[str] | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    scheduler: str | Mapping[str, Any] | None = None,
    seed: int | Sequence[int] = 0,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    image: Files | None = None,
    last_image: Files | None = None,
    strength: float = 0.6,
    threads: int | None = None,
    runners: Mapping[str, Runner] | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare an engine of ``bundle`` with ``reference``, the checkpoint that it was made from, in PyTorch.

    Compared are every component at several sizes; and generations step by step from the same seed, with what they
    draw: one without pictures, unless the bundle needs some; one of a video from pictures, where it takes any; and,
    of a bundle of pictures with a VAE encoder, image-to-image, unless diffusers' own is known to be wrong for the
    scheduler (a note says so).

    Args:
        engine: as of :class:`~dit_deploy.Pipeline`.
        precision: whose limits hold; by default the engine's, or what the plain graphs' weights are stored as.
        class_labels, prompts: what to draw; by default two texts where the bundle reads any, else four classes spread
            over those that there are.
        negative_prompt: one text for all prompts, or one a prompt; the model's own by default.
        num_inference_steps, guidance_scale: the bundle's own by default.
        scheduler: a diffusers scheduler's name or config for both sides. By default each side reads its own, so that
            a wrong one in the bundle shows.
        seed, height, width, num_frames: as of :meth:`~dit_deploy.Pipeline.__call__`. A video is by default as large as
            the training size, or smaller where that has more patches than a CPU draws in minutes.
        image, last_image: pictures that a video shall contain, or that image-to-image starts from: one, or one for each
            class or prompt. By default a video has pictures that are made here, the same each time; image-to-image
            starts from what the reference has drawn.
        strength: of image-to-image.
        threads: of the engine.
        runners: components to run instead of the bundle's own.
        progress: called with one line at the start of each part, and now and then within.

    Raises:
        InputError: an argument is out of range, there is no such engine or precision, or ``reference`` is no checkpoint
            of this kind.
        BackendError: the engine cannot run at all, or samples another number of steps than PyTorch.
    """
    manifest = bundle.manifest
    theirs, ours = (
        f"{of.family} with {of.latents.channels} latent channels of {of.latents.spatial_compression} pixels"
        for of in (reference.source, manifest)
    )
    if theirs != ours:
        raise InputError(f"reference: it is {theirs}, this bundle {ours}; give the checkpoint that it was made from")
    pipeline = Pipeline(bundle, engine, threads=threads, runners=runners)
    built = None if pipeline.engine == "onnx" else bundle.engine(pipeline.engine).record
    limits = limits_for(precision or _precision(bundle, built))
    if engine == "auto" and bundle.engine_names() and progress is not None:
        progress(f"engine {pipeline.engine_reason}")
    advance = _Lines(progress)
    request = first_request(
        bundle,
        class_labels=class_labels,
        prompts=prompts,
        negative_prompt=negative_prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
        seed=seed,
        height=height,
        width=width,
        num_frames=num_frames,
    )
    encodes = "vae_encoder" in manifest.components and manifest.latents.frames is None
    requests, start = [request], None
    if manifest.image_conditions is not None:
        requests = [] if manifest.image_conditions.required else requests
        requests.append(from_pictures(manifest, request, image, last_image))
    elif last_image is not None or (image is not None and not encodes):
        raise InputError(f"{'image' if last_image is None else 'last_image'}: this bundle takes none; leave it out")
    elif image is not None:
        start = starting_from(manifest, request, image, strength)

    components: list[ComponentError] = []
    for name, component in manifest.components.items():
        pool = pipeline.pool(name)
        profiles = built.components[name].profiles if built is not None and name in built.components else ()
        sizes = sizes_to_try(pool.runner.component, reference.graph(name).typical, profiles)
        total = len(component.outputs) * len(sizes)
        errors = compare_component(name, pool, reference, sizes, manifest.prediction.timestep_unit, seed=1)
        what = f"comparing {name.replace('_', ' ')}"
        advance(what, 0, total)
        for done, error in enumerate(errors, start=1):
            components.append(error)
            advance(what, done, total)

    runs = []
    for one in requests:
        run, sampled = compare_run(pipeline, reference, one, advance)
        runs.append(run)
    notes = _notes(bundle, reference)
    sampler = resolve_scheduler(bundle.scheduler_config(), scheduler)["_class_name"]
    if start is None and encodes and sampled.images is not None:
        drawn = {"image": "PyTorch's pictures of the generation"}
        start = replace(request, image=sampled.images, strength=strength, said=drawn)
    if start is not None and not SCHEDULERS[sampler].begins_as_diffusers:
        notes.append(
            f"Image-to-image was not compared: diffusers' {sampler} errs where it begins midway, and this bundle's "
            "sampler does not follow it there."
        )
    elif start is not None:
        runs.append(compare_run(pipeline, reference, start, advance)[0])
    return ParityReport(
        subject=_subject(bundle, reference, built),
        limits=limits,
        components=components,
        runs=runs,
        notes=notes,
        engine=pipeline.engine,
    )


class _Lines:
    """Turns steps into lines: one for each part, and one more whenever it goes on for long."""

    _SECONDS = 5.0

    def __init__(self, say: Progress | None) -> None:
        self._say, self._what, self._said = say, "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if self._say is None:
            return
        now = time.monotonic()
        if what != self._what:
            self._say(what)
        elif now - self._said >= self._SECONDS:
            self._say(f"{what}, {done} of {total}")
        else:
            return
        self._what, self._said = what, now


def _precision(bundle: Bundle, engine: EngineRecord | None) -> str:
    """Return the precision of an engine, or of the plain graphs: what their weights are stored as."""
    if engine is not None:
        return engine.precision
    return {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[bundle.component("denoiser").weights]


def _subject(bundle: Bundle, reference: TorchReference, engine: EngineRecord | None) -> dict[str, str]:
    manifest = bundle.manifest
    plain = "onnx (plain graphs, ONNX Runtime)"
    libraries = {"dit-deploy": _version("dit-deploy"), "onnxruntime": _version("onnxruntime"), **reference.versions}
    return {
        "bundle": bundle.path.name,
        "bundle sha256": bundle.digest,
        "engine": plain if engine is None else f"{engine.name} ({engine.precision}, {made_for(engine)})",
        "source": f"{manifest.source.name} ({manifest.source.kind.replace('_', ' ')})",
        "source sha256": manifest.source.sha256,
        "reference": f"{reference.source.name} ({reference.kind.replace('_', ' ')})",
        "reference sha256": reference.sha256,
        "versions": ", ".join(f"{name} {number}" for name, number in libraries.items() if number),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _notes(bundle: Bundle, reference: TorchReference) -> list[str]:
    if bundle.manifest.source.sha256 != reference.sha256:
        return ["The reference is not the checkpoint that this bundle was made from: their weights' SHA-256 differ."]
    return []


def _version(package: str) -> str:
    for name in (package, f"{package}-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def _cpu() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
