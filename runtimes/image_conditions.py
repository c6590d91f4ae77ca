"""Pictures that a video shall contain → conditions of the denoiser, by the bundle's own graphs (image to video)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import ImageEncoder, Manifest, bind_axes, shape_of
from dit_deploy.errors import InputError
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.images import ImageInput, open_images, read_images
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.sampling import NoiseSource

__all__ = ["ImageConditioner", "Pictures", "read_pictures"]

Array = NDArray[Any]
Floats = NDArray[np.float32]

_FIRST_AND_LAST = 2


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run, checked.

    Attributes:
        first, last: [batch or 1, 3, height, width] in 0 … 1, fitted to the video's size.
        crops: what the vision encoder is given, [batch or 1, pictures, 3, size, size] in 0 … 1, where there is one.
    """

    first: Floats
    last: Floats | None
    crops: Floats | None


def read_pictures(
    manifest: Manifest,
    image: ImageInput | None,
    last_image: ImageInput | None,
    *,
    batch: int,
    height: int,
    width: int,
    multiple: int,
) -> Pictures | None:
    """Return the pictures of a run; ``None`` where it has none.

    Files and PIL images of another size are resized by Lanczos to the video's height and width, as the pipelines of
    diffusers do; where that changes their aspect, a warning says so.

    Raises:
        InputError: the bundle takes none, needs one, or one cannot be read; or there are neither one nor ``batch``.
    """
    record = manifest.image_conditions
    if record is None:
        if last_image is not None:
            raise InputError("last_image: this bundle makes no video of pictures")
        return None
    if image is None:
        if record.required:
            raise InputError("image: this bundle makes videos of a picture, and none came; give image=")
        if last_image is None:
            return None
        raise InputError("last_image: came without an image; give image= too")
    if last_image is not None and not record.last_image:
        raise InputError("last_image: this model takes a first picture only")
    if last_image is None and record.encoder is not None:
        needed = manifest.components[record.encoder.component].input("images").axes[1]
        if needed == _FIRST_AND_LAST:
            raise InputError("last_image: this model needs the last picture beside the first; give last_image= too")
    read: dict[str, Floats] = {}
    for name, given in (("image", image), ("last_image", last_image)):
        if given is None:
            continue
        _say_stretched(name, given, height, width)
        read[name] = read_images(given, multiple=multiple, channels=3, height=height, width=width, name=name)
        if len(read[name]) not in (1, batch):
            raise InputError(f"{name}: {len(read[name])} pictures came, 1 or {batch} expected, one for each prompt")
    crops = None
    if record.encoder is not None:
        several = [_crops(given, record.encoder) for given in (image, last_image) if given is not None]
        most = max(len(one) for one in several)
        crops = np.stack([np.broadcast_to(one, (most, *one.shape[1:])) for one in several], axis=1)
    return Pictures(read["image"], read.get("last_image"), crops)


class ImageConditioner:
    """Turns pictures into conditions.

    Args:
        manifest: of a bundle with ``image_conditions``.
        pool: (component's name) → its bindings.
    """

    def __init__(self, manifest: Manifest, pool: Callable[[str], BindingPool]) -> None:
        assert manifest.image_conditions is not None
        self._record, self._pool = manifest.image_conditions, pool
        self._components = manifest.components
        self._component = manifest.components[self._record.component]
        self.seconds = 0.0

    @property
    def component(self) -> str:
        """The graph that makes them."""
        return self._record.component

    @property
    def components(self) -> list[str]:
        """All graphs that are run."""
        return [self._record.component, *([self._record.encoder.component] if self._record.encoder is not None else [])]

    @property
    def names(self) -> set[str]:
        """The denoiser's conditions that are made here."""
        names = {spec.name for spec in self._component.outputs}
        if self._record.encoder is not None:
            names |= {spec.name for spec in self._components[self._record.encoder.component].outputs}
        return names

    def __call__(
        self, pictures: Pictures | None, batch: int, frames: int, height: int, width: int, source: NoiseSource
    ) -> dict[str, Array]:
        """Return the conditions by name, [batch, …].

        Args:
            pictures: ``None``: zeros are made, and no graph is run.
            frames, height, width: of the video, in pictures and pixels.
            source: gives one draw where the graph takes noise.

        Raises:
            InputError: there is a last picture, and one frame.
            BackendError: a graph failed, or gave values that are not finite.
        """
        images = np.zeros((batch, 3, frames, height, width), np.float32)
        given = np.zeros((batch, frames), np.int64)
        arrays: dict[str, Array] = {"images": images, "given": given}
        sizes = bind_axes([spec for spec in self._component.inputs if spec.name in arrays], arrays)
        if pictures is None:
            return {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in self._component.outputs}
        if pictures.last is not None and frames == 1:
            raise InputError("last_image: a video of one frame has none beside the first; ask for more num_frames")
        for picture, frame in ((pictures.first, 0), (pictures.last, frames - 1)):
            if picture is not None:
                images[:, :, frame], given[:, frame] = picture, 1
        for spec in self._component.inputs:
            if spec.name == "noise":
                # One draw a picture, as diffusers encodes it, or a sample where these have seeds of their own.
                drawn = len(pictures.first) if source.shared else batch
                noise = source.draw((drawn, *shape_of(spec, sizes)[1:]))
                arrays["noise"] = np.broadcast_to(noise, (batch, *noise.shape[1:]))
        made = self._run(self._record.component, arrays, sizes)
        if self._record.encoder is not None:
            assert pictures.crops is not None
            crops = np.broadcast_to(pictures.crops, (batch, *pictures.crops.shape[1:]))
            inputs = self._components[self._record.encoder.component].inputs
            made |= self._run(self._record.encoder.component, {"images": crops}, bind_axes(inputs, {"images": crops}))
        return made

    def keep(self, latents: Floats, conditions: Mapping[str, Array]) -> None:
        """Put into ``latents`` what is known of them from the pictures, where the family keeps it."""
        if self._record.kept is not None and self._record.mask is not None:
            mask = np.broadcast_to(conditions[self._record.mask] != 0, latents.shape)
            np.copyto(latents, conditions[self._record.kept], where=mask)

    def _run(self, name: str, arrays: Mapping[str, Array], sizes: Mapping[str, int]) -> dict[str, Array]:
        with self._pool(name).borrow(**sizes) as binding:
            for key, array in arrays.items():
                binding.inputs[key][...] = array
            started = time.perf_counter()
            binding.run()
            self.seconds += time.perf_counter() - started
            for key, array in binding.outputs.items():
                check_finite(array, f"the {name}'s {key} holds")
            return {key: array.copy() for key, array in binding.outputs.items()}


def _say_stretched(name: str, given: ImageInput, height: int, width: int) -> None:
    if isinstance(given, np.ndarray):
        return
    for picture in open_images(given, 3, name):
        if abs(picture.width * height - picture.height * width) > max(picture.width * height, 1) / 100:
            warnings.warn(
                f"{name}: a picture of {picture.width}×{picture.height} pixels was stretched to {width}×{height}; cut "
                "it to that aspect before, or ask for another height and width",
                UserWarning,
                stacklevel=4,  # whoever called the pipeline
            )


def _crops(given: ImageInput, encoder: ImageEncoder) -> Floats:
    """Return the middle of pictures as the vision encoder sees them, [pictures, 3, size, size] in 0 … 1."""
    if isinstance(given, np.ndarray):
        pixels = read_images(given, multiple=1, channels=3, height=None, width=None)
        pictures = [Image.fromarray((one.transpose(1, 2, 0) * 255).round().astype(np.uint8)) for one in pixels]
    else:
        pictures = open_images(given, 3)
    return np.stack([_crop(picture, encoder.size) for picture in pictures])


def _crop(picture: Image.Image, size: int) -> Floats:
    short = min(picture.size)
    width, height = (size * side // short for side in picture.size)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(resized[top : top + size, left : left + size].transpose(2, 0, 1))
