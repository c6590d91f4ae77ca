"""The benchmark: a bundle's engines against PyTorch, on the same work with the same threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bench.candidates import COMPILED, engine_candidates, torch_candidates
from dit_deploy.bench.machine import describe, usable_cores
from dit_deploy.bench.report import BenchReport
from dit_deploy.bench.timing import Timing, calls_for, interleave, repeated
from dit_deploy.bundle import Bundle, Manifest, bind_axes
from dit_deploy.errors import DitDeployError, InputError
from dit_deploy.parity.examples import given_pictures
from dit_deploy.parity.prompts import COMPARISON, take
from dit_deploy.runtimes import Pipeline
from dit_deploy.runtimes.arguments import latents_shape
from dit_deploy.runtimes.conditions import read_conditions, read_texts
from dit_deploy.runtimes.frames import pixel_frames
from dit_deploy.runtimes.image_conditions import ImageConditioner, read_pictures
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.runtimes.runner import Binding
from dit_deploy.sampling import NoiseSource

__all__ = ["bench"]

Progress = Callable[[str], None]


def bench(
    bundle: Bundle,
    *,
    engines: Sequence[str] = ("onnx",),
    reference: str | Path | None = None,
    arch: str | None = None,
    image_size: int | None = None,
    vae: str | Path | None = None,
    others: Mapping[str, Callable[[], Pipeline]] | None = None,
    steps: int = 20,
    repeats: int = 5,
    threads: int | None = None,
    batch: int = 1,
    prompts: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time one denoiser call and a whole run of every candidate, at the size that the model was trained at.

    A bundle that makes videos of pictures is given some that are made here.

    Rounds are interleaved (A B C A B C …), after a warm-up; ratios are taken round by round.

    Args:
        engines: names of the bundle's engines; ``"onnx"`` is its plain graphs.
        reference: the checkpoint that the bundle was exported from: adds PyTorch eager and ``torch.compile``.
        arch, image_size, vae: for the reference; see :func:`~dit_deploy.exporters.sources.open_source`.
        others: more candidates, name → what opens a pipeline.
        steps: denoising steps of a whole run.
        repeats: rounds of the denoiser call; whole runs get half as many, rounded up.
        threads: within an operator, the same for all; every usable core by default.
        batch: pictures at once. A guided denoiser call has twice as many samples.
        prompts: what is drawn, from the start again where they are fewer than ``batch``; a default set of texts where
            the bundle reads any.
        progress: called with one line at a time.

    Raises:
        InputError: a number is out of range, or ``reference`` is another model's.
        BackendError: an engine does not run. What ``torch.compile`` lacks is said in the report instead.
    """
    for name, value in (("steps", steps), ("repeats", repeats), ("batch", batch), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} came, at least 1 was expected")
    say = progress or (lambda line: None)
    threads = threads or usable_cores()
    machine = describe()  # before our own work shows in the load
    openers = {}
    if reference is not None:
        openers = torch_candidates(bundle, reference, threads, arch=arch, image_size=image_size, vae=vae)
    openers |= engine_candidates(bundle, engines, threads)
    openers |= dict(others or {})

    manifest = bundle.manifest
    subjects = _subjects(bundle, prompts, batch)
    texts = read_texts(manifest, subjects.get("prompt"), None, 1)
    guided = manifest.guidance.kind == "classifier_free" and (texts is None or texts.negatives is not None)
    scale = manifest.guidance.default_scale if manifest.guidance.default_scale > 1 else 4.0
    pictures = _pictures(manifest, batch)
    request: dict[str, Any] = {
        **subjects,
        **pictures,
        "num_inference_steps": steps,
        "guidance_scale": scale if guided else None,
        "seed": 0,
        "output_type": "numpy" if "vae_decoder" in manifest.components else "latent",
    }
    with ExitStack() as stack:
        pipelines: dict[str, Pipeline] = {}
        bindings: dict[str, Binding] = {}
        predictions: dict[str, NDArray[Any]] = {}
        absent: dict[str, str] = {}
        first_seconds: dict[str, float] = {}
        feeds: dict[str, NDArray[Any]] = {}  # of one denoiser call, the same for all
        for name, opener in openers.items():
            say(f"warming up {name}")
            try:
                pipe = opener()
                if not feeds:
                    feeds = _feeds(pipe, subjects, pictures, scale, guided)
                binding = stack.enter_context(_denoiser(pipe, feeds))
                first_seconds[name], predictions[name] = _warm_up(binding, feeds)
                # Loads and compiles the decoder, too. Some schedules have no single step (LTX-Video's).
                pipe(**{**request, "num_inference_steps": min(2, steps)})
            except Exception as error:
                # What a compiler needs differs between machines, and eager alone is worth its row.
                if name != COMPILED:
                    raise
                absent[name] = _reason(error)
                continue
            pipelines[name], bindings[name] = pipe, binding
        baseline = next(iter(pipelines))
        calls = calls_for(min(first_seconds[name] for name in pipelines))
        say(f"one denoiser call, {repeats} rounds of {calls}")
        forward = interleave({name: repeated(binding.run, calls) for name, binding in bindings.items()}, repeats, say)
        rounds = (repeats + 1) // 2
        say(f"whole runs, {rounds} rounds")
        run, outside = _runs(pipelines, request, rounds, say)
    latents = manifest.latents
    return BenchReport(
        settings={
            "bundle": str(bundle.path),
            "model": manifest.source.name,
            "digest": bundle.digest,
            "height": latents.height * latents.spatial_compression,
            "width": latents.width * latents.spatial_compression,
            "batch": batch,
            "forward_batch": len(feeds["latents"]),
            "steps": steps,
            "threads": threads,
            "repeats": repeats,
            "calls_per_sample": calls,
            "scheduler": bundle.scheduler_config()["_class_name"],
        },
        machine=machine,
        baseline=baseline,
        forward=forward,
        run=run,
        outside=outside,
        differences={name: _difference(predictions[name], predictions[baseline]) for name in pipelines},
        absent=absent,
    )


def _subjects(bundle: Bundle, prompts: Sequence[str] | None, batch: int) -> dict[str, Sequence[Any]]:
    """Return what is drawn, ``batch`` of it, by the pipeline's argument: prompts, or classes 0 and 1 in turn."""
    if bundle.manifest.prompts is not None:
        return {"prompt": take(prompts or COMPARISON, batch)}
    if prompts:
        raise InputError("prompt: this bundle has no text encoder")
    takes_labels = any(spec.name == "class_labels" for spec in bundle.component("denoiser").inputs)
    return {"class_labels": [index % 2 for index in range(batch)]} if takes_labels else {}


def _pictures(manifest: Manifest, batch: int) -> dict[str, Any]:
    """Return the pictures that a bundle needs to make ``batch`` videos of its usual size of."""
    latents = manifest.latents
    size = {name: getattr(latents, name) * latents.spatial_compression for name in ("height", "width")}
    return given_pictures(manifest, batch, size)


def _feeds(
    pipe: Pipeline,
    subjects: Mapping[str, Sequence[Any]],
    pictures: Mapping[str, Any],
    scale: float,
    guided: bool,
) -> dict[str, NDArray[Any]]:
    """Return inputs of one denoiser call: normal latents, a timestep in the middle of the schedule, real conditions.

    Of a guided run they are both halves together; where those do not fit into one call, the conditional one.
    """
    manifest = pipe.bundle.manifest
    texts = read_texts(manifest, subjects.get("prompt"), None, 1)
    conditioner = None if manifest.image_conditions is None else ImageConditioner(manifest, pipe.pool)
    conditions = read_conditions(
        manifest,
        class_labels=subjects.get("class_labels"),
        texts=texts,
        encode=None if texts is None else PromptReader(pipe.bundle, pipe.pool),
        scale=scale,
        guided=guided,
        frame_rate=manifest.latents.frame_rate,
        later=() if conditioner is None else conditioner.names,
    )
    batch = len(next(iter(subjects.values()))) if subjects else 1
    shape = latents_shape(manifest.latents, batch, None, None, manifest.latents.frames)
    if conditioner is not None:
        rows, columns = (side * manifest.latents.spatial_compression for side in shape[-2:])
        read = read_pictures(
            manifest,
            pictures.get("image"),
            pictures.get("last_image"),
            batch=batch,
            height=rows,
            width=columns,
            multiple=pipe.pixel_multiple,
        )
        made = conditioner(read, batch, pixel_frames(manifest, shape[2]), rows, columns, NoiseSource(0))
        conditions = conditions.joined(made)
    feeds = dict(conditions.conditional)
    if guided and conditions.same_shapes:
        other = {**conditions.conditional, **conditions.unconditional}
        feeds = {name: np.concatenate([array, other[name]]) for name, array in feeds.items()}
        batch *= 2
    spec = manifest.components["denoiser"].input("timestep")
    generator = np.random.default_rng(0)
    feeds["latents"] = generator.standard_normal((batch, *shape[1:]), dtype=np.float32)
    feeds["timestep"] = np.full(batch, (spec.maximum or 1.0) / 2, dtype=np.float32)
    return feeds


def _denoiser(pipe: Pipeline, feeds: Mapping[str, NDArray[Any]]) -> Any:
    """Borrow the denoiser's buffers for inputs from a pipeline, whatever engine it runs."""
    return pipe.pool("denoiser").borrow(**bind_axes(pipe.bundle.component("denoiser").inputs, feeds))


def _warm_up(binding: Binding, feeds: Mapping[str, NDArray[Any]]) -> tuple[float, NDArray[Any]]:
    """Run twice and return the seconds of the second call, and its prediction."""
    for name, array in binding.inputs.items():
        array[:] = feeds[name]
    binding.run()
    started = time.perf_counter()
    binding.run()
    return time.perf_counter() - started, binding.outputs["prediction"].copy()


def _runs(
    pipelines: Mapping[str, Pipeline], request: Mapping[str, Any], rounds: int, say: Progress
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Time whole runs; return their seconds, and the part of each that was spent outside the graphs."""
    shares: dict[str, list[float]] = {name: [] for name in pipelines}

    def work(name: str) -> Callable[[], float]:
        def call() -> float:
            seconds = pipelines[name](**request).seconds
            total = seconds["total"]
            inside = sum(value for part, value in seconds.items() if part != "total")
            shares[name].append((total - inside) / total)
            return total

        return call

    timings = interleave({name: work(name) for name in pipelines}, rounds, say)
    return timings, {name: Timing(tuple(values)) for name, values in shares.items()}


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def _reason(error: Exception) -> str:
    """Return one line that says why a candidate is absent."""
    text = str(error).strip().splitlines()[0][:160] if str(error).strip() else ""
    return text if isinstance(error, DitDeployError) else f"{type(error).__name__}: {text}"
