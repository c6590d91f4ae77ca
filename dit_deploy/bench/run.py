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
from dit_deploy.bundle import Bundle
from dit_deploy.errors import DitDeployError, InputError
from dit_deploy.runtimes import Pipeline
from dit_deploy.runtimes.runner import Binding

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
    progress: Progress | None = None,
) -> BenchReport:
    """Time one denoiser call and a whole run of every candidate, at the size that the model was trained at.

    Rounds are interleaved (A B C A B C …), after a warm-up; ratios are taken round by round.

    Args:
        engines: names of the bundle's engines; ``"onnx"`` is its plain graphs.
        reference: the checkpoint that the bundle was exported from: adds PyTorch eager and ``torch.compile``.
        arch, image_size, vae: for the reference; see :func:`~dit_deploy.exporters.families.dit_source.open_checkpoint`.
        others: more candidates, name → what opens a pipeline.
        steps: denoising steps of a whole run.
        repeats: rounds of the denoiser call; whole runs get half as many, rounded up.
        threads: within an operator, the same for all; every usable core by default.
        batch: pictures at once. A guided denoiser call has twice as many samples.
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
    guided = manifest.guidance.kind == "classifier_free"
    copies = 2 if guided else 1
    scale = manifest.guidance.default_scale if manifest.guidance.default_scale > 1 else 4.0
    request: dict[str, Any] = {
        "class_labels": [index % 2 for index in range(batch)],
        "num_inference_steps": steps,
        "guidance_scale": scale if guided else None,
        "seed": 0,
        "output_type": "numpy" if "vae_decoder" in manifest.components else "latent",
    }
    feeds = _feeds(bundle, batch * copies)

    with ExitStack() as stack:
        pipelines: dict[str, Pipeline] = {}
        bindings: dict[str, Binding] = {}
        predictions: dict[str, NDArray[Any]] = {}
        absent: dict[str, str] = {}
        first_seconds: dict[str, float] = {}
        for name, opener in openers.items():
            say(f"warming up {name}")
            try:
                pipe = opener()
                binding = stack.enter_context(_denoiser(pipe, batch * copies))
                first_seconds[name], predictions[name] = _warm_up(binding, feeds)
                pipe(**{**request, "num_inference_steps": 1})  # loads and compiles the decoder, too
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
            "forward_batch": batch * copies,
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


def _feeds(bundle: Bundle, batch: int) -> dict[str, NDArray[Any]]:
    """Return inputs of one denoiser call: normal latents, a timestep in the middle of the schedule, classes 0 and 1."""
    latents = bundle.manifest.latents
    generator = np.random.default_rng(0)
    spec = bundle.component("denoiser").input("timestep")
    return {
        "latents": generator.standard_normal(
            (batch, latents.channels, latents.height, latents.width), dtype=np.float32
        ),
        "timestep": np.full(batch, (spec.maximum or 1.0) / 2, dtype=np.float32),
        "class_labels": np.arange(batch, dtype=np.int64) % 2,
    }


def _denoiser(pipe: Pipeline, batch: int) -> Any:
    """Borrow the denoiser's buffers at the training size from a pipeline, whatever engine it runs."""
    latents = pipe.bundle.manifest.latents
    grid = {"patch_height": latents.height // latents.patch_size, "patch_width": latents.width // latents.patch_size}
    return pipe.pool("denoiser").borrow(batch=batch, **grid)


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
