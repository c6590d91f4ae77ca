"""One generation by the engine and by the reference from the same seed: step by step, then the pictures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import BackendError
from dit_deploy.parity.metrics import largest_difference, psnr, relative_error, ssim
from dit_deploy.parity.pictures import strips
from dit_deploy.parity.report import PictureError, Run
from dit_deploy.runtimes.arguments import draw_noise, latents_shape, patch_grid
from dit_deploy.runtimes.conditions import read_conditions, read_texts
from dit_deploy.runtimes.frames import is_video, latent_frames, pixel_frames
from dit_deploy.runtimes.guided import Denoiser, GuidedDenoiser
from dit_deploy.runtimes.image_conditions import ImageConditioner
from dit_deploy.runtimes.pipeline import Pipeline
from dit_deploy.runtimes.plan import Plan, plan_steps
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.sampling import BASIS, Guidance, NoiseSource, SolverState, SolverTable, resolve_scheduler
from dit_deploy.text import one_line

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch import Evaluation, Sampled, TorchReference

__all__ = ["Request", "compare_run"]

Floats = NDArray[np.float32]
Advance = Callable[[str, int, int], None]
#: Characters of a prompt that a report names a picture by.
_NAME = 60


@dataclass(frozen=True)
class Request:
    """What both sides are asked to draw; the names are those of :meth:`dit_deploy.Pipeline.__call__`.

    Attributes:
        subjects: ``class_labels``, or ``prompt`` and perhaps ``negative_prompt``.
        image: float32 [batch, height, width, channels] in 0 … 1 for image-to-image.
    """

    subjects: Mapping[str, Any]
    num_inference_steps: int
    guidance_scale: float
    seed: int | Sequence[int] = 0
    scheduler: str | Mapping[str, Any] | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    image: Floats | None = field(default=None, repr=False)
    strength: float = 0.6

    @property
    def name(self) -> str:
        """``generation`` or ``image-to-image``."""
        return "generation" if self.image is None else "image-to-image"

    def arguments(self) -> dict[str, Any]:
        """Return what both sides take, as keyword arguments."""
        names = ("num_inference_steps", "guidance_scale", "seed", "scheduler", "height", "width", "num_frames")
        given = {name: getattr(self, name) for name in names}
        chosen = {**self.subjects, **{name: value for name, value in given.items() if value is not None}}
        return chosen if self.image is None else {**chosen, "image": self.image, "strength": self.strength}

    def settings(self) -> dict[str, Any]:
        """Return the same for a report, JSON-able."""
        chosen = self.arguments()
        return chosen if self.image is None else {**chosen, "image": "PyTorch's pictures of the generation"}

    def names(self, labels: Mapping[str, str]) -> list[tuple[int, str]]:
        """Return number and name of each picture: its class and what ``labels`` call it, or place and prompt."""
        if "prompt" in self.subjects:
            return [(index, one_line(text, _NAME)) for index, text in enumerate(self.subjects["prompt"])]
        return [(int(label), labels.get(str(label), "")) for label in self.subjects.get("class_labels", [0])]


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
    batch = len(next(iter(request.subjects.values()))) if request.subjects else 1
    frames = latent_frames(manifest, request.num_frames)
    shape = latents_shape(manifest.latents, batch, request.height, request.width, frames)
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
    own = [_first_latents(pipeline, request, shape, table), *after_steps]
    last_rows = np.flatnonzero(np.diff(table.step, append=table.num_steps))
    expected = [sampled.evaluations[0].sample, *(sampled.evaluations[row].next_sample for row in last_rows)]
    accumulated = [relative_error(latents, other) for latents, other in zip(own, expected, strict=False)]
    accumulated += [np.inf] * (len(expected) - len(own))
    single = _single_steps(pipeline, request, sampled.evaluations, plan, advance)
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
        from_image=request.image is not None,
        strength=None if request.image is None else request.strength,
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


def _first_latents(pipeline: Pipeline, request: Request, shape: tuple[int, ...], table: SolverTable) -> Floats:
    """Return what the engine's run begins with, made by the same code as in the run."""
    source = NoiseSource(request.seed)
    if request.image is None:
        return np.float32(table.initial_noise_scale) * draw_noise(source, shape, pipeline.bundle.manifest.latents)
    images = np.ascontiguousarray(request.image.transpose(0, 3, 1, 2))
    try:
        clean = pipeline.encode(images, shape[0], source)
    except BackendError:  # the run has ended for the same reason, which the report gives
        return np.full(shape, np.nan, np.float32)
    signal, deviation = table.start
    return np.float32(signal) * clean + np.float32(deviation) * source.draw(shape)


def _single_steps(
    pipeline: Pipeline, request: Request, evaluations: Sequence[Evaluation], plan: Plan, advance: Advance
) -> list[float]:
    """Return for each step what the engine's denoiser alone adds to the relative error of the latents after it.

    The denoiser gets the reference's latents, so nothing that went wrong before is in its error; that is brought
    to latents by the coefficient with which the solver takes the prediction into the next sample. Of several
    evaluations in a step the largest counts.
    """
    table = plan.table
    state = SolverState(table, evaluations[0].sample.shape)
    errors = [0.0] * table.num_steps
    with _denoiser(pipeline, request, plan, state.shape) as denoiser:
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


@contextmanager
def _denoiser(pipeline: Pipeline, request: Request, plan: Plan, shape: tuple[int, ...]) -> Iterator[Denoiser]:
    """Yield the engine's denoiser as its pipeline evaluates it: with conditions by its own encoders, and guidance."""
    manifest = pipeline.bundle.manifest
    own = manifest.guidance
    conditioner = None if manifest.image_conditions is None else ImageConditioner(manifest, pipeline.pool)
    texts = read_texts(manifest, request.subjects.get("prompt"), request.subjects.get("negative_prompt"), 1)
    guided = own.kind == "classifier_free" and (texts is None or texts.negatives is not None)
    guidance = Guidance(
        scale=request.guidance_scale + own.scale_offset if guided else 1.0,
        channels=own.channels,
        token=manifest.latents.patch_size if own.normalise == "token" else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a prompt is cut was said when the engine drew
        conditions = read_conditions(
            manifest,
            class_labels=request.subjects.get("class_labels"),
            texts=texts,
            encode=None if texts is None else PromptReader(pipeline.bundle, pipeline.pool),
            scale=request.guidance_scale,
            guided=guidance.scale > 1.0,
            frame_rate=manifest.latents.frame_rate,
            later=() if conditioner is None else conditioner.names,
        )
    if conditioner is not None:
        rows, columns = (side * manifest.latents.spatial_compression for side in shape[-2:])
        frames = pixel_frames(manifest, shape[2])
        conditions = conditions.joined(conditioner(None, shape[0], frames, rows, columns, NoiseSource(request.seed)))
    pool = pipeline.pool("denoiser")
    with GuidedDenoiser(pool, conditions, guidance, shape, plan.timestep_scale) as denoiser:
        yield denoiser


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
