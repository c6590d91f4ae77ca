"""Pictures ↔ latents by the bundle's VAE, on borrowed buffers; what is not finite is an error, never a picture."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from dit_deploy.runtimes.finite import check_finite
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.sampling import NoiseSource

__all__ = ["decode", "encode"]

Floats = NDArray[np.float32]

#: Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
_PIXELS_A_DECODE = 1 << 20


def encode(pool: BindingPool, images: Floats, shape: tuple[int, ...], source: NoiseSource) -> tuple[Floats, float]:
    """Return latents of ``shape`` [batch, …] drawn from the posterior of pictures, and the encoder's seconds.

    Args:
        images: [batch or 1, channels, height, width] in 0 … 1.
        source: gives one draw where the encoder has a deviation, none where it does not.

    Raises:
        BackendError: the backend failed, or mean or deviation is not finite.
    """
    with pool.borrow(batch=len(images), latent_height=shape[2], latent_width=shape[3]) as binding:
        binding.inputs["images"][:] = images
        started = time.perf_counter()
        binding.run()
        seconds = time.perf_counter() - started
        for name, array in binding.outputs.items():
            check_finite(array, f"the VAE encoder's {name} holds")
        mean = np.broadcast_to(binding.outputs["mean"], shape)
        if "std" not in binding.outputs:
            return mean.copy(), seconds
        return mean + binding.outputs["std"] * source.draw(shape), seconds


def decode(pool: BindingPool, latents: Floats, compression: int) -> tuple[Floats, float]:
    """Return pictures [batch, height, width, channels] in 0 … 1, and the decoder's seconds.

    Raises:
        BackendError: the backend failed, or a picture is not finite.
    """
    batch, _, height, width = latents.shape
    group = max(1, _PIXELS_A_DECODE // (height * width * compression**2))
    pictures, seconds = [], 0.0
    for first in range(0, batch, group):
        part = latents[first : first + group]
        with pool.borrow(batch=len(part), latent_height=height, latent_width=width) as binding:
            binding.inputs["latents"][:] = part
            started = time.perf_counter()
            binding.run()
            seconds += time.perf_counter() - started
            check_finite(binding.outputs["images"], "the VAE decoder's pictures hold")
            pictures.append(binding.outputs["images"].transpose(0, 2, 3, 1).copy())
    return np.concatenate(pictures), seconds
