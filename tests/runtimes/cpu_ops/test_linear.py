"""Quantised linear layers against numpy: integers exactly, what follows them to the rounding."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto

from tests.runtimes.cpu_ops.operators import BFLOAT16, session, single

#: rows, in, out: a single row, odd counts, panels that are not full, the hidden sizes of real models.
SIZES = [(1, 72, 192), (7, 192, 72), (77, 768, 48), (259, 72, 49), (16, 1152, 145), (5, 3072, 24)]


def _layer(rows: int, width: int, out: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Random bytes over the whole range: float values of the size that real layers have."""
    random = np.random.default_rng(seed)
    activation = random.integers(0, 256, (rows, width), np.uint8)
    weight = random.integers(-127, 128, (width, out), np.int8)
    scale = random.uniform(0.5, 1.5, out).astype(np.float32) * 2e-4 / width**0.5
    return activation, weight, scale, random.standard_normal(out).astype(np.float32)


def _integers(activation: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (activation.astype(np.int64) - 128) @ weight.astype(np.int64)


def _float(activation: np.ndarray, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return _integers(activation, weight) * scale.astype(np.float64) + bias


@pytest.mark.parametrize("size", SIZES)
def test_integers_are_exact_on_every_instruction_set(size: tuple[int, int, int], isa: str, library: Path) -> None:
    activation, weight, _, _ = _layer(*size)
    activation[0], weight[:, 0] = 255, -127  # the largest sums: products of 16 bits would saturate
    ones, zeros = np.ones(size[2], np.float32), np.zeros(size[2], np.float32)
    graph, feeds = single("QuantizedLinear", [activation, weight, ones, zeros], TensorProto.FLOAT, constants=(1, 2, 3))
    (result,) = session(graph, library).run(None, feeds)
    np.testing.assert_array_equal(result, _integers(activation, weight).astype(np.float32))


def test_scale_and_bias(isa: str, library: Path) -> None:
    inputs = _layer(33, 192, 100)
    graph, feeds = single("QuantizedLinear", inputs, TensorProto.FLOAT, constants=(1, 2, 3))
    (result,) = session(graph, library).run(None, feeds)
    np.testing.assert_allclose(result, _float(*inputs), atol=2e-6, rtol=2e-6)


def test_bfloat16_is_rounded_to_the_nearest(isa: str, library: Path) -> None:
    inputs = _layer(33, 192, 100)
    graph, feeds = single("QuantizedLinearBfloat16", inputs, TensorProto.BFLOAT16, constants=(1, 2, 3))
    (result,) = session(graph, library).run(None, feeds)
    expected = _float(*inputs)
    assert (np.abs(result - expected) <= np.abs(expected) * 2**-8 + 1e-6).all()  # half a unit of 8 bits
    np.testing.assert_array_equal(result, result.astype(BFLOAT16).astype(np.float32))


@pytest.mark.parametrize(("activation", "approximate"), [(1, "none"), (2, "tanh")])
def test_gelu_is_within_a_ten_thousandth_before_it_is_rounded(
    activation: int, approximate: str, isa: str, library: Path
) -> None:
    bytes_, weight, scale, bias = _layer(60, 192, 100)
    scale = scale * 4  # values to ±10, where Φ is 0 or 1 to float's last bit
    graph, feeds = single(
        "QuantizedLinear",
        [bytes_, weight, scale, bias],
        TensorProto.FLOAT,
        {"activation": activation},
        constants=(1, 2, 3),
    )
    (result,) = session(graph, library).run(None, feeds)
    before = _float(bytes_, weight, scale, bias)
    assert before.min() < -6 and before.max() > 6
    expected = torch.nn.functional.gelu(torch.from_numpy(before), approximate=approximate).numpy()
    # Without fused multiplication and addition, the polynomial's terms cancel to fewer digits.
    np.testing.assert_allclose(result, expected, atol=2e-4 if isa == "portable" else 1e-4, rtol=1e-5)


@pytest.mark.parametrize("out", [96, 50])
def test_quantised_output_saturates_and_rounds(out: int, isa: str, library: Path) -> None:
    inputs = _layer(40, 192, out)
    expected = _float(*inputs)
    step = float(np.abs(expected).max() / 100)
    graph, feeds = single(
        "QuantizedLinearQuantize", inputs, TensorProto.UINT8, {"output_scale": step / 2}, constants=(1, 2, 3)
    )
    (result,) = session(graph, library).run(None, feeds)
    exact = np.clip(expected / (step / 2), -128, 127) + 128
    assert result.min() < 10 and result.max() == 255  # both ends are reached
    assert np.abs(result - exact).max() <= 0.501


@pytest.mark.parametrize(("gates", "axes"), [(3, 2), (1, 2), (3, 3), (1, 3)])
def test_gate_and_residual(gates: int, axes: int, isa: str, library: Path) -> None:
    samples, tokens, out = 3, 7, 100
    activation, weight, scale, bias = _layer(samples * tokens, 72, out)
    random = np.random.default_rng(1)
    gate = random.standard_normal((gates, out) if axes == 2 else (gates, 1, out)).astype(np.float32)
    residual = random.standard_normal((samples, tokens, out)).astype(np.float32)
    inputs = [activation.reshape(samples, tokens, 72), weight, scale, bias, gate, residual]
    graph, feeds = single("QuantizedLinearGated", inputs, TensorProto.FLOAT, constants=(1, 2, 3))
    (result,) = session(graph, library).run(None, feeds)
    linear = _float(activation, weight, scale, bias).reshape(samples, tokens, out)
    np.testing.assert_allclose(result, residual + gate.reshape(gates, 1, out) * linear, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 5, 33])
def test_weight_only_keeps_sixteen_bits_of_the_activation(rows: int, isa: str, library: Path) -> None:
    _, weight, scale, bias = _layer(1, 192, 100)
    x = np.random.default_rng(2).standard_normal((rows, 192)).astype(np.float32)
    x[0] = 0
    scale = scale * 1000
    graph, feeds = single("WeightOnlyLinear", [x, weight, scale, bias], TensorProto.FLOAT, constants=(1, 2, 3))
    (result,) = session(graph, library).run(None, feeds)
    expected = x.astype(np.float64) @ (weight * scale.astype(np.float64)) + bias
    np.testing.assert_allclose(result, expected, atol=float(np.abs(expected).max()) * 6e-5)
    np.testing.assert_allclose(result[0], bias, rtol=1e-6)


def test_weight_only_passes_nan_on(library: Path) -> None:
    _, weight, scale, bias = _layer(1, 72, 48)
    x = np.zeros((2, 72), np.float32)
    x[1, 3] = np.nan
    graph, feeds = single("WeightOnlyLinear", [x, weight, scale, bias], TensorProto.FLOAT, constants=(1, 2, 3))
    (result,) = session(graph, library).run(None, feeds)
    assert np.isfinite(result[0]).all() and np.isnan(result[1]).all()


def test_any_number_of_rows_on_one_session_and_none(library: Path) -> None:
    activation, weight, scale, bias = _layer(300, 72, 60)
    graph, _ = single("QuantizedLinear", [activation, weight, scale, bias], TensorProto.FLOAT, constants=(1, 2, 3))
    opened = session(graph, library)
    expected = _float(activation, weight, scale, bias)
    for rows in (300, 1, 8, 9, 0):
        (result,) = opened.run(None, {"input_0": activation[:rows]})
        assert result.shape == (rows, 60)
        np.testing.assert_allclose(result, expected[:rows], atol=1e-6)


def test_two_threads_share_a_session(library: Path) -> None:
    activation, weight, scale, bias = _layer(300, 192, 200)
    graph, _ = single("QuantizedLinear", [activation, weight, scale, bias], TensorProto.FLOAT, constants=(1, 2, 3))
    opened = session(graph, library)
    (expected,) = opened.run(None, {"input_0": activation})
    wrong = []

    def work(rows: int) -> None:
        for _ in range(30):
            (result,) = opened.run(None, {"input_0": activation[:rows]})
            if not np.array_equal(result, expected[:rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in (300, 111)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_refusals_name_the_operator_and_what_came(library: Path) -> None:
    activation, weight, scale, bias = _layer(3, 72, 60)
    whole = [activation, weight, scale, bias]
    for changed, message in [
        ((0, activation[:, :64]), r"QuantizedLinear: activation: expected uint8\[…, 72\], got uint8\[3, 64\]"),
        ((1, weight[:70]), r"in_features must be a multiple of 4, got int8\[70, 60\]"),
        ((2, scale[:5]), r"expected float\[60\], got float\[5\]"),
    ]:
        inputs = [*whole]
        inputs[changed[0]] = changed[1]
        graph, feeds = single("QuantizedLinear", inputs, TensorProto.FLOAT, constants=(1, 2, 3))
        with pytest.raises(Exception, match=message):
            session(graph, library).run(None, feeds)
    graph, _ = single("QuantizedLinearQuantize", whole, TensorProto.UINT8, constants=(1, 2, 3))
    with pytest.raises(Exception, match="output_scale: must be positive"):
        session(graph, library)
