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

import numpy as np

from dit_deploy.bundle import Bundle, EngineRecord, check_values
from dit_deploy.errors import InputError
from dit_deploy.parity.components import compare_component, sizes_to_try
from dit_deploy.parity.engine import spread_labels
from dit_deploy.parity.limits import limits_for
from dit_deploy.parity.prompts import COMPARISON, take
from dit_deploy.parity.report import ComponentError, ParityReport
from dit_deploy.parity.trajectory import Request, compare_run
from dit_deploy.runtimes.fit import made_for
from dit_deploy.runtimes.frames import pixel_frames
from dit_deploy.runtimes.pipeline import Pipeline
from dit_deploy.runtimes.runner import Runner
from dit_deploy.sampling import SCHEDULERS, resolve_scheduler

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch import TorchReference

__all__ = ["parity"]

#: Called with one line, at the start of each part and every few seconds.
Progress = Callable[[str], None]

#: What is drawn at most where nobody says what: enough to see, few enough to wait for. A prompt takes longer.
_LABELS, _PROMPTS = 4, 2


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
    strength: float = 0.6,
    threads: int | None = None,
    runners: Mapping[str, Runner] | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare an engine of ``bundle`` with ``reference``, the checkpoint that it was made from, in PyTorch.

    Compared are every component at several sizes; a generation step by step from the same seed, and its pictures; and,
    where there is a VAE encoder, an image-to-image generation from the reference's pictures, unless diffusers' own
    is known to be wrong for the scheduler (a note says so).

    Args:
        engine: as of :class:`~dit_deploy.Pipeline`.
        precision: whose limits hold; by default the engine's, or what the plain graphs' weights are stored as.
        class_labels, prompts: what to draw; by default two texts where the bundle reads any, else four classes spread
            over those that there are.
        negative_prompt: one text for all prompts, or one a prompt; the model's own by default.
        num_inference_steps, guidance_scale: the bundle's own by default.
        scheduler: a diffusers scheduler's name or config for both sides. By default each side reads its own, so that
            a wrong one in the bundle shows.
        seed, height, width, num_frames: as of :meth:`~dit_deploy.Pipeline.__call__`.
        strength: of image-to-image.
        threads: of the engine.
        runners: components to run instead of the bundle's own.
        progress: called with one line at the start of each part, and now and then within.

    Raises:
        InputError: an argument is out of range, or there is no such engine or precision.
        BackendError: the engine cannot run at all, or samples another number of steps than PyTorch.
    """
    pipeline = Pipeline(bundle, engine, threads=threads, runners=runners)
    manifest = bundle.manifest
    built = None if pipeline.engine == "onnx" else bundle.engine(pipeline.engine).record
    limits = limits_for(precision or _precision(bundle, built))
    if engine == "auto" and bundle.engine_names() and progress is not None:
        progress(f"engine {pipeline.engine_reason}")
    advance = _Lines(progress)
    subjects = _subjects(bundle, class_labels, prompts, negative_prompt)

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

    latents = manifest.latents
    request = Request(
        subjects=subjects,
        num_inference_steps=(
            manifest.scheduler.num_inference_steps if num_inference_steps is None else num_inference_steps
        ),
        guidance_scale=manifest.guidance.default_scale if guidance_scale is None else guidance_scale,
        seed=seed,
        scheduler=scheduler,
        height=latents.height * latents.spatial_compression if height is None else height,
        width=latents.width * latents.spatial_compression if width is None else width,
        num_frames=_frames(bundle) if num_frames is None else num_frames,
        strength=strength,
    )
    run, sampled = compare_run(pipeline, reference, request, advance)
    runs = [run]
    notes = _notes(bundle, reference)
    sampler = resolve_scheduler(bundle.scheduler_config(), scheduler)["_class_name"]
    encodes = "vae_encoder" in manifest.components and sampled.images is not None and latents.frames is None
    if encodes and not SCHEDULERS[sampler].begins_as_diffusers:
        notes.append(
            f"Image-to-image was not compared: diffusers' {sampler} errs where it begins midway, and this bundle's "
            "sampler does not follow it there."
        )
    elif encodes:
        request = replace(request, image=sampled.images)
        runs.append(compare_run(pipeline, reference, request, advance)[0])
    return ParityReport(
        subject=_subject(bundle, reference, built),
        limits=limits,
        components=components,
        runs=runs,
        notes=notes,
        engine=pipeline.engine,
    )


def _subjects(
    bundle: Bundle,
    class_labels: Sequence[int] | None,
    prompts: Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
) -> dict[str, Any]:
    """Return what to draw, one a sample, by the pipeline's arguments for it; labels are checked."""
    inputs = {spec.name: spec for spec in bundle.component("denoiser").inputs}
    if class_labels is not None:
        subjects: dict[str, Any] = {"class_labels": list(class_labels)}
    elif prompts is not None or bundle.manifest.prompts is not None:
        subjects = {"prompt": list(prompts or take(COMPARISON, _PROMPTS))}
    else:
        subjects = {"class_labels": spread_labels(bundle, _LABELS)} if "class_labels" in inputs else {}
    if "class_labels" in subjects:
        if "class_labels" not in inputs:
            raise InputError("class_labels: this bundle's denoiser takes none; give prompts")
        check_values(inputs["class_labels"], np.asarray(subjects["class_labels"]))
    return subjects if negative_prompt is None else {**subjects, "negative_prompt": negative_prompt}


def _frames(bundle: Bundle) -> int | None:
    """Return the frames of the bundle's usual video; ``None`` where it draws pictures."""
    frames = bundle.manifest.latents.frames
    return None if frames is None else pixel_frames(bundle.manifest, frames)


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
