"""How far an engine's pictures are from its bundle's own, without PyTorch: the figures that ``engine.json`` keeps.

The plain graphs are the reference, which the export has proved against the source. Both sides draw the same subjects
from the same seeds; what an engine for another machine will compute is computed here from the same graph on the CPU.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Bundle
from dit_deploy.errors import NotFiniteError
from dit_deploy.parity.examples import given_pictures
from dit_deploy.parity.limits import limits_for
from dit_deploy.parity.metrics import largest_difference, psnr, relative_error, ssim
from dit_deploy.parity.prompts import COMPARISON, take
from dit_deploy.parity.sizes import tried_size
from dit_deploy.runtimes import Pipeline, Runner
from dit_deploy.runtimes.frames import is_video

__all__ = ["Drawn", "EngineParity", "compare_with_plain", "is_large", "plain_pictures", "spread_labels"]

Floats = NDArray[np.float32]
Progress = Callable[[str, int, int], None]

#: Pictures that are compared: enough to see a bad layer, few enough to wait for.
PICTURES = 8
#: Above so many bytes of weights a step takes seconds on a CPU; fewer steps and pictures show a wrong layer as well.
_LARGE = 500_000_000


@dataclass(frozen=True)
class Drawn:
    """What one side drew: pictures [pictures, height, width, channels] in 0 … 1 where there is a decoder, and latents.

    Of videos each frame is a picture.

    ``subjects`` are the pipeline's argument that says what: ``class_labels`` or ``prompt``, one a picture.
    """

    images: Floats | None
    latents: Floats
    subjects: Mapping[str, Sequence[Any]]
    steps: int


@dataclass(frozen=True)
class EngineParity:
    """The figures of one comparison; ``str()`` gives them as a line.

    Attributes:
        psnr: decibels over all pictures together; of the latents, against their largest value, without a decoder.
        worst: the least of any picture.
        ssim: mean over the pictures; ``None`` without a decoder.
        picture: largest difference of any pixel in units of 1/255; ``None`` without a decoder.
        latents: largest difference of the last latents, relative to the largest value.
        limit: what ``psnr`` is held against.
        failure: why the engine drew nothing; empty where it did.
        allowed, amplified, components: of :mod:`~dit_deploy.parity.amplification`, where ``psnr`` misses the limit: the
            error of a prediction that the limit stands for; the decibels of the plain graphs' own pictures when their
            predictions are off by that; and, where those miss the limit too, the largest difference of the engine's
            components from the plain ones on the same inputs, which then decides.
    """

    psnr: float
    worst: float
    ssim: float | None
    picture: float | None
    latents: float
    limit: float
    pictures: int
    steps: int
    ran: str
    failure: str = ""
    allowed: float | None = None
    amplified: float | None = None
    components: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the engine is as near as its precision can be expected to be."""
        return self.psnr >= self.limit or self._nearness >= 0.0

    @property
    def margin(self) -> float:
        """Decibels that are left: negative where the engine fails."""
        return max(self.psnr - self.limit, self._nearness)

    @property
    def _nearness(self) -> float:
        """By how many decibels the components are nearer than what is allowed, where that decides."""
        if self.allowed is None or self.components is None or not math.isfinite(self.components):
            return -math.inf
        return 20.0 * math.log10(self.allowed / self.components) if self.components else math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON values; ``None`` for decibels of equal pictures and for what is not finite."""
        asked = ("allowed", "amplified", "components")
        values = {
            name: value
            for name, value in vars(self).items()
            if name != "failure" and not (name in asked and self.amplified is None)
        }
        found = {name: None if _infinite(value) else value for name, value in values.items()}
        return {"passed": self.passed, **found, **({"failure": self.failure} if self.failure else {})}

    def __str__(self) -> str:
        if self.failure:
            return self.failure
        what = "of the latents" if self.ssim is None else f"over {self.pictures} pictures (worst {self.worst:.1f})"
        verdict = "within" if self.psnr >= self.limit else "below"
        line = f"{self.psnr:.1f} dB {what} after {self.steps} steps, {verdict} the limit of {self.limit:g} dB"
        if self.amplified is not None and self.allowed is not None:
            line += f"; the plain graphs' own have {self.amplified:.1f} dB when predictions are off by {self.allowed:g}"
        return line if self.components is None else f"{line}, and its components are off by {self.components:.2g}"


def plain_pictures(
    bundle: Bundle,
    *,
    class_labels: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    num_inference_steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Drawn:
    """Draw with the plain graphs what engines are compared with.

    Args:
        class_labels, prompts: by default :data:`PICTURES` of them, two for a large model and of videos: prompts where
            the bundle has text encoders, else labels spread over all classes; none where its denoiser takes neither.
        num_inference_steps: by default the manifest's, eight for a large model.
    """
    if class_labels is not None:
        subjects: dict[str, Sequence[Any]] = {"class_labels": list(class_labels)}
    elif prompts is not None:
        subjects = {"prompt": list(prompts)}
    else:
        subjects = _subjects(bundle, 2 if is_large(bundle) or is_video(bundle.manifest) else PICTURES)
    steps = _steps(bundle) if num_inference_steps is None else num_inference_steps
    return _draw(
        Pipeline(bundle, "onnx", threads=threads), subjects, steps, seed, "drawing with the plain graphs", progress
    )


def compare_with_plain(
    bundle: Bundle,
    plain: Drawn,
    precision: str,
    *,
    runners: Mapping[str, Runner] | None = None,
    engine: str = "onnx",
    seed: int = 0,
    ran: str = "as built",
    limit: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> EngineParity:
    """Draw what ``plain`` holds once more, by an engine or by ``runners`` in place of the bundle's components.

    Args:
        plain: of :func:`plain_pictures`, with the same seed.
        precision: whose limits hold.
        ran: what is run, in words, for the record.
        limit: decibels, instead of the precision's.
    """
    least = limits_for(precision).psnr if limit is None else limit
    pipeline = Pipeline(bundle, engine, threads=threads, runners=runners)
    try:
        drawn = _draw(pipeline, plain.subjects, plain.steps, seed, "drawing with the engine", progress)
    except NotFiniteError as error:  # values that overflow are a result; a kernel that fails is an error
        nothing = -math.inf
        return EngineParity(
            nothing, nothing, None, None, math.inf, least, 0, plain.steps, ran, str(error).partition(";")[0]
        )
    latents = relative_error(drawn.latents, plain.latents)
    if drawn.images is None or plain.images is None:
        scale = float(np.abs(plain.latents).max())
        ratio = psnr(drawn.latents / scale, plain.latents / scale)
        return EngineParity(ratio, ratio, None, None, latents, least, len(plain.latents), plain.steps, ran)
    pairs = list(zip(drawn.images, plain.images, strict=True))
    return EngineParity(
        psnr=psnr(drawn.images, plain.images),
        worst=min(psnr(one, other) for one, other in pairs),
        ssim=float(np.mean([ssim(one, other) for one, other in pairs])),
        picture=255.0 * largest_difference(drawn.images, plain.images),
        latents=latents,
        limit=least,
        pictures=len(pairs),
        steps=plain.steps,
        ran=ran,
    )


def _subjects(bundle: Bundle, count: int) -> dict[str, Sequence[Any]]:
    """Return ``count`` prompts or at most as many labels, by the pipeline's argument for them."""
    if bundle.manifest.prompts is not None:
        return {"prompt": take(COMPARISON, count)}
    if all(spec.name != "class_labels" for spec in bundle.component("denoiser").inputs):
        return {}
    return {"class_labels": spread_labels(bundle, count)}


def spread_labels(bundle: Bundle, count: int) -> list[int]:
    """Return at most ``count`` classes spread over the range of ``class_labels``, the null class left out."""
    spec = bundle.component("denoiser").input("class_labels")
    null = bundle.manifest.guidance.unconditional.get("class_labels")
    classes = [label for label in range(int(spec.minimum or 0), int(spec.maximum or 0) + 1) if label != null]
    if len(classes) <= count:
        return classes
    return [classes[index * (len(classes) - 1) // (count - 1)] for index in range(count)]


def _steps(bundle: Bundle) -> int:
    """Return how many steps are compared: the manifest's usual number up to 50, at most eight of a large model."""
    return min(bundle.manifest.scheduler.num_inference_steps, 8 if is_large(bundle) else 50)


def is_large(bundle: Bundle) -> bool:
    """Say whether one step of the denoiser takes seconds on a CPU, as its weights have it."""
    folder = bundle.component("denoiser").path.rpartition("/")[0] + "/"
    return sum(record.size for path, record in bundle.manifest.files.items() if path.startswith(folder)) > _LARGE


def _draw(
    pipeline: Pipeline,
    subjects: Mapping[str, Sequence[Any]],
    steps: int,
    seed: int,
    what: str,
    progress: Progress | None,
) -> Drawn:
    drawable = "vae_decoder" in pipeline.bundle.manifest.components

    def tell(step: int, total: int, _latents: Floats) -> None:
        if progress is not None:
            progress(what, step + 1, total)

    count = max((len(values) for values in subjects.values()), default=1)
    given: dict[str, Any] = {name: list(values) for name, values in subjects.items()}
    manifest = pipeline.bundle.manifest
    size = tried_size(manifest)
    given |= size | given_pictures(manifest, count, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of prompts that are cut: both sides read as much of them
        output = pipeline(
            **given,
            num_inference_steps=steps,
            seed=[seed + index for index in range(count)],
            output_type="numpy" if drawable else "latent",
            callback=tell,
        )
    images = None
    if drawable:
        made = np.asarray(output.frames if is_video(manifest) else output.images)
        images = made.reshape(-1, *made.shape[-3:])
    return Drawn(images, output.latents, dict(subjects), steps)


def _infinite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
