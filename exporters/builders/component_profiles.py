"""Ranges of pictures, frames and pixels → the range of each free size of one component, by its axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from dit_deploy.bundle import Axis, Component, Manifest, TensorSpec
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.errors import InputError
from dit_deploy.exporters.builders.extents import Ends
from dit_deploy.runtimes.autoencoder import pictures_at_once, pieces_of
from dit_deploy.runtimes.frames import latent_frames, pixel_frames

__all__ = ["Sizes", "component_profile"]

#: Inputs whose frames are pictures; those of all others are latents.
_PICTURES = ("images", "given")


@dataclass(frozen=True)
class Sizes:
    """What a component is given: ``batch`` samples of ``frames`` pictures (1: no video) of ``height`` × ``width``."""

    batch: Ends
    height: Ends
    width: Ends
    frames: Ends = (1, 1, 1)


def component_profile(manifest: Manifest, name: str, sizes: Sizes, others: Mapping[str, SizeRange]) -> Profile:
    """Return the ranges of the free sizes of the component ``name``.

    Args:
        others: ranges that batch, frames and resolution do not decide, by the free size's name.

    Raises:
        InputError: a free size is none of these, or a range is beyond what its axis takes.
    """
    component = manifest.components[name]
    if manifest.latents.frames is not None and name in ("vae_encoder", "vae_decoder"):
        sizes = _of_autoencoder(manifest, name, sizes)
    found: dict[str, SizeRange] = {}
    for spec in component.inputs:
        for axis in spec.axes:
            if isinstance(axis, int) or axis.name in found:
                continue
            if axis.name in others:
                found[axis.name] = others[axis.name]
            else:
                low, best, high = _ends(manifest, component, spec, axis, sizes)
                found[axis.name] = SizeRange(minimum=low, optimum=best, maximum=high)
            _within(component, axis, found[axis.name])
    return Profile(sizes=found)


def _of_autoencoder(manifest: Manifest, name: str, sizes: Sizes) -> Sizes:
    """Return what a part of the VAE is given at once, of videos.

    A VAE of pictures is given frames of all samples, a decoder as many as go together; one that always cuts in time,
    pieces.
    """
    if len(manifest.components[name].inputs[0].axes) == 4:
        _, usual, many = (batch * frames for batch, frames in zip(sizes.batch, sizes.frames, strict=True))
        if name == "vae_decoder":
            most = [pictures_at_once(height * width) for height, width in zip(sizes.height, sizes.width, strict=True)]
            usual, many = min(usual, most[1]), min(many, most[0])
        return replace(sizes, batch=(1, usual, many), frames=(1, 1, 1))
    piece = pieces_of(None, manifest).frames
    if piece is None or (latent_frames(manifest, sizes.frames[2]) or 1) <= piece.tile:
        return sizes
    longest = pixel_frames(manifest, piece.tile + 1)
    return replace(sizes, frames=(1, min(sizes.frames[1], longest), min(sizes.frames[2], longest)))


def _ends(manifest: Manifest, component: Component, spec: TensorSpec, axis: Axis, sizes: Sizes) -> Ends:
    """Return minimum, optimum and maximum of one free size."""
    latents = manifest.latents
    pixels = {"latent": latents.spatial_compression, "patch": latents.spatial_compression * latents.patch_size}
    kind, _, side = axis.name.rpartition("_")
    if axis.name == "batch":
        return sizes.batch
    if kind in pixels and side in ("height", "width"):
        unit = pixels[kind]
        return _each(lambda size: size // unit, sizes.height if side == "height" else sizes.width)
    if kind in pixels and side == "frames" and latents.frames is not None:
        of_pictures = spec.name in _PICTURES
        frames = sizes.frames if of_pictures else _each(lambda size: latent_frames(manifest, size) or 1, sizes.frames)
        return _each(lambda size: (size - axis.offset) // axis.multiple, frames)
    if axis.name == "pictures":  # the first, and perhaps the last, that a video begins and ends with
        return 1, 1, axis.maximum or 2
    raise InputError(f"{component.path}: no range is given for {axis.name} of {spec.name}")


def _each(change: Callable[[int], int], ends: Ends) -> Ends:
    return change(ends[0]), change(ends[1]), change(ends[2])


def _within(component: Component, axis: Axis, size: SizeRange) -> None:
    if size.minimum < axis.minimum or (axis.maximum is not None and size.maximum > axis.maximum):
        most = "∞" if axis.maximum is None else axis.maximum
        raise InputError(
            f"{component.path}: {axis.name} {size.minimum} … {size.maximum} came, "
            f"expected sizes in {axis.minimum} … {most}, which is what the model takes"
        )
