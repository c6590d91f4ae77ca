"""Sizes in pixels, as people say them → the profiles that an engine is built with, from the manifest's axes.

A profile is a range of every free size with the one value it is fastest at. One range over everything is slow
where it matters, so resolutions are planned apart: a tight profile for each, the first being the hot one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dit_deploy.bundle import Component, Manifest, shape_of
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.errors import InputError
from dit_deploy.exporters.builders.component_profiles import Sizes, component_profile
from dit_deploy.exporters.builders.extents import Ends, Extent, usual_extent, with_frames, within
from dit_deploy.exporters.component_roles import denoisers

__all__ = [
    "DEFAULT_MAX_BATCH",
    "DEFAULT_MAX_PROFILES",
    "Shapes",
    "input_shapes",
    "plan_profiles",
    "range_profiles",
]

#: Pictures in one batch that an engine takes where nobody says how many. What a batch needs of memory is
#: reserved for the largest, so this is small.
DEFAULT_MAX_BATCH = 4

#: Profiles that a plan has at most: each costs building time and a context's memory.
DEFAULT_MAX_PROFILES = 4

#: Minimum, optimum and maximum shape of one input.
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def range_profiles(
    manifest: Manifest,
    *,
    minimum: Extent | None = None,
    optimum: Extent | None = None,
    maximum: Extent | None = None,
    batched_guidance: bool = True,
    others: Mapping[str, SizeRange] | None = None,
    texts: Mapping[str, Mapping[str, SizeRange]] | None = None,
) -> dict[str, tuple[Profile, ...]]:
    """Return one profile for each component of the bundle: everything from ``minimum`` to ``maximum``.

    An end of the range that is left out is the optimum; an optimum that is left out is the training size, or what
    of the range is nearest to it. Batches that are left open: 1 … :data:`DEFAULT_MAX_BATCH`, fastest at 1, where all
    three are; else the minimum is 1, the optimum the minimum, and the maximum the optimum.

    Args:
        batched_guidance: conditional and unconditional halves run as one batch of the denoiser, as pipelines do, where
            the family has classifier-free guidance: its batch is then fastest at twice the pictures, and half of
            that, without guidance, is in the range too.
        others: ranges of free sizes that neither batch nor resolution decides.
        texts: for each component those that prompts decide; see :func:`~dit_deploy.exporters.builders.text_sizes`.

    Raises:
        InputError: a size is no multiple of the model's, the ends are out of order, or beyond what an axis takes.
    """
    nearest = within(usual_extent(manifest), minimum, maximum)
    best = with_frames(manifest, optimum or nearest, nearest)
    low, high = (with_frames(manifest, one or replace(best, batch=None), best) for one in (minimum, maximum))
    batches = _batches(low.batch, best.batch, high.batch)
    _ordered("height", low.height, best.height, high.height)
    _ordered("width", low.width, best.width, high.width)
    _ordered("frames", low.frames or 1, best.frames or 1, high.frames or 1)
    return _profiles(manifest, [_Box.of(low, best, high)], batches, batched_guidance, others or {}, texts or {})


def plan_profiles(
    manifest: Manifest,
    resolutions: Sequence[Extent],
    *,
    batches: Ends = (1, 1, DEFAULT_MAX_BATCH),
    limit: int = DEFAULT_MAX_PROFILES,
    fallback: tuple[Extent, Extent] | None = None,
    batched_guidance: bool = True,
    others: Mapping[str, SizeRange] | None = None,
    texts: Mapping[str, Mapping[str, SizeRange]] | None = None,
) -> dict[str, tuple[Profile, ...]]:
    """Return the profiles of each component for a list of resolutions, the hot one first.

    Each resolution gets a profile that holds it alone, so that the widest costs the hot one nothing. Where that
    would be more than ``limit``, those most alike are merged, the hot one last; a merged profile is fastest at the
    resolution that stands first in the list.

    Args:
        resolutions: heights and widths; a batch in one of them stretches ``batches`` to hold it.
        batches: fewest, usual and most pictures at once.
        limit: profiles at most, the fallback's included.
        fallback: smallest and largest size of one more profile that holds everything between; slower, but no
            resolution in its range is refused.
        batched_guidance, others, texts: as for :func:`range_profiles`.

    Raises:
        InputError: there is no resolution, or one that the model cannot take, or ``limit`` is below 1.
    """
    if not resolutions:
        raise InputError("resolutions: none came, expected one at least, such as 256x256")
    if limit < 1 + (fallback is not None):
        raise InputError(f"limit: {limit} came, expected {1 + (fallback is not None)} or more profiles")
    asked = [one.batch for one in resolutions if one.batch is not None]
    few, usual, many = (min([batches[0], *asked]), asked[0] if asked else batches[1], max([batches[2], *asked]))
    trained = usual_extent(manifest)
    extents = [replace(with_frames(manifest, one, trained), batch=None) for one in resolutions]
    boxes = [_Box.of(one, one, one) for one in dict.fromkeys(extents)]
    boxes = _merge(boxes, limit - (fallback is not None))
    if fallback is not None:
        hot = extents[0]
        low, high = (with_frames(manifest, one, hot) for one in fallback)
        ends = (("height", low.height, high.height), ("width", low.width, high.width))
        for name, a, b in (*ends, ("frames", low.frames or 1, high.frames or 1)):
            _ordered(f"fallback {name}", a, a, b)
        boxes.append(_Box.of(low, within(hot, low, high), high))
    return _profiles(manifest, boxes, _batches(few, usual, many), batched_guidance, others or {}, texts or {})


def input_shapes(component: Component, profile: Profile) -> dict[str, Shapes]:
    """Return each input's minimum, optimum and maximum shape.

    Raises :class:`InputError` where the profile lacks a free size of the component or goes beyond an axis.
    """
    ends = [
        {name: getattr(one, end) for name, one in profile.sizes.items()} for end in ("minimum", "optimum", "maximum")
    ]
    return {
        spec.name: (shape_of(spec, ends[0]), shape_of(spec, ends[1]), shape_of(spec, ends[2]))
        for spec in component.inputs
    }


@dataclass(frozen=True)
class _Box:
    """A range of heights and widths in pixels and of frames (1 of pictures), each as (minimum, optimum, maximum)."""

    height: Ends
    width: Ends
    frames: Ends = (1, 1, 1)

    @classmethod
    def of(cls, low: Extent, best: Extent, high: Extent) -> _Box:
        return cls(
            (low.height, best.height, high.height),
            (low.width, best.width, high.width),
            (low.frames or 1, best.frames or 1, high.frames or 1),
        )

    def __or__(self, other: _Box) -> _Box:
        """Hold both; the optimum stays this one's."""
        return _Box(
            _union(self.height, other.height), _union(self.width, other.width), _union(self.frames, other.frames)
        )

    def width_in_octaves(self) -> float:
        return sum(math.log2(one[2] / one[0]) for one in (self.height, self.width, self.frames))


def _union(a: Ends, b: Ends) -> Ends:
    return min(a[0], b[0]), a[1], max(a[2], b[2])


def _merge(boxes: list[_Box], limit: int) -> list[_Box]:
    """Merge the pair whose union is narrowest until ``limit`` are left. The first, the hot one, is merged last."""
    boxes = list(boxes)
    while len(boxes) > limit:
        first = 1 if limit > 1 else 0
        pairs = [(i, j) for i in range(first, len(boxes)) for j in range(i + 1, len(boxes))]
        i, j = min(pairs, key=lambda pair: ((boxes[pair[0]] | boxes[pair[1]]).width_in_octaves(), pair))
        boxes[i] = boxes[i] | boxes.pop(j)
    return boxes


def _batches(low: int | None, best: int | None, high: int | None) -> Ends:
    """Fill in the batches that were left open, and hold them in order."""
    if low is best is high is None:
        return 1, 1, DEFAULT_MAX_BATCH
    fewest = low or 1
    usual = best or fewest
    most = high or usual
    _ordered("batch", fewest, usual, most)
    return fewest, usual, most


def _ordered(what: str, low: int, best: int, high: int) -> None:
    if not low <= best <= high:
        raise InputError(
            f"{what}: minimum {low}, optimum {best}, maximum {high} came, expected minimum ≤ optimum ≤ maximum"
        )


def _profiles(
    manifest: Manifest,
    boxes: Sequence[_Box],
    batches: Ends,
    batched_guidance: bool,
    others: Mapping[str, SizeRange],
    texts: Mapping[str, Mapping[str, SizeRange]],
) -> dict[str, tuple[Profile, ...]]:
    latents = manifest.latents
    for box in boxes:
        for name, sizes in (("height", box.height), ("width", box.width)):
            _multiples(name, sizes, latents.patch_size * latents.spatial_compression)
    guided = batched_guidance and manifest.guidance.kind == "classifier_free"
    few, usual, many = batches
    doubled = (few, 2 * usual, 2 * many)
    return {
        name: tuple(
            component_profile(
                manifest,
                name,
                Sizes(
                    doubled if guided and name in denoisers(manifest) else batches, box.height, box.width, box.frames
                ),
                {**others, **texts.get(name, {})},
            )
            for box in boxes
        )
        for name in manifest.components
    }


def _multiples(name: str, sizes: Ends, multiple: int) -> None:
    for size in sizes:
        if size % multiple:
            nearest = max(1, round(size / multiple)) * multiple
            raise InputError(f"{name}: {size} came, expected a multiple of {multiple} pixels; the nearest is {nearest}")
