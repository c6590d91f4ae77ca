"""One generation by the engine and by the reference from the same seed: step by step, then the pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import BackendError
from dit_deploy.parity.metrics import largest_difference, psnr, relative_error, ssim
from dit_deploy.parity.pictures import strips
from dit_deploy.parity.report import PictureError, Run
from dit_deploy.parity.request import Request
from dit_deploy.runtimes.arguments import draw_noise, latents_shape, patch_grid
from dit_deploy.runtimes.conditions import read_conditions, read_texts
from dit_deploy.runtimes.frames import is_video, latent_frames, pixel_frames
from dit_deploy.runtimes.guidance import read_guidance
from dit_deploy.runtimes.image_conditions import ImageConditioner, read_pictures
from dit_deploy.runtimes.pipeline import Pipeline
from dit_deploy.runtimes.plan import Plan, plan_steps
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.runtimes.run import Run as EngineRun
from dit_deploy.runtimes.run import open_denoiser
from dit_deploy.sampling import BASIS, NoiseSource, SolverState, SolverTable, resolve_scheduler

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch import Evaluation, Sampled, TorchReference

__all__ = ["compare_run"]

Floats = NDArray[np.float32]
Advance = Callable[[str, int, int], None]


def compare_run(
    pipeline: Pipeline, reference: TorchReference, request: Request, advance: Advance
) -> tuple[Run, Sampled]:
    """Draw ``request`` with both and return what differs, with what the reference drew.

    Args:
        advance: called with what is being done, how far, and of how much.
    """
    manifest = pipeline.bundle.manifest
    # The engine first: it checks the request, and says what is wrong with it in words.
    after_steps, images, failure = _draw(pipeline, request, advance)
    frames = latent_frames(manifest, request.num_frames)
    shape = latents_shape(manifest.latents, request.batch, request.height, request.width, frames)
    plan = _plan(pipeline, request, shape)
    table = plan.table
    advance(f"{request.name} in PyTorch", 0, len(table))
    sampled = reference.sample(
        progress=lambda done, total: advance(f"{request.name} in PyTorch", done, total),
        **request.arguments(),
    )
    if len(sampled.evaluations) != len(table):
        raise BackendError(
            f"{request.name}: PyTorch evaluates its denoiser {len(sampled.evaluations)} times, this bundle's "
            f"sampler {len(table)} times; are the scheduler's configs the same?"
        )
    source = NoiseSource(request.seed)
    run = _run(pipeline, request, shape, plan, source)
    own = [_first_latents(pipeline, request, shape, table, source), *after_steps]
    last_rows = np.flatnonzero(np.diff(table.step, append=table.num_steps))
    expected = [sampled.evaluations[0].sample, *(sampled.evaluations[row].next_sample for row in last_rows)]
    accumulated = [relative_error(latents, other) for latents, other in zip(own, expected, strict=False)]
    accumulated += [np.inf] * (len(expected) - len(own))
    single, conditions = [np.inf] * table.num_steps, dict.fromkeys(sampled.conditions, np.inf)
    if run is not None:
        made = run.conditions.conditional
        conditions = {name: relative_error(made[name], other) for name, other in sampled.conditions.items()}
        single = _single_steps(pipeline, request, sampled.evaluations, run, advance)
    pictures = _pictures(images, sampled.images, request.names(manifest.labels))
    return (
        Run(
            name=request.name,
            implementation=sampled.implementation,
            settings={**request.settings(), "sampler": _scheduler_config(pipeline, request)["_class_name"]},
            timesteps=tuple(float(table.timesteps[row]) for row in [0, *(last_rows[:-1] + 1)]),
            accumulated=tuple(accumulated),
            single_step=tuple(single),
            pictures=tuple(pictures),
            conditions=conditions if request.image is not None and request.strength is None else {},
            failure=failure,
            images=strips(images),
            reference_images=strips(sampled.images),
        ),
        sampled,
    )


def _plan(pipeline: Pipeline, request: Request, shape: tuple[int, ...]) -> Plan:
    """Return the plan of the engine's run, on latents of ``shape``."""
    manifest = pipeline.bundle.manifest
    grid = patch_grid(manifest.components["denoiser"], shape)
    return plan_steps(
        pipeline.bundle,
        num_inference_steps=request.num_inference_steps,
        scheduler=request.scheduler,
        eta=0.0,
        from_image=request.strength is not None,
        strength=request.strength,
        tokens=math.prod(grid.values()),
    )


def _scheduler_config(pipeline: Pipeline, request: Request) -> Mapping[str, Any]:
    return resolve_scheduler(pipeline.bundle.scheduler_config(), request.scheduler)


def _draw(pipeline: Pipeline, request: Request, advance: Advance) -> tuple[list[Floats], Floats | None, str]:
    """Run the engine's pipeline: the latents after each step, pictures, and why it ended early."""
    latents: list[Floats] = []

    def keep(step: int, steps: int, sample: Floats) -> None:
        latents.append(sample.copy())
        advance(f"{request.name} by the engine", step + 1, steps)

    drawable = "vae_decoder" in pipeline.bundle.manifest.components
    advance(f"{request.name} by the engine", 0, 1)
    try:
        output = pipeline(
            output_type="numpy" if drawable else "latent",
            callback=keep,
            **request.arguments(),
        )
    except BackendError as error:
        # An engine whose latents overflow is what parity is there to find: it is a result.
        return latents, None, str(error).partition(";")[0]
    drawn = output.frames if is_video(pipeline.bundle.manifest) else output.images
    return latents, np.asarray(drawn) if drawable else None, ""


def _run(
    pipeline: Pipeline, request: Request, shape: tuple[int, ...], plan: Plan, source: NoiseSource
) -> EngineRun | None:
    """Return the engine's run as its pipeline has it: conditions by its own graphs, and the family's guidance.

    ``None`` where these graphs fail: the engine's run has ended for the same reason, which the report gives.
    """
    manifest = pipeline.bundle.manifest
    conditioner = None if manifest.image_conditions is None else ImageConditioner(manifest, pipeline.pool)
    texts = read_texts(manifest, request.subjects.get("prompt"), request.subjects.get("negative_prompt"), 1)
    first, second = read_guidance(
        manifest,
        scale=request.guidance_scale,
        second_scale=None,
        true_cfg_scale=1.0,
        channels="model",
        interval=(0.0, 1.0),
        rescale=0.0,
        batched=True,
        skip_layers=None,
        skip_scale=0.0,
        skip_start=0.0,
        skip_stop=0.0,
    )
    if texts is not None and texts.negatives is None:  # such a family guides towards a negative prompt only
        first, second = replace(first, scale=1.0), None
    rows, columns = (side * manifest.latents.spatial_compression for side in shape[-2:])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of prompts that are cut, pictures that are stretched: said when drawn
            conditions = read_conditions(
                manifest,
                class_labels=request.subjects.get("class_labels"),
                texts=texts,
                encode=None if texts is None else PromptReader(pipeline.bundle, pipeline.pool),
                scale=request.guidance_scale,
                guided=first.scale > 1.0,
                frame_rate=manifest.latents.frame_rate,
                later=() if conditioner is None else conditioner.names,
            )
            if conditioner is not None:
                pictures = read_pictures(
                    manifest,
                    request.image,
                    request.last_image,
                    batch=shape[0],
                    height=rows,
                    width=columns,
                    multiple=pipeline.pixel_multiple,
                )
                frames = pixel_frames(manifest, shape[2])
                conditions = conditions.joined(conditioner(pictures, shape[0], frames, rows, columns, source))
    except BackendError:
        return None
    return EngineRun(plan, conditions, first, second)


def _first_latents(
    pipeline: Pipeline, request: Request, shape: tuple[int, ...], table: SolverTable, source: NoiseSource
) -> Floats:
    """Return what the engine's run begins with, made by the same code as in the run.

    ``source`` is where the draws for given pictures have left it.
    """
    if request.strength is None:
        return np.float32(table.initial_noise_scale) * draw_noise(source, shape, pipeline.bundle.manifest.latents)
    assert isinstance(request.image, np.ndarray)
    images = np.ascontiguousarray(request.image.transpose(0, 3, 1, 2))
    try:
        clean = pipeline.encode(images, shape[0], source)
    except BackendError:  # the run has ended for the same reason, which the report gives
        return np.full(shape, np.nan, np.float32)
    signal, deviation = table.start
    return np.float32(signal) * clean + np.float32(deviation) * source.draw(shape)


def _single_steps(
    pipeline: Pipeline, request: Request, evaluations: Sequence[Evaluation], run: EngineRun, advance: Advance
) -> list[float]:
    """Return for each step what the engine's denoiser alone adds to the relative error of the latents after it.

    The denoiser gets the reference's latents, so nothing that went wrong before is in its error; that is brought
    to latents by the coefficient with which the solver takes the prediction into the next sample. Of several
    evaluations in a step the largest counts.
    """
    table = run.plan.table
    state = SolverState(table, evaluations[0].sample.shape)
    errors = [0.0] * table.num_steps
    with open_denoiser(pipeline.pool, pipeline.bundle.manifest, run, state.shape) as denoiser:
        for row, evaluation in enumerate(evaluations):
            state.reset(evaluation.sample)
            prediction, _ = denoiser(state, row)
            error = largest_difference(prediction, evaluation.prediction)
            largest = max(float(np.abs(evaluation.next_sample).max()), float(np.finfo(np.float32).tiny))
            added = error * _gain(table, row) / largest if np.isfinite(error) else np.inf
            step = int(table.step[row])
            errors[step] = max(errors[step], added)
            advance(f"{request.name} by the engine, each step alone", row + 1, len(table))
    return errors


def _gain(table: SolverTable, row: int) -> float:
    """Return by how much a change of the row's prediction changes its new sample, clipping aside."""
    coefficients = table.sample[row]
    gain = coefficients[BASIS.index("prediction")]
    if table.history:
        gain += coefficients[len(BASIS)] * table.output[row, 1]
    return float(abs(gain))


def _pictures(images: Floats | None, references: Floats | None, names: Sequence[tuple[int, str]]) -> list[PictureError]:
    if images is None or references is None:
        return []
    return [
        PictureError(
            label=label,
            name=name,
            psnr=psnr(image, reference),
            ssim=ssim(image, reference),
            largest=255.0 * largest_difference(image, reference),
        )
        for (label, name), image, reference in zip(names, images, references, strict=True)
    ]
