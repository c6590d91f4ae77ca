"""Noise against torch's CPU generator."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import NoiseSource, noise

torch = pytest.importorskip("torch")

SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**63 + 12345, 2**64 - 1]
LIMIT = 1e-6
CRC = 0xB56A7FED


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_draw_of_every_length(seed: int) -> None:
    for length in [*range(0, 100), 127, 128, 129, 1000, 1023, 4096, 16385, 100_000]:
        ours, theirs = noise(seed, (length,)), torch.randn(length, generator=generator(seed)).numpy()
        assert ours.dtype == np.float32
        assert ours.shape == (length,)
        assert np.abs(ours - theirs).max(initial=0.0) <= LIMIT, length


@pytest.mark.parametrize("seed", [0, 3, 2**40 + 1])
def test_successive_draws_of_mixed_lengths(seed: int) -> None:
    # The second half of a scalar pair waits in the generator, across any number of longer draws.
    lengths = np.random.RandomState(seed % 2**32).choice([0, 1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 32, 33, 120], size=300)
    theirs, ours = generator(seed), NoiseSource(seed)
    for length in lengths.tolist():
        expected = torch.randn(length, generator=theirs).numpy()
        assert np.abs(ours.draw((length,)) - expected).max(initial=0.0) <= LIMIT


def test_a_kept_value_outlives_a_long_draw() -> None:
    source, theirs = NoiseSource(9), generator(9)
    drawn = [source.draw((n,)) for n in (1, 64, 1, 1)]
    for ours, length in zip(drawn, (1, 64, 1, 1), strict=True):
        np.testing.assert_allclose(ours, torch.randn(length, generator=theirs).numpy(), atol=LIMIT)


def test_shapes_and_the_scalar_shape() -> None:
    np.testing.assert_allclose(
        noise(7, (2, 3, 4, 5)), torch.randn(2, 3, 4, 5, generator=generator(7)).numpy(), atol=LIMIT
    )
    np.testing.assert_allclose(noise(7, ()), torch.randn((), generator=generator(7)).numpy(), atol=LIMIT)


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 1, 2, 2), (3, 5, 3, 7)])
def test_a_list_of_seeds_is_a_generator_a_sample(shape: tuple[int, ...]) -> None:
    randn_tensor = pytest.importorskip("diffusers.utils.torch_utils").randn_tensor
    seeds = [5, 2**33, 5]
    theirs, ours = [generator(seed) for seed in seeds], NoiseSource(seeds)
    for _ in range(3):
        np.testing.assert_allclose(ours.draw(shape), randn_tensor(shape, generator=theirs).numpy(), atol=LIMIT)


def test_a_list_of_one_is_one_generator() -> None:
    np.testing.assert_array_equal(NoiseSource([4]).draw((3, 8)), NoiseSource(4).draw((3, 8)))


def test_one_seed_continues_its_stream_over_the_batch() -> None:
    assert not np.array_equal(*NoiseSource(0).draw((2, 64)))


def test_the_bits_are_those_of_every_machine() -> None:
    # CRC-32 of the bytes; runtimes/cpp/tests/sampling/noise_test.cpp has the same number.
    assert zlib.crc32(noise(42, (100_003,)).astype("<f4").tobytes()) == CRC


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "3", None, True, [], [0, -1]])
def test_a_bad_seed(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        NoiseSource(seed)  # type: ignore[arg-type]


def test_a_bad_shape() -> None:
    with pytest.raises(InputError, match="shape"):
        noise(0, (2, -1))
    with pytest.raises(InputError, match=r"list of 2 came, one a sample of the batch of 3"):
        NoiseSource([0, 1]).draw((3, 4))
