"""A long video by windows of latents: the denoiser sees some frames at a time, and its predictions are averaged.

That is done at every step, as in MultiDiffusion (Bar-Tal et al. 2023), here along time;
so a model draws more frames than it was trained at, in the memory of a window. What lies further apart than a window
knows of each other only through the windows between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Axis, Component, Manifest
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.frames import is_video, latent_frames
from dit_deploy.runtimes.guided import Denoiser, Sampled
from dit_deploy.sampling import SolverTable

__all__ = ["WindowedDenoiser", "read_windows", "weights"]

Array = NDArray[Any]
Floats = NDArray[np.float32]


def read_windows(
    manifest: Manifest, frames: int | None, window_frames: object, window_overlap: object
) -> list[slice] | None:
    """Return the windows of a video of ``frames`` latent frames, all of one length; ``None`` where one holds it all.

    Args:
        window_frames: pictures of a window; ``None``: the whole video.
        window_overlap: pictures that a window shares with the next; ``None``: about a quarter.

    Raises:
        InputError: they are no numbers that fit the model.
    """
    if window_frames is None:
        if window_overlap is not None:
            raise InputError("window_overlap: came without window_frames; give both")
        return None
    if not is_video(manifest) or frames is None:
        raise InputError("window_frames: this bundle draws pictures; leave it out")
    try:
        window = latent_frames(manifest, window_frames)
    except InputError as error:
        raise InputError(f"window_frames: {str(error).removeprefix('num_frames: ')}") from None
    assert window is not None
    latents = manifest.latents
    patch, unit = latents.temporal_patch_size, latents.temporal_compression * latents.temporal_patch_size
    if window_overlap is None:
        overlap = max(1, window // patch // 4) * patch
    elif isinstance(window_overlap, bool) or not isinstance(window_overlap, (int, np.integer)) or window_overlap % unit:
        raise InputError(f"window_overlap: {shown(window_overlap)} came, expected a multiple of {unit} pictures")
    else:
        overlap = int(window_overlap) // latents.temporal_compression
    if not 0 <= overlap < window:
        raise InputError(f"window_overlap: {shown(window_overlap)} came, expected less than a window's {window_frames}")
    if frames <= window:
        return None
    starts = [*range(0, frames - window, window - overlap), frames - window]
    return [slice(start, start + window) for start in starts]


def weights(windows: list[slice], frames: int) -> list[Floats]:
    """Return how much each frame of each window counts: 1 where it is alone, rising and falling over overlaps."""
    made = []
    for index, window in enumerate(windows):
        weight = np.ones(window.stop - window.start)
        if index and (shared := windows[index - 1].stop - window.start) > 0:
            weight[:shared] *= (np.arange(shared) + 1) / (shared + 1)
        if index + 1 < len(windows) and (shared := window.stop - windows[index + 1].start) > 0:
            weight[-shared:] *= (np.arange(shared)[::-1] + 1) / (shared + 1)
        made.append(weight)
    total = np.zeros(frames)
    for window, weight in zip(windows, made, strict=True):
        total[window] += weight
    return [(weight / total[window]).astype(np.float32) for window, weight in zip(windows, made, strict=True)]


@dataclass(frozen=True)
class _Part:
    """What a window's denoiser sees of the sample."""

    table: SolverTable
    latents: Floats

    def model_input(self, row: int, out: Array) -> Array:
        np.copyto(out, self.latents, casting="same_kind")
        return out


class WindowedDenoiser:
    """Evaluates the denoiser window by window.

    Args:
        make: (conditions, shape of the latents) → what evaluates it on one window.
        component: the denoiser, whose inputs say which conditions have frames.
        conditions: of the whole video.
        shape: of its latents, [batch, channels, frames, height, width].
        windows: see :func:`read_windows`.
    """

    def __init__(
        self,
        make: Callable[[Conditions, tuple[int, ...]], Denoiser],
        component: Component,
        conditions: Conditions,
        shape: tuple[int, ...],
        windows: list[slice],
    ) -> None:
        self._shape, self._windows = shape, windows
        self._weights = [one[:, None, None] for one in weights(windows, shape[2])]
        self._parts = [
            make(_cut(conditions, component, window, shape[2]), (*shape[:2], window.stop - window.start, *shape[3:]))
            for window in windows
        ]
        self._input = np.empty(shape, np.float32)
        self._sums: dict[int, Floats] = {}
        self._stack = ExitStack()

    @property
    def seconds(self) -> float:
        """Spent in the denoiser."""
        return sum(part.seconds for part in self._parts)

    def __enter__(self) -> WindowedDenoiser:
        return self

    def __exit__(self, *exception: object) -> None:
        for part in self._parts:
            part.__exit__(*exception)

    def __call__(self, state: Sampled, row: int) -> tuple[Array, Array | None]:
        """Return ``prediction`` and ``variance`` (``None`` where nothing is learned), valid until the next call."""
        state.model_input(row, out=self._input)
        given: list[bool] = [True, False]
        for window, weight, part in zip(self._windows, self._weights, self._parts, strict=True):
            with part:  # its buffers are the next window's
                outputs = part(_Part(state.table, self._input[:, :, window]), row)
                for index, output in enumerate(outputs):
                    given[index] = output is not None
                    if output is None:
                        continue
                    total = self._sums.setdefault(index, np.zeros(self._shape, np.float32))
                    if window.start == 0:
                        total.fill(0.0)
                    total[:, :, window] += output * weight
        return self._sums[0], self._sums.get(1) if given[1] else None


def _cut(conditions: Conditions, component: Component, window: slice, frames: int) -> Conditions:
    """Return the conditions of a window: those with frames are cut, the others are the whole video's."""

    def cut(arrays: Mapping[str, Array]) -> dict[str, Array]:
        made = {}
        for name, array in arrays.items():
            for index, axis in enumerate(component.input(name).axes):
                if isinstance(axis, Axis) and axis.name == "patch_frames":
                    if array.shape[index] != frames:
                        raise InputError(f"window_frames: {name} of this model cannot be cut into windows")
                    array = array[(slice(None),) * index + (window,)]
            made[name] = array
        return made

    return replace(
        conditions,
        conditional=cut(conditions.conditional),
        unconditional=cut(conditions.unconditional),
        skipping=cut(conditions.skipping),
    )
