"""Pictures and videos ↔ latents by the bundle's VAE, on borrowed buffers; what is not finite is an error.

A bundle of videos may have a VAE of pictures, which then takes frame by frame (Latte).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Axis, Component, Manifest, shape_of
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.runtimes.tiling import Pieces, assemble, assemble_frames, grid, square, times
from dit_deploy.sampling import NoiseSource

__all__ = ["Compression", "decode", "decoder_inputs", "encode", "pictures_at_once", "pieces_of", "read_decoding"]

Floats = NDArray[np.float32]
#: A free size of the VAE's graphs → what of it a piece has.
Place = Mapping[str, slice]
#: Called with how many pieces are done, and of how many.
Advance = Callable[[int, int], None]

#: Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
_PIXELS_A_DECODE = 1 << 20


class Compression(NamedTuple):
    """How many pixels, and pictures after the first, a latent pixel and a latent frame stand for."""

    space: int
    time: int = 1

    @classmethod
    def of(cls, manifest: Manifest) -> Compression:
        """Return the compression of a bundle's latents."""
        return cls(manifest.latents.spatial_compression, manifest.latents.temporal_compression)


_LATENTS = Compression(1)
_WHOLE = Pieces()


def pieces_of(vae_tile: object, manifest: Manifest) -> Pieces:
    """Return the pieces that ``vae_tile`` means: pixels on a side, ``"model"`` for the family's own, ``None`` for none.

    Raises:
        InputError: it is no positive multiple of four latent pixels, so that a quarter of it is none either; or the
            family has no pieces of its own.
    """
    tiling, compression = manifest.tiling, manifest.latents.spatial_compression
    always = Pieces.of(tiling, in_space=False) if tiling is not None and tiling.always_in_time else _WHOLE
    if vae_tile is None:
        return always
    multiple = 4 * compression
    if vae_tile == "model":
        if tiling is None:
            raise InputError(
                f'vae_tile: "model" came, but this model has no pieces of its own; give a multiple of {multiple} pixels'
            )
        return Pieces.of(tiling)
    if isinstance(vae_tile, bool) or not isinstance(vae_tile, (int, np.integer)) or vae_tile < 1 or vae_tile % multiple:
        raise InputError(f"vae_tile: {shown(vae_tile)} came, expected a multiple of {multiple} pixels, or None")
    return square(int(vae_tile) // compression, always.frames)


def pictures_at_once(pixels: int) -> int:
    """Return how many samples of so many pixels, over all frames that the decoder sees, are decoded at once."""
    return max(1, _PIXELS_A_DECODE // pixels)


def encode(
    pool: BindingPool,
    images: Floats,
    shape: tuple[int, ...],
    source: NoiseSource,
    pieces: Pieces = _WHOLE,
    compression: Compression | None = None,
) -> tuple[Floats, float]:
    """Return latents of ``shape`` [batch, channels, …] drawn from the posterior of pictures, and the encoder's seconds.

    Args:
        images: [batch or 1, channels, [frames,] height, width] in 0 … 1.
        source: gives one draw where the encoder has a deviation, none where it does not: for each picture, or for each
            sample where these have seeds of their own.
        pieces: what larger pictures are cut into.

    Raises:
        BackendError: the backend failed, or mean or deviation is not finite.
    """
    compression = compression or Compression(images.shape[-1] // shape[-1])
    encoder = _Half(pool, "images", "the VAE encoder's {} holds")
    given = _by_frame(images) if encoder.of_pictures else images
    size = (*shape[2:-2], *shape[-2:]) if not encoder.of_pictures else shape[-2:]
    if pieces.cuts(size):
        names = [spec.name for spec in pool.runner.component.outputs]

        def logarithms(part: Floats, place: Place) -> Floats:
            made = encoder(part, place)
            return np.concatenate([np.log(made[name]) if name == "std" else made[name] for name in names], axis=1)

        blended = np.split(_through(logarithms, given, size, pieces, compression, _LATENTS), len(names), axis=1)
        posterior = {n: np.exp(array) if n == "std" else array for n, array in zip(names, blended, strict=True)}
    else:
        posterior = dict(encoder(given, {}))
    if encoder.of_pictures and images.ndim == 5:
        posterior = {
            name: np.moveaxis(array.reshape(len(images), -1, *array.shape[1:]), 1, 2)
            for name, array in posterior.items()
        }
    mean = np.broadcast_to(posterior["mean"], shape)
    if "std" not in posterior:
        return mean.copy(), encoder.seconds
    drawn = (len(images), *shape[1:]) if source.shared else shape
    return mean + posterior["std"] * source.draw(drawn), encoder.seconds


def read_decoding(
    manifest: Manifest, decode_timestep: float | None = None, decode_noise_scale: float | None = None
) -> dict[str, float]:
    """Return the numbers that a decoder takes which removes noise itself (LTX-Video), by name.

    Args:
        decode_timestep, decode_noise_scale: of 0 … 1; 0 by default, and the timestep.

    Raises:
        InputError: a number came that is none, or that the decoder does not take.
    """
    timestep = 0.0 if decode_timestep is None else decode_timestep
    numbers = {
        "decode_timestep": timestep,
        "decode_noise_scale": timestep if decode_noise_scale is None else decode_noise_scale,
    }
    decoder = manifest.components.get("vae_decoder")
    declared = {spec.name for spec in decoder.inputs} if decoder is not None else set()
    for name, given in (("decode_timestep", decode_timestep), ("decode_noise_scale", decode_noise_scale)):
        if given is None:
            continue
        if name not in declared:
            raise InputError(f"{name}: this bundle's VAE decoder takes none")
        if isinstance(given, bool) or not isinstance(given, (int, float, np.number)) or not 0 <= given <= 1:
            raise InputError(f"{name}: {shown(given)} came, a number of 0 to 1 was expected")
    return {name: float(number) for name, number in numbers.items() if name in declared}


def decoder_inputs(
    decoder: Component, shape: tuple[int, ...], source: NoiseSource, numbers: Mapping[str, float] | None = None
) -> dict[str, Floats]:
    """Return what a decoder takes beside latents of ``shape``: noise, and ``numbers``, see :func:`read_decoding`; or 0.

    Inputs whose name begins with ``noise`` are standard normal, drawn in the order of their declaration.
    """
    sizes: dict[str, int] = {}
    for axis, size in zip(decoder.input("latents").axes, shape, strict=False):
        if isinstance(axis, Axis) and (free := axis.free(size)) is not None:
            sizes[axis.name] = free
    made: dict[str, Floats] = {}
    for spec in decoder.inputs:
        if spec.name.startswith("noise"):
            draw = source.draw if "batch" in spec.axis_names() else source.draw_for_all
            made[spec.name] = draw(shape_of(spec, sizes))
        elif spec.name in ("decode_timestep", "decode_noise_scale"):
            made[spec.name] = np.full(shape[0], (numbers or {}).get(spec.name, 0.0), np.float32)
    return made


def decode(
    pool: BindingPool,
    latents: Floats,
    compression: Compression,
    pieces: Pieces = _WHOLE,
    advance: Advance | None = None,
    inputs: Mapping[str, Floats] | None = None,
) -> tuple[Floats, float]:
    """Return pictures [batch, [frames,] height, width, channels] in 0 … 1, and the decoder's seconds.

    Args:
        pieces: what larger latents are cut into.
        advance: called after each piece.
        inputs: what the decoder takes beside the latents, whole; see :func:`decoder_inputs`.

    Raises:
        BackendError: the backend failed, or a picture is not finite.
    """
    decoder = _Half(pool, "latents", "the VAE decoder's pictures hold", inputs)
    given = _by_frame(latents) if decoder.of_pictures else latents
    size = given.shape[2:]
    whole_time = compression.time if len(size) == 3 else 1
    group = pieces.samples or pictures_at_once(pieces.largest(size) * compression.space**2 * whole_time)
    groups = range(0, len(given), group)
    if advance is not None:
        decoder.tell(advance, len(groups) * pieces.count(size))
    pictures = []
    for first in groups:
        images = _through(
            lambda part, place: decoder(part, place)["images"],
            given[first : first + group],
            size,
            pieces,
            _LATENTS,
            compression,
            {"batch": slice(first, first + group)},
        )
        # Only now, as what lies outside 0 … 1 takes part in the blending.
        pictures.append(np.moveaxis(np.clip(images, 0.0, 1.0), 1, -1))
    made = np.ascontiguousarray(np.concatenate(pictures))
    if decoder.of_pictures and latents.ndim == 5:
        made = made.reshape(len(latents), -1, *made.shape[1:])
    return made, decoder.seconds


def _by_frame(array: Floats) -> Floats:
    """Return [batch, channels, frames, height, width] as [batch · frames, channels, height, width]; pictures as they
    are.
    """
    return array if array.ndim == 4 else np.moveaxis(array, 2, 1).reshape(-1, array.shape[1], *array.shape[3:])


def _through(
    call: Callable[[Floats, Place], Floats],
    array: Floats,
    size: tuple[int, ...],
    pieces: Pieces,
    given: Compression,
    made: Compression,
    place: Place | None = None,
) -> Floats:
    """Send ``array`` through ``call`` in pieces.

    Args:
        size: of the latents, [frames,] height, width.
        given, made: units of ``array`` and of what ``call`` returns: one of them is the latents'.
        place: what ``array`` is of the whole, where it is not all.
    """
    place = place or {}
    if len(size) == 3 and pieces.frames is not None and pieces.cuts_time(size[0]):
        space = Pieces(pieces.height, pieces.width)
        parts = (
            _through(
                call,
                array[:, :, _frames(part, given)],
                (part.stop - part.start, *size[1:]),
                space,
                given,
                made,
                {**place, "latent_frames": part},
            )
            for part in times(size[0], pieces.frames)
        )
        return assemble_frames(parts, 1 + (size[0] - 1) * made.time, pieces.frames.scaled(made.time))
    height, width = size[-2:]
    if not pieces.cuts_space(height, width):
        return call(array, place)
    rows = (
        (
            call(
                array[..., _pixels(down, given), _pixels(across, given)],
                {**place, "latent_height": down, "latent_width": across},
            )
            for down, across in row
        )
        for row in grid(height, width, pieces)
    )
    spans = [span and span.scaled(made.space) for span in (pieces.height, pieces.width)]
    return assemble(rows, (height * made.space, width * made.space), *spans)


def _pixels(part: slice, unit: Compression) -> slice:
    return slice(part.start * unit.space, part.stop * unit.space)


def _frames(part: slice, unit: Compression) -> slice:
    return slice(part.start * unit.time, (part.stop - 1) * unit.time + 1)


class _Half:
    """Encoder or decoder, called with arrays."""

    def __init__(self, pool: BindingPool, given: str, what: str, inputs: Mapping[str, Floats] | None = None) -> None:
        self._pool, self._given, self._what, self._inputs = pool, given, what, inputs or {}
        self._component = pool.runner.component
        self._axes = self._component.input(given).axes
        self._advance: Advance | None = None
        self._calls = self._done = 0
        self.of_pictures = len(self._axes) == 4
        self.seconds = 0.0

    def tell(self, advance: Advance, calls: int) -> None:
        """Call ``advance`` after each of ``calls`` calls to come."""
        self._advance, self._calls = advance, calls

    def __call__(self, array: Floats, place: Place) -> Mapping[str, Floats]:
        sizes: dict[str, int] = {}
        for axis, size in zip(self._axes, array.shape, strict=True):
            if not isinstance(axis, int):
                free = axis.free(size)
                if free is None:
                    raise InputError(f"the VAE's {self._given}: {axis.name} of {size} came, which it does not take")
                sizes[axis.name] = free
        with self._pool.borrow(**sizes) as binding:
            binding.inputs[self._given][:] = array
            for name, whole in self._inputs.items():
                axes = self._component.input(name).axes
                part = tuple(
                    slice(None) if isinstance(axis, int) else place.get(axis.name, slice(None)) for axis in axes
                )
                binding.inputs[name][:] = whole[part]
            started = time.perf_counter()
            binding.run()
            self.seconds += time.perf_counter() - started
            self._done += 1
            if self._advance is not None:
                self._advance(self._done, self._calls)
            for name, output in binding.outputs.items():
                check_finite(output, self._what.format(name))
            return {name: output.copy() for name, output in binding.outputs.items()}
