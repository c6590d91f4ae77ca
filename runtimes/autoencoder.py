"""Pictures ↔ latents by the bundle's VAE, on borrowed buffers; what is not finite is an error, never a picture."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.runtimes.tiling import assemble, pieces
from dit_deploy.sampling import NoiseSource

__all__ = ["decode", "encode", "tile_of"]

Floats = NDArray[np.float32]

#: Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
_PIXELS_A_DECODE = 1 << 20


def tile_of(vae_tile: object, compression: int) -> int | None:
    """Return the side of a piece in latent pixels, of ``vae_tile`` in pixels; ``None``: the picture is one piece.

    Raises:
        InputError: it is no positive multiple of four latent pixels, so that a quarter of it is none either.
    """
    if vae_tile is None:
        return None
    multiple = 4 * compression
    if isinstance(vae_tile, bool) or not isinstance(vae_tile, (int, np.integer)) or vae_tile < 1 or vae_tile % multiple:
        raise InputError(f"vae_tile: {shown(vae_tile)} came, expected a multiple of {multiple} pixels, or None")
    return int(vae_tile) // compression


def encode(
    pool: BindingPool, images: Floats, shape: tuple[int, ...], source: NoiseSource, tile: int | None = None
) -> tuple[Floats, float]:
    """Return latents of ``shape`` [batch, …] drawn from the posterior of pictures, and the encoder's seconds.

    Args:
        images: [batch or 1, channels, height, width] in 0 … 1.
        source: gives one draw where the encoder has a deviation, none where it does not: for each picture, or for each
            sample where these have seeds of their own.
        tile: latent pixels on a side of a piece; larger pictures go through the encoder piece by piece.

    Raises:
        BackendError: the backend failed, or mean or deviation is not finite.
    """
    encoder = _Half(pool, "images", "the VAE encoder's {} holds")
    height, width = shape[2:]
    if tile is None or max(height, width) <= tile:
        posterior: Mapping[str, Floats] = encoder(images)
    else:
        compression = images.shape[2] // height
        outputs = {spec.name: np.empty((len(images), *shape[1:]), np.float32) for spec in pool.runner.component.outputs}
        # What fades into what comes next are mean and logarithm of the deviation, each over all pieces.
        grid = [list(row) for row in pieces(height, width, tile)]
        made = [
            [encoder(images[:, :, _scaled(rows, compression), _scaled(columns, compression)]) for rows, columns in row]
            for row in grid
        ]
        for name, out in outputs.items():
            blended = ((np.log(part[name]) if name == "std" else part[name] for part in row) for row in made)
            assemble(blended, out, tile)
        posterior = {name: np.exp(out) if name == "std" else out for name, out in outputs.items()}
    mean = np.broadcast_to(posterior["mean"], shape)
    if "std" not in posterior:
        return mean.copy(), encoder.seconds
    drawn = (len(images), *shape[1:]) if source.shared else shape
    return mean + posterior["std"] * source.draw(drawn), encoder.seconds


def decode(pool: BindingPool, latents: Floats, compression: int, tile: int | None = None) -> tuple[Floats, float]:
    """Return pictures [batch, height, width, channels] in 0 … 1, and the decoder's seconds.

    Args:
        tile: latent pixels on a side of a piece; larger latents go through the decoder piece by piece.

    Raises:
        BackendError: the backend failed, or a picture is not finite.
    """
    decoder = _Half(pool, "latents", "the VAE decoder's pictures hold")
    batch, _, height, width = latents.shape
    whole = tile is None or max(height, width) <= tile
    side = (height * width) if whole else tile**2  # type: ignore[operator]
    group = max(1, _PIXELS_A_DECODE // (side * compression**2))
    pictures = []
    for first in range(0, batch, group):
        part = latents[first : first + group]
        if whole:
            images = decoder(part)["images"]
        else:
            assert tile is not None
            channels = pool.runner.component.output("images").axes[1]
            assert isinstance(channels, int)
            rows = (
                (decoder(part[:, :, down, across])["images"] for down, across in row)
                for row in pieces(height, width, tile)
            )
            images = assemble(
                rows,
                np.empty((len(part), channels, height * compression, width * compression), np.float32),
                tile * compression,
            )
        # Only now, as what lies outside 0 … 1 takes part in the blending.
        pictures.append(np.clip(images, 0.0, 1.0).transpose(0, 2, 3, 1))
    return np.ascontiguousarray(np.concatenate(pictures)), decoder.seconds


class _Half:
    """Encoder or decoder, called with arrays."""

    def __init__(self, pool: BindingPool, given: str, what: str) -> None:
        self._pool, self._given, self._what = pool, given, what
        self.seconds = 0.0

    def __call__(self, array: Floats) -> Mapping[str, Floats]:
        spec = self._pool.runner.component.input(self._given)
        multiple = {axis.name: axis.multiple for axis in spec.axes if not isinstance(axis, int)}
        sizes = {
            "batch": len(array),
            "latent_height": array.shape[2] // multiple["latent_height"],
            "latent_width": array.shape[3] // multiple["latent_width"],
        }
        with self._pool.borrow(**sizes) as binding:
            binding.inputs[self._given][:] = array
            started = time.perf_counter()
            binding.run()
            self.seconds += time.perf_counter() - started
            for name, output in binding.outputs.items():
                check_finite(output, self._what.format(name))
            return {name: output.copy() for name, output in binding.outputs.items()}


def _scaled(part: slice, compression: int) -> slice:
    return slice(part.start * compression, part.stop * compression)
