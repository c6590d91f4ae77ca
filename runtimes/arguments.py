"""What a caller gives besides pictures and conditions, checked before anything runs: sizes, seeds, noise."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Axis, Component, Latents, Manifest
from dit_deploy.errors import InputError
from dit_deploy.sampling import NoiseSource
from dit_deploy.text import one_line

__all__ = [
    "check_calls",
    "check_limits",
    "check_sizes",
    "draw_noise",
    "first_noise",
    "latents_shape",
    "nearest",
    "patch_grid",
    "read_frame_rate",
    "read_seed",
    "shown",
]

Floats = NDArray[np.float32]


def shown(value: object, limit: int = 100) -> str:
    """Return ``repr(value)`` on one line and cut, for a message."""
    return one_line(repr(value), limit)


def nearest(size: int, multiple: int) -> int:
    """Return the multiple of ``multiple`` that is nearest to ``size``, and at least one of it."""
    return max(1, round(size / multiple)) * multiple


def check_calls(callback: object, progress: object) -> None:
    """Check what is called during a run, before it: ``callback`` may be ``None``, ``progress`` true or false.

    Raises:
        InputError: one cannot be called.
    """
    if callback is not None and not callable(callback):
        raise InputError(
            f"callback: {shown(callback)} came, expected a function of the step, their number, the latents"
        )
    if not isinstance(progress, bool) and not callable(progress):
        raise InputError(f"progress: {shown(progress)} came, expected true, false or a function")


def check_sizes(multiple: int, **sizes: object) -> None:
    """Check sizes in pixels, by name: ``None``, or a whole positive multiple of ``multiple``.

    Raises:
        InputError: one is something else; the message names the nearest size that would do.
    """
    for name, size in sizes.items():
        if size is None:
            continue
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)):
            raise InputError(f"{name}: {shown(size)} came, expected a multiple of {multiple} pixels, an integer")
        if size < 1 or size % multiple:
            raise InputError(
                f"{name}: {size} came, expected a multiple of {multiple} pixels; the nearest is "
                f"{nearest(int(size), multiple)}"
            )


def check_limits(manifest: Manifest, height: int | None, width: int | None) -> None:
    """Check sizes in pixels against the grid that the denoiser takes; ``None`` is the training size.

    Raises:
        InputError: one is beyond it, such as beyond a table of positions; the message names the limit.
    """
    compression = manifest.latents.spatial_compression
    axes = manifest.components["denoiser"].input("latents").axes[-2:]
    for name, axis, size in zip(("height", "width"), axes, (height, width), strict=True):
        if size is None or not isinstance(axis, Axis):
            continue
        patches, patch = int(size) // (compression * axis.multiple), compression * axis.multiple
        if axis.maximum is not None and patches > axis.maximum:
            raise InputError(
                f"{name}: {size} came, expected at most {axis.maximum * patch} pixels: this model's positions end at "
                f"{axis.maximum} patches of {patch} pixels"
            )
        if patches < axis.minimum:
            raise InputError(f"{name}: {size} came, expected at least {axis.minimum * patch} pixels for this model")


def latents_shape(
    latents: Latents, batch: int, height: int | None, width: int | None, frames: int | None = None
) -> tuple[int, ...]:
    """Return the latents' shape for checked sizes in pixels, where ``None`` is the training size.

    ``frames`` is the number of latent frames, for a video.
    """
    rows = latents.height if height is None else int(height) // latents.spatial_compression
    columns = latents.width if width is None else int(width) // latents.spatial_compression
    return (batch, latents.channels, *(() if frames is None else (frames,)), rows, columns)


def patch_grid(denoiser: Component, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the free sizes of latents of ``shape``, without the batch: how many patches they are along each axis.

    Raises:
        InputError: the denoiser takes no such latents.
    """
    grid = {}
    for axis, size in zip(denoiser.input("latents").axes[2:], shape[2:], strict=True):
        assert isinstance(axis, Axis)  # the manifest was held against this
        free = axis.free(size)
        if free is None:
            raise InputError(f"latents: {axis.name} of {list(shape)} came, which the denoiser does not take")
        grid[axis.name] = free
    return grid


def read_frame_rate(manifest: Manifest, frame_rate: object) -> float | None:
    """Return pictures a second of a video, the usual number for ``None``; ``None`` for a bundle of pictures.

    Raises:
        InputError: it is no positive number, or the bundle draws pictures.
    """
    if frame_rate is None:
        return manifest.latents.frame_rate
    if manifest.latents.frames is None:
        raise InputError(f"frame_rate: {shown(frame_rate)} came, but this bundle draws pictures; leave it out")
    number = isinstance(frame_rate, (int, float, np.number)) and not isinstance(frame_rate, bool)
    if not number or not 0 < frame_rate < 1000:  # type: ignore[operator]
        raise InputError(f"frame_rate: {shown(frame_rate)} came, expected pictures a second, above 0 and below 1000")
    return float(frame_rate)  # type: ignore[arg-type]


def read_seed(seed: object, batch: int) -> tuple[NoiseSource, int | list[int]]:
    """Return the noise that ``seed`` means and the seed as plain integers; a random one for ``None``.

    Raises:
        InputError: a seed is no integer with 0 ≤ seed < 2**64, or there is not one for each picture.
    """
    if seed is None:
        seed = secrets.randbits(32)
    if isinstance(seed, (str, bytes, bytearray)) or (isinstance(seed, np.ndarray) and seed.ndim != 1):
        raise InputError(f"seed: {shown(seed)} came, expected an integer or a list of them")
    if not isinstance(seed, (Sequence, np.ndarray)):
        source = NoiseSource(seed)  # type: ignore[arg-type]  # it refuses what is no integer
        return source, int(seed)  # type: ignore[call-overload]
    if len(seed) != batch:
        raise InputError(f"seed: {len(seed)} seeds came for {batch} pictures; give one, or one for each")
    source = NoiseSource(list(seed))
    return source, [int(one) for one in seed]


def draw_noise(source: NoiseSource, shape: tuple[int, ...], latents: Latents) -> Floats:
    """Return the next draw of ``source`` for latents of ``shape``, in the order in which the model's are drawn."""
    if len(shape) == 5 and latents.noise_axes == "frames_channels":
        batch, channels, frames, *plane = shape
        return np.ascontiguousarray(np.swapaxes(source.draw((batch, frames, channels, *plane)), 1, 2))
    return source.draw(shape)


def first_noise(noise: object, shape: tuple[int, ...], source: NoiseSource, latents: Latents) -> Floats:
    """Return the noise that the caller gave, or the next draw of ``source`` for ``None``.

    Raises:
        InputError: it is no float32 array of ``shape``, or not finite.
    """
    if noise is None:
        return draw_noise(source, shape, latents)
    if not isinstance(noise, np.ndarray) or noise.dtype != np.float32 or noise.shape != shape:
        came = f"{noise.dtype}{list(noise.shape)}" if isinstance(noise, np.ndarray) else type(noise).__name__
        raise InputError(f"noise: {came} came, expected a float32 array of the latents' shape {list(shape)}")
    if not np.isfinite(noise).all():
        raise InputError("noise: holds NaN or infinite values, expected finite ones")
    return noise
