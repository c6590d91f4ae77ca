"""The table says what each layer costs, a planted one first; keeping the worst layers reaches the limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from dit_deploy.errors import InputError
from dit_deploy.exporters.calibration.sensitivity import Group, choose_kept, sensitivity
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.int8 import quantize_int8
from dit_deploy.exporters.passes.linear import choose_linears, find_linears
from tests.exporters.passes.graphs import feeds

BAD = "blocks.1.mlp_in"


@pytest.fixture(scope="module")
def path(tiny_bundle: Path) -> Path:
    return tiny_bundle / "denoiser" / "model.onnx"


@pytest.fixture(scope="module")
def scales(path: Path) -> dict[str, float]:
    """A scale that clips nothing much for every layer, but for one that is 100 times too large."""
    layers = [linear.name for linear in find_linears(load_graph(path).graph)]
    return {layer: 5 / 127 * (100 if layer == BAD else 1) for layer in layers}


def quantised_error(path: Path, scales: dict[str, float], on: set[str], folder: Path) -> float:
    """Quantise only ``on`` in a file, run both files in plain ONNX Runtime, and compare."""
    model = load_graph(path)
    quantize_int8(model, scales, kept={linear.name for linear in find_linears(model.graph)} - on)
    save_graph(model, folder / "model.onnx")
    found, plain = [], []
    for array, one in ((found, folder / "model.onnx"), (plain, path)):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(one, options, providers=["CPUExecutionProvider"])
        array += [session.run(["prediction"], feed)[0] for feed in (feeds(0), feeds(1, batch=1))]
    differences, norms = (
        [np.linalg.norm(array) for array in arrays]
        for arrays in ([a - b for a, b in zip(found, plain, strict=True)], plain)
    )
    return float(np.linalg.norm(differences) / np.linalg.norm(norms))


def test_a_layer_with_a_bad_scale_comes_first(path: Path, scales: dict[str, float], tmp_path: Path) -> None:
    chosen = [linear.name for linear in choose_linears(load_graph(path).graph).chosen]
    calls: list[tuple[int, int]] = []
    result = sensitivity(
        path, scales, [feeds(0), feeds(1, batch=1)], threads=1, progress=lambda *done: calls.append(done)
    )
    assert calls == [(done, 28) for done in range(1, 29)]
    assert sorted(group.name for group in result.table) == sorted(chosen)
    assert result.table[0].name == BAD and result.table[0].error > 3 * result.table[1].error
    errors = [group.error for group in result.table]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0
    for group in (result.table[0], result.table[5]):
        assert group.error == pytest.approx(quantised_error(path, scales, set(group.layers), tmp_path), rel=1e-3)
    assert result.together == pytest.approx(quantised_error(path, scales, set(chosen), tmp_path), rel=1e-3)

    def quality(kept: tuple[str, ...]) -> float:
        return -quantised_error(path, scales, set(chosen) - set(kept), tmp_path)

    kept = choose_kept(result.table, quality, -0.5 * result.together)
    assert kept.reached and kept.layers == (BAD,)


def test_by_block(path: Path, scales: dict[str, float]) -> None:
    result = sensitivity(path, scales, [feeds()], by="block", kept=("blocks.0.to_*",), threads=1)
    assert [group.name for group in result.table] == ["blocks.1", "blocks.0"]
    assert result.table[1].layers == ("blocks.0.mlp_in", "blocks.0.mlp_out")
    assert len(result.table[0].layers) == 6


def test_what_is_asked_wrongly_is_named(path: Path, scales: dict[str, float]) -> None:
    with pytest.raises(InputError, match="sensitivity: by 'head' came, expected one of layer, block"):
        sensitivity(path, scales, [feeds()], by="head")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sensitivity: no feeds came"):
        sensitivity(path, scales, [])
    with pytest.raises(InputError, match="output 'noise' came, expected one of prediction, variance"):
        sensitivity(path, scales, [feeds()], output="noise")
    with pytest.raises(InputError, match=r"scales: none for blocks\.0\.to_q"):
        sensitivity(path, {}, [feeds()])


def table(count: int) -> list[Group]:
    return [Group(f"layer.{index}", (f"layer.{index}",), 1.0 / (index + 1)) for index in range(count)]


@pytest.mark.parametrize("count", [1, 5, 16, 168])
def test_as_few_as_will_do_are_kept_with_few_evaluations(count: int) -> None:
    for needed in range(count + 1):
        asked: list[int] = []

        def quality(kept: tuple[str, ...], asked: list[int] = asked) -> float:
            asked.append(len(kept))
            return 20.0 + len(kept)

        kept = choose_kept(table(count), quality, 20.0 + needed)
        assert kept.layers == tuple(f"layer.{index}" for index in range(needed))
        assert kept.reached and kept.quality == 20.0 + needed
        assert kept.tried == tuple((one, 20.0 + one) for one in asked) and len(set(asked)) == len(asked)
        assert len(asked) <= 2 * np.log2(count) + 3


def test_a_limit_out_of_reach_is_said() -> None:
    kept = choose_kept(table(5), lambda kept: 20.0 + len(kept), 30.0)
    assert not kept.reached and len(kept.layers) == 5 and kept.quality == 25.0
    assert [count for count, _ in kept.tried] == [0, 1, 2, 4, 5]
    assert str(kept).startswith("quality 25 with all 5 layers kept, limit 30: quantising is not what costs it")
    kept = choose_kept(table(2), lambda kept: float("nan") if len(kept) < 2 else 31.0, 30.0)
    assert kept.reached and str(kept) == "kept 2 layers (layer.0, layer.1): quality 31, limit 30"
    assert not choose_kept([], lambda kept: 1.0, 2.0).reached


def test_a_block_is_kept_whole() -> None:
    blocks = [Group("blocks.1", ("blocks.1.a", "blocks.1.b"), 2.0), Group("blocks.0", ("blocks.0.a",), 1.0)]
    assert choose_kept(blocks, lambda kept: float(len(kept)), 1.0).layers == ("blocks.1.a", "blocks.1.b")
