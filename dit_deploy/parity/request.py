"""What both sides are asked to draw, and the pictures that are given where nobody brings any."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import Bundle, Manifest, check_values
from dit_deploy.errors import InputError
from dit_deploy.parity.engine import spread_labels
from dit_deploy.parity.examples import given_pictures
from dit_deploy.parity.prompts import COMPARISON, take
from dit_deploy.parity.sizes import tried_size
from dit_deploy.runtimes.arguments import check_limits, check_sizes
from dit_deploy.runtimes.frames import latent_frames
from dit_deploy.runtimes.image_conditions import read_pictures
from dit_deploy.runtimes.images import ImageInput, read_images
from dit_deploy.text import one_line

__all__ = ["Files", "Request", "first_request", "from_pictures", "starting_from"]

Floats = NDArray[np.float32]
#: Pictures that a caller brings.
Files = Sequence[str | Path | Image.Image]

#: What is drawn at most where nobody says what: enough to see, few enough to wait for. A prompt takes longer.
_LABELS, _PROMPTS = 4, 2
#: Characters of a prompt that a report names a picture by.
_NAME = 60
#: A picture made here is so many times as high and wide as the video, so that it is resized like any other.
_LARGER = 2


@dataclass(frozen=True)
class Request:
    """What both sides are asked to draw; the names are those of :meth:`dit_deploy.Pipeline.__call__`.

    Attributes:
        subjects: ``class_labels``, or ``prompt`` and perhaps ``negative_prompt``.
        image, last_image: pictures that a video shall contain; or of image-to-image an array, float32 [batch, height,
            width, channels] in 0 … 1.
        strength: of image-to-image; ``None``: it is none.
        said: what the pictures are, by argument, for a report.
    """

    subjects: Mapping[str, Any]
    num_inference_steps: int
    guidance_scale: float
    seed: int | Sequence[int] = 0
    scheduler: str | Mapping[str, Any] | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    image: ImageInput | None = field(default=None, repr=False)
    last_image: ImageInput | None = field(default=None, repr=False)
    strength: float | None = None
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``generation``, ``generation from a picture`` or ``image-to-image``."""
        if self.strength is not None:
            return "image-to-image"
        return "generation" if self.image is None else "generation from a picture"

    @property
    def batch(self) -> int:
        """How many samples are drawn."""
        return max(
            (len(self.subjects[name]) for name in ("class_labels", "prompt") if name in self.subjects), default=1
        )

    def arguments(self) -> dict[str, Any]:
        """Return what both sides take, as keyword arguments."""
        names = ("num_inference_steps", "guidance_scale", "seed", "scheduler", "height", "width", "num_frames")
        given = {name: getattr(self, name) for name in (*names, "image", "last_image", "strength")}
        return {**self.subjects, **{name: value for name, value in given.items() if value is not None}}

    def settings(self) -> dict[str, Any]:
        """Return the same for a report, JSON-able."""
        return {name: self.said.get(name, value) for name, value in self.arguments().items()}

    def names(self, labels: Mapping[str, str]) -> list[tuple[int, str]]:
        """Return number and name of each picture: its class and what ``labels`` call it, or place and prompt."""
        if "prompt" in self.subjects:
            return [(index, one_line(text, _NAME)) for index, text in enumerate(self.subjects["prompt"])]
        return [(int(label), labels.get(str(label), "")) for label in self.subjects.get("class_labels", [0])]


def first_request(
    bundle: Bundle,
    *,
    class_labels: Sequence[int] | None,
    prompts: Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    num_inference_steps: int | None,
    guidance_scale: float | None,
    scheduler: str | Mapping[str, Any] | None,
    seed: int | Sequence[int],
    height: int | None,
    width: int | None,
    num_frames: int | None,
) -> Request:
    """Return the request without any picture; the arguments, and what goes for ``None``, are those of ``parity``.

    Raises:
        InputError: one is out of range.
    """
    manifest = bundle.manifest
    latents = manifest.latents
    check_sizes(latents.patch_size * latents.spatial_compression, height=height, width=width)
    check_limits(manifest, height, width)
    latent_frames(manifest, num_frames)
    usual: dict[str, int] = {
        "height": latents.height * latents.spatial_compression,
        "width": latents.width * latents.spatial_compression,
        **tried_size(manifest),
    }
    return Request(
        subjects=_subjects(bundle, class_labels, prompts, negative_prompt),
        num_inference_steps=(
            manifest.scheduler.num_inference_steps if num_inference_steps is None else num_inference_steps
        ),
        guidance_scale=manifest.guidance.default_scale if guidance_scale is None else guidance_scale,
        seed=seed,
        scheduler=scheduler,
        height=usual["height"] if height is None else height,
        width=usual["width"] if width is None else width,
        num_frames=usual.get("num_frames") if num_frames is None else num_frames,
    )


def from_pictures(manifest: Manifest, request: Request, image: Files | None, last_image: Files | None) -> Request:
    """Return the request for a video of pictures: of those that came, or of some that are made here.

    Raises:
        InputError: they cannot be read, are too many or too few, or the bundle has no use for one.
    """
    if image is None and last_image is None:
        given, said = _made_here(manifest, request)
    else:
        given = {
            name: list(files) for name, files in (("image", image), ("last_image", last_image)) if files is not None
        }
        said = {name: ", ".join(map(_name, files)) for name, files in given.items()}
    changed = replace(request, **given, said=said)
    assert request.height is not None and request.width is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a picture that is stretched, which is said when it is drawn
        read_pictures(
            manifest,
            changed.image,
            changed.last_image,
            batch=request.batch,
            height=request.height,
            width=request.width,
            multiple=1,
        )
    return changed


def starting_from(manifest: Manifest, request: Request, image: Files, strength: float) -> Request:
    """Return the request for image-to-image from pictures that came.

    Raises:
        InputError: they cannot be read, or there are neither one nor as many as samples.
    """
    channels = manifest.components["vae_encoder"].input("images").axes[1]
    assert isinstance(channels, int)
    read = read_images(list(image), multiple=1, channels=channels, height=request.height, width=request.width)
    if len(read) not in (1, request.batch):
        raise InputError(f"image: {len(read)} pictures came, 1 or {request.batch} expected, one for each that is drawn")
    array = np.ascontiguousarray(read.transpose(0, 2, 3, 1))
    return replace(request, image=array, strength=strength, said={"image": ", ".join(map(_name, image))})


def _made_here(manifest: Manifest, request: Request) -> tuple[dict[str, Any], dict[str, str]]:
    """Return pictures of waves, as many as the family's pipeline takes for a batch, and what they are in words.

    Where a posterior is drawn from there is one for each sample; else one stands for all.
    """
    record = manifest.image_conditions
    assert record is not None and request.height is not None and request.width is not None
    each = any(spec.name == "noise" for spec in manifest.components[record.component].inputs)
    size = {"height": _LARGER * request.height, "width": _LARGER * request.width}
    given = given_pictures(manifest, request.batch if each else 1, size, optional=True)
    sides = f"{size['width']}×{size['height']}"
    said = {
        name: f"coloured waves made here, {len(pictures)} of {sides} pixels, the same each time"
        for name, pictures in given.items()
    }
    return given, said


def _name(picture: str | Path | Image.Image) -> str:
    if isinstance(picture, Image.Image):
        return f"a picture of {picture.width}×{picture.height} pixels"
    return Path(picture).name


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
