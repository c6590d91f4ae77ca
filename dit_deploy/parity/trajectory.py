"""One generation by the engine and by the reference from the same seed: step by step, then the pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import BackendError
from dit_deploy.parity.metrics import largest_difference, psnr, relative_error, ssim
from dit_deploy.parity.report import PictureError, Run
from dit_deploy.runtimes.conditions import read_conditions
from dit_deploy.runtimes.guided import GuidedDenoiser
from dit_deploy.runtimes.pipeline import Pipeline
from dit_deploy.runtimes.plan import timestep_scale
from dit_deploy.sampling import (
    BASIS,
    Guidance,
    NoiseSource,
    SolverState,
    SolverTable,
    image_to_image_begin,
    resolve_scheduler,
    solver_table,
)

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch import Evaluation, Sampled, TorchReference

__all__ = ["Request", "compare_run"]

Floats = NDArray[np.float32]
Advance = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What both sides are asked to draw; the names are those of :meth:`dit_deploy.Pipeline.__call__`.

    Attributes:
        image: float32 [batch, height, width, channels] in 0 … 1 for image-to-image.
    """

    class_labels: Sequence[int]
    num_inference_steps: int
    guidance_scale: float
    seed: int | Sequence[int] = 0
    scheduler: str | Mapping[str, Any] | None = None
    height: int | None = None
    width: int | None = None
    image: Floats | None = field(default=None, repr=False)
    strength: float = 0.6

    @property
    def name(self) -> str:
        """``generation`` or ``image-to-image``."""
        return "generation" if self.image is None else "image-to-image"

    def arguments(self) -> dict[str, Any]:
        """Return what both sides take, as keyword arguments."""
        names = ("num_inference_steps", "guidance_scale", "seed", "scheduler", "height", "width")
        chosen = {name: getattr(self, name) for name in names}
        return chosen if self.image is None else {**chosen, "image": self.image, "strength": self.strength}

    def settings(self) -> dict[str, Any]:
        """Return the same for a report: JSON-able, and without what was left out."""
        chosen = {"class_labels": list(self.class_labels), **self.arguments()}
        if self.image is not None:
            chosen["image"] = "PyTorch's pictures of the generation"
        return {name: value for name, value in chosen.items() if value is not None}


def compare_run(
    pipeline: Pipeline, reference: TorchReference, request: Request, advance: Advance
) -> tuple[Run, Sampled]:
    """Draw ``request`` with both and return what differs, with what the reference drew.

    Args:
        advance: called with what is being done, how far, and of how much.
    """
    manifest = pipeline.bundle.manifest
    table = _table(pipeline, request)
    # The engine first: it checks the request, and says what is wrong with it in words.
    after_steps, images, failure = _draw(pipeline, request, advance)
    advance(f"{request.name} in PyTorch", 0, len(table))
    sampled = reference.sample(
        request.class_labels,
        progress=lambda done, total: advance(f"{request.name} in PyTorch", done, total),
        **request.arguments(),
    )
    if len(sampled.evaluations) != len(table):
        raise BackendError(
            f"{request.name}: PyTorch evaluates its denoiser {len(sampled.evaluations)} times, this bundle's "
            f"sampler {len(table)} times; are the scheduler's configs the same?"
        )
    own = [_first_latents(pipeline, request, sampled.latents.shape, table), *after_steps]
    last_rows = np.flatnonzero(np.diff(table.step, append=table.num_steps))
    expected = [sampled.evaluations[0].sample, *(sampled.evaluations[row].next_sample for row in last_rows)]
    accumulated = [relative_error(latents, other) for latents, other in zip(own, expected, strict=False)]
    accumulated += [np.inf] * (len(expected) - len(own))
    single = _single_steps(pipeline, request, sampled.evaluations, table, advance)
    pictures = _pictures(images, sampled.images, request.class_labels, manifest.labels)
    return (
        Run(
            name=request.name,
            implementation=sampled.implementation,
            settings={**request.settings(), "sampler": _scheduler_config(pipeline, request)["_class_name"]},
            timesteps=tuple(float(table.timesteps[row]) for row in [0, *(last_rows[:-1] + 1)]),
            accumulated=tuple(accumulated),
            single_step=tuple(single),
            pictures=tuple(pictures),
            failure=failure,
            images=images,
            reference_images=sampled.images,
        ),
        sampled,
    )


def _table(pipeline: Pipeline, request: Request) -> SolverTable:
    steps = request.num_inference_steps
    begin = 0 if request.image is None else image_to_image_begin(steps, request.strength)
    return solver_table(_scheduler_config(pipeline, request), steps, begin=begin)


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
            class_labels=list(request.class_labels),
            output_type="numpy" if drawable else "latent",
            callback=keep,
            **request.arguments(),
        )
    except BackendError as error:
        # An engine whose latents overflow is what parity is there to find: it is a result.
        return latents, None, str(error).partition(";")[0]
    return latents, np.asarray(output.images) if drawable else None, ""


def _first_latents(pipeline: Pipeline, request: Request, shape: tuple[int, ...], table: SolverTable) -> Floats:
    """Return what the engine's run begins with, made by the same code as in the run."""
    source = NoiseSource(request.seed)
    if request.image is None:
        return np.float32(table.initial_noise_scale) * source.draw(shape)
    images = np.ascontiguousarray(request.image.transpose(0, 3, 1, 2))
    try:
        clean = pipeline.encode(images, shape[0], source)
    except BackendError:  # the run has ended for the same reason, which the report gives
        return np.full(shape, np.nan, np.float32)
    signal, deviation = table.start
    return np.float32(signal) * clean + np.float32(deviation) * source.draw(shape)


def _single_steps(
    pipeline: Pipeline, request: Request, evaluations: Sequence[Evaluation], table: SolverTable, advance: Advance
) -> list[float]:
    """Return for each step what the engine's denoiser alone adds to the relative error of the latents after it.

    The denoiser gets the reference's latents, so nothing that went wrong before is in its error; that is brought
    to latents by the coefficient with which the solver takes the prediction into the next sample. Of several
    evaluations in a step the largest counts.
    """
    manifest = pipeline.bundle.manifest
    shape = evaluations[0].sample.shape
    state = SolverState(table, shape)
    conditions = read_conditions(manifest, class_labels=request.class_labels)
    guidance = Guidance(scale=request.guidance_scale, channels=manifest.guidance.channels)
    errors = [0.0] * table.num_steps
    with GuidedDenoiser(
        pipeline.pool("denoiser"),
        conditions,
        guidance,
        shape,
        manifest.latents.patch_size,
        timestep_scale(_scheduler_config(pipeline, request), manifest.prediction),
    ) as denoiser:
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


def _pictures(
    images: Floats | None, references: Floats | None, labels: Sequence[int], names: Mapping[str, str]
) -> list[PictureError]:
    if images is None or references is None:
        return []
    return [
        PictureError(
            label=int(label),
            name=names.get(str(label), ""),
            psnr=psnr(image, reference),
            ssim=ssim(image, reference),
            largest=255.0 * largest_difference(image, reference),
        )
        for label, image, reference in zip(labels, images, references, strict=True)
    ]
