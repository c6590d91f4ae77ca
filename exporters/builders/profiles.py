"""Sizes in pixels, as people say them → the profiles that an engine is built with, from the manifest's axes.

A profile is a range of every free size with the one value it is fastest at. One range over everything is slow
where it matters, so resolutions are planned apart: a tight profile for each, the first being the hot one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dit_deploy.bundle import Axis, Component, Manifest, shape_of
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.errors import InputError

__all__ = [
    "DEFAULT_MAX_BATCH",
    "DEFAULT_MAX_PROFILES",
    "Extent",
    "Shapes",
    "input_shapes",
    "parse_extent",
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


@dataclass(frozen=True, order=True)
class Extent:
    """So many pictures of a size in pixels: ``Extent(256, 512, 2)`` is two pictures 256 high and 512 wide.

    ``batch`` is ``None`` where it was left open.
    """

    height: int
    width: int
    batch: int | None = None

    def __str__(self) -> str:
        return "x".join(str(size) for size in (self.batch, self.height, self.width) if size is not None)


def parse_extent(text: str, option: str = "resolution") -> Extent:
    """Read ``BxHxW`` or ``HxW``, in pictures and pixels; :class:`InputError`, naming ``option``, for anything else."""
    found = re.fullmatch(r"(?:([1-9][0-9]{0,5})x)?([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text.strip().lower())
    if found is None:
        raise InputError(
            f"{option}: {text!r} came, expected BxHxW or HxW, pictures and pixels, such as 2x256x256 or 256x256"
        )
    batch, height, width = found.groups()
    return Extent(int(height), int(width), None if batch is None else int(batch))


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
    best = optimum or _clamped(manifest, minimum, maximum)
    low, high = minimum or Extent(best.height, best.width), maximum or Extent(best.height, best.width)
    batches = _batches(low.batch, best.batch, high.batch)
    _ordered("height", low.height, best.height, high.height)
    _ordered("width", low.width, best.width, high.width)
    return _profiles(manifest, [_Box.of(low, best, high)], batches, batched_guidance, others or {}, texts or {})


def plan_profiles(
    manifest: Manifest,
    resolutions: Sequence[Extent],
    *,
    batches: tuple[int, int, int] = (1, 1, DEFAULT_MAX_BATCH),
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
    boxes = [_Box.of(one, one, one) for one in dict.fromkeys(Extent(one.height, one.width) for one in resolutions)]
    boxes = _merge(boxes, limit - (fallback is not None))
    if fallback is not None:
        low, high = fallback
        for name, a, b in (("height", low.height, high.height), ("width", low.width, high.width)):
            _ordered(f"fallback {name}", a, a, b)
        hot = resolutions[0]
        best = Extent(
            min(max(hot.height, low.height), high.height),
            min(max(hot.width, low.width), high.width),
        )
        boxes.append(_Box.of(low, best, high))
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
    """A range of heights and widths in pixels, each as (minimum, optimum, maximum)."""

    height: tuple[int, int, int]
    width: tuple[int, int, int]

    @classmethod
    def of(cls, low: Extent, best: Extent, high: Extent) -> _Box:
        return cls((low.height, best.height, high.height), (low.width, best.width, high.width))

    def __or__(self, other: _Box) -> _Box:
        """Hold both; the optimum stays this one's."""
        return _Box(_union(self.height, other.height), _union(self.width, other.width))

    def width_in_octaves(self) -> float:
        return math.log2(self.height[2] / self.height[0]) + math.log2(self.width[2] / self.width[0])


def _union(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
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


def _clamped(manifest: Manifest, minimum: Extent | None, maximum: Extent | None) -> Extent:
    """Return the training size, moved into the range that is given."""
    latents = manifest.latents
    height, width = latents.height * latents.spatial_compression, latents.width * latents.spatial_compression
    if minimum is not None:
        height, width = max(height, minimum.height), max(width, minimum.width)
    if maximum is not None:
        height, width = min(height, maximum.height), min(width, maximum.width)
    return Extent(height, width)


def _batches(low: int | None, best: int | None, high: int | None) -> tuple[int, int, int]:
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
    batches: tuple[int, int, int],
    batched_guidance: bool,
    others: Mapping[str, SizeRange],
    texts: Mapping[str, Mapping[str, SizeRange]],
) -> dict[str, tuple[Profile, ...]]:
    latents = manifest.latents
    for box in boxes:
        for name, sizes in (("height", box.height), ("width", box.width)):
            _multiples(name, sizes, latents.patch_size * latents.spatial_compression)
    found: dict[str, tuple[Profile, ...]] = {}
    for component_name, component in manifest.components.items():
        doubled = component_name == "denoiser" and batched_guidance and manifest.guidance.kind == "classifier_free"
        few, usual, many = batches
        batch = (few, 2 * usual, 2 * many) if doubled else batches
        given = {**others, **texts.get(component_name, {})}
        found[component_name] = tuple(_profile(manifest, component, box, batch, given) for box in boxes)
    return found


def _profile(
    manifest: Manifest, component: Component, box: _Box, batch: tuple[int, int, int], others: Mapping[str, SizeRange]
) -> Profile:
    latents = manifest.latents
    patch, latent = latents.patch_size * latents.spatial_compression, latents.spatial_compression
    known = {"batch": batch}
    for unit, pixels in (("patch", patch), ("latent", latent)):
        known[f"{unit}_height"] = _divided(box.height, pixels)
        known[f"{unit}_width"] = _divided(box.width, pixels)
    sizes: dict[str, SizeRange] = {}
    for spec in component.inputs:
        for axis in spec.axes:
            if isinstance(axis, int) or axis.name in sizes:
                continue
            if axis.name in others:
                sizes[axis.name] = others[axis.name]
            elif axis.name in known:
                low, best, high = known[axis.name]
                sizes[axis.name] = SizeRange(minimum=low, optimum=best, maximum=high)
            else:
                raise InputError(f"{component.path}: no range is given for {axis.name} of {spec.name}")
            _within(component, axis, sizes[axis.name])
    return Profile(sizes=sizes)


def _divided(sizes: tuple[int, int, int], unit: int) -> tuple[int, int, int]:
    return sizes[0] // unit, sizes[1] // unit, sizes[2] // unit


def _multiples(name: str, sizes: tuple[int, int, int], multiple: int) -> None:
    for size in sizes:
        if size % multiple:
            nearest = max(1, round(size / multiple)) * multiple
            raise InputError(f"{name}: {size} came, expected a multiple of {multiple} pixels; the nearest is {nearest}")


def _within(component: Component, axis: Axis, size: SizeRange) -> None:
    if size.minimum < axis.minimum or (axis.maximum is not None and size.maximum > axis.maximum):
        most = "∞" if axis.maximum is None else axis.maximum
        raise InputError(
            f"{component.path}: {axis.name} {size.minimum} … {size.maximum} came, "
            f"expected sizes in {axis.minimum} … {most}, which is what the model takes"
        )
