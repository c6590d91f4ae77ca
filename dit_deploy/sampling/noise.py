"""Standard-normal noise that equals ``torch.randn`` on a CPU generator, without torch.

torch's CPU generator is MT19937 (Matsumoto & Nishimura 1998) seeded with ``init_genrand``. A float32 draw takes
one of two paths, by its number of elements:

- 16 or more: every 32-bit word keeps its low 24 bits, times 2⁻²⁴. In each block of 16 the first eight are u₁ and
  the last eight u₂; √(−2 ln(1−u₁)) times cos 2πu₂ fills the first eight and times sin 2πu₂ the last eight. Where
  the length is no multiple of 16, the last 16 elements are made again from 16 new words.
- fewer than 16: one Box–Muller pair at a time in float64. A uniform is 53 bits of two words, high word first; the
  cosine is returned, the sine is kept in the generator for the next draw that takes this path, however many
  longer draws lie between.

A seed gives the same bits on every machine, and in the C++ runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError
from dit_deploy.sampling.elementary import logarithm, sine_cosine

__all__ = ["NoiseSource", "noise"]

Array = NDArray[np.float32]

_BLOCK = 16
_HALF = 8
_CHUNK = 1024  # blocks
_SEED_LIMIT = 2**64


class _Generator:
    """The state of one ``torch.Generator("cpu")``: the word stream and the kept half of a scalar pair."""

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise InputError(f"seed: {seed!r} came, an integer was expected")
        if not 0 <= seed < _SEED_LIMIT:
            raise InputError(f"seed: {seed} came, 0 <= seed < 2**64 was expected")
        # torch takes 64 bits and hands the low 32 to init_genrand; RandomState's legacy seeding is init_genrand.
        self._words = np.random.RandomState(int(seed) & 0xFFFFFFFF)
        self._kept: float | None = None

    def draw(self, count: int) -> Array:
        """Return the next ``count`` standard normals, float32 [count]."""
        return self._blocks(count) if count >= _BLOCK else self._scalars(count)

    def _take(self, count: int) -> NDArray[np.uint32]:
        return self._words.randint(0, 2**32, size=count, dtype=np.uint32)

    def _blocks(self, count: int) -> Array:
        words = self._take(count if count % _BLOCK == 0 else count + _BLOCK)
        words &= np.uint32(0xFFFFFF)
        uniform = words.astype(np.float32)  # exact: 24 bits
        uniform *= np.float32(2.0**-24)
        whole = count // _BLOCK * _BLOCK
        out = np.empty(count, np.float32)
        _box_muller(uniform[:whole].reshape(-1, 2, _HALF), out[:whole].reshape(-1, 2, _HALF))
        if whole < count:
            # The words of the incomplete block are used up, and its elements made again from the 16 that follow.
            _box_muller(uniform[count:].reshape(1, 2, _HALF), out[count - _BLOCK :].reshape(1, 2, _HALF))
        return out

    def _scalars(self, count: int) -> Array:
        fresh = count - (self._kept is not None)
        pairs = (max(fresh, 0) + 1) // 2
        words = self._take(4 * pairs).astype(np.uint64).reshape(pairs, 2, 2)
        bits = (words[..., 0] << np.uint64(32) | words[..., 1]) & np.uint64(2**53 - 1)
        uniform = bits.astype(np.float64) * 2.0**-53
        radius = np.sqrt(-2.0 * np.log1p(-uniform[:, 1]))
        angle = 2.0 * np.pi * uniform[:, 0]
        values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()
        if self._kept is not None and count > 0:
            values = np.concatenate([[self._kept], values])
            self._kept = None
        if values.size > count:
            self._kept = float(values[count])
        return values[:count].astype(np.float32)


def _box_muller(uniform: Array, out: Array) -> None:
    """Fill ``out`` [blocks, 2, 8] with normals from ``uniform`` [blocks, (u₁, u₂), 8]."""
    for first in range(0, len(uniform), _CHUNK):  # so that what is in the making stays in the cache
        part = uniform[first : first + _CHUNK]
        radius = logarithm(np.float32(1.0) - part[:, 0])  # of what is in (0, 1]
        radius *= np.float32(-2.0)
        np.sqrt(radius, out=radius)
        sine, cosine = sine_cosine(np.float32(2.0 * np.pi) * part[:, 1])
        np.multiply(radius, cosine, out=out[first : first + _CHUNK, 0])
        np.multiply(radius, sine, out=out[first : first + _CHUNK, 1])


def noise(seed: int, shape: Sequence[int]) -> Array:
    """Return ``torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))`` as a float32 array.

    Differences from torch are below 1e-6 (its logarithm and cosine round differently from machine to machine).

    Args:
        seed: 0 ≤ seed < 2**64. As in torch, only the low 32 bits have an effect.
        shape: any shape, in elements.

    Raises:
        InputError: the seed or the shape is out of range.
    """
    return NoiseSource(seed).draw(shape)


class NoiseSource:
    """The noise of one generation: successive draws continue the stream as diffusers' ``randn_tensor`` does.

    Args:
        seed: one integer, one generator for the whole batch; or a sequence, one generator a sample, each of
            which draws ``(1, *shape[1:])``. A sequence of one counts as that integer, as in diffusers.

    Raises:
        InputError: a seed is no integer with 0 ≤ seed < 2**64, or the sequence is empty.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        seeds = list(seed) if isinstance(seed, (Sequence, np.ndarray)) else [seed]
        if not seeds:
            raise InputError("seed: an empty list came, one integer or one a sample was expected")
        self._generators = [_Generator(value) for value in seeds]

    @property
    def shared(self) -> bool:
        """Whether all samples draw from one generator."""
        return len(self._generators) == 1

    def draw(self, shape: Sequence[int]) -> Array:
        """Return the next draw of ``shape``, float32; ``shape[0]`` must equal the number of seeds if several.

        Raises:
            InputError: the shape has a negative size, or another batch than there are seeds.
        """
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise InputError(f"noise shape: {sizes} came, sizes of 0 or more were expected")
        if len(self._generators) == 1:
            return self._generators[0].draw(_product(sizes)).reshape(sizes)
        if not sizes or sizes[0] != len(self._generators):
            batch = sizes[0] if sizes else 0
            raise InputError(
                f"seed: a list of {len(self._generators)} came, one a sample of the batch of {batch} expected"
            )
        each = _product(sizes[1:])
        return np.concatenate([generator.draw(each) for generator in self._generators]).reshape(sizes)

    def draw_for_all(self, shape: Sequence[int]) -> Array:
        """Return the next draw of ``shape`` that all samples have in common: the first generator's."""
        return self._generators[0].draw(_product(tuple(shape))).reshape(tuple(shape))


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
