"""Guidance against diffusers' formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dit_deploy.errors import InputError
from dit_deploy.sampling import Guidance, SkipLayerGuidance

SHAPE = (3, 4, 6, 5)


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    return random.standard_normal(SHAPE).astype(np.float32), random.standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_the_formula(predictions: tuple[np.ndarray, np.ndarray], channels: int | None) -> None:
    conditional, unconditional = predictions
    guided = Guidance(4.0, channels).combine(conditional, unconditional)
    expected = conditional.copy()
    expected[:, :channels] = (unconditional + np.float32(4.0) * (conditional - unconditional))[:, :channels]
    assert guided.dtype == np.float32
    np.testing.assert_allclose(guided, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_rescaling_is_diffusers(predictions: tuple[np.ndarray, np.ndarray], rescale: float) -> None:
    torch = pytest.importorskip("torch")
    pipeline = pytest.importorskip("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
    conditional, unconditional = predictions
    plain = unconditional + np.float32(7.5) * (conditional - unconditional)
    expected = pipeline.rescale_noise_cfg(torch.from_numpy(plain), torch.from_numpy(conditional), rescale).numpy()
    guided = Guidance(7.5, rescale=rescale).combine(conditional, unconditional)
    np.testing.assert_allclose(guided, expected, rtol=1e-5, atol=1e-6)
    # the first channels alone: they are rescaled to their own deviation
    expected = pipeline.rescale_noise_cfg(
        torch.from_numpy(plain[:, :3]), torch.from_numpy(conditional[:, :3]), rescale
    ).numpy()
    guided = Guidance(7.5, channels=3, rescale=rescale).combine(conditional, unconditional)
    np.testing.assert_allclose(guided[:, :3], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(guided[:, 3:], conditional[:, 3:])


def test_in_place(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    conditional, unconditional = predictions
    guidance = Guidance(3.0, channels=3, rescale=0.5)
    expected = guidance.combine(conditional, unconditional)
    out = np.full(SHAPE, np.nan, np.float32)
    assert guidance.combine(conditional, unconditional, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert guidance.combine(conditional, unconditional, out=conditional) is conditional
    np.testing.assert_array_equal(conditional, expected)


def test_a_constant_prediction_is_not_rescaled_to_nan() -> None:
    same = np.ones(SHAPE, np.float32)
    np.testing.assert_array_equal(Guidance(3.0, rescale=1.0).combine(same, same), same)


@pytest.mark.parametrize(
    ("guidance", "active"),
    [
        (Guidance(4.0), range(10)),
        (Guidance(1.0), []),
        (Guidance(0.5), []),
        (Guidance(4.0, interval=(0.2, 0.5)), [2, 3, 4]),
        (Guidance(4.0, interval=(0.25, 1.0)), range(3, 10)),
        (Guidance(4.0, interval=(0.4, 0.4)), []),
        (Guidance(0.5, any_scale=True, interval=(0.0, 0.5)), range(5)),
    ],
)
def test_active(guidance: Guidance, active: Any) -> None:
    assert [step for step in range(10) if guidance.active(step, 10)] == list(active)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": float("nan")}, "guidance_scale: nan"),
        ({"scale": float("inf")}, "guidance_scale: inf"),
        ({"scale": "4"}, "guidance_scale: '4'"),
        ({"scale": True}, "guidance_scale: True"),
        ({"scale": 2.0, "channels": 0}, "channels: 0"),
        ({"scale": 2.0, "channels": 1.5}, "channels: 1.5"),
        ({"scale": 2.0, "interval": (0.5, 0.2)}, "interval"),
        ({"scale": 2.0, "interval": (0.0, 1.5)}, "interval"),
        ({"scale": 2.0, "interval": (0.0, float("nan"))}, "interval"),
        ({"scale": 2.0, "interval": (0.0,)}, "interval"),
        ({"scale": 2.0, "rescale": 1.5}, "rescale: 1.5"),
        ({"scale": 2.0, "rescale": float("nan")}, "rescale: nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Guidance(**arguments)


def test_bad_arrays(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    conditional, unconditional = predictions
    with pytest.raises(InputError, match="channels: 5 came, the prediction has 4"):
        Guidance(2.0, channels=5).combine(conditional, unconditional)
    with pytest.raises(InputError, match="same shape"):
        Guidance(2.0).combine(conditional, unconditional[:2])


def test_skip_layer_guidance_adds_what_the_blocks_do(predictions: tuple[np.ndarray, np.ndarray]) -> None:
    conditional, without = predictions
    guided = np.full_like(conditional, 3.0)
    SkipLayerGuidance((7, 8, 9), 2.5).add(guided, conditional.copy(), without)
    np.testing.assert_allclose(guided, 3.0 + 2.5 * (conditional - without), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 10, 28, 40])
@pytest.mark.parametrize(("start", "stop"), [(0.01, 0.2), (0.0, 1.0), (0.25, 0.5), (0.3, 0.3)])
def test_skip_layer_guidance_is_on_where_diffusers_has_it(steps: int, start: float, stop: float) -> None:
    skip = SkipLayerGuidance((1,), start=start, stop=stop)
    # The condition of StableDiffusion3Pipeline's loop.
    expected = [i > steps * start and i < steps * stop for i in range(steps)]
    assert [skip.active(i, steps) for i in range(steps)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ()}, "skip_guidance_layers: .* indices of blocks"),
        ({"layers": (-1,)}, "skip_guidance_layers: .* indices of blocks"),
        ({"layers": (True,)}, "skip_guidance_layers: .* indices of blocks"),
        ({"layers": (1,), "scale": float("nan")}, "skip_layer_guidance_scale: nan came"),
        ({"layers": (1,), "start": 0.5, "stop": 0.2}, "skip_layer_guidance_start and _stop: 0.5 and 0.2 came"),
        ({"layers": (1,), "stop": "0.2"}, "skip_layer_guidance_start and _stop"),
    ],
)
def test_bad_skip_layer_guidance(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SkipLayerGuidance(**arguments)
