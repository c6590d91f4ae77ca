"""What is gathered from the instrumented graph, held against PyTorch's activations and the untouched graph's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from diffusers import DiTTransformer2DModel
from numpy.typing import NDArray

from dit_deploy import Bundle
from dit_deploy.errors import BackendError
from dit_deploy.exporters.calibration import Statistics, gather, plan, sample_trajectories, statistics
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.storage import store_weights

Feeds = list[dict[str, NDArray[Any]]]


@pytest.fixture(scope="module")
def graph(tiny_bundle: Path) -> Path:
    return Bundle.open(tiny_bundle).component_path("denoiser")


@pytest.fixture(scope="module")
def feeds(tiny_bundle: Path) -> Feeds:
    bundle = Bundle.open(tiny_bundle)
    return sample_trajectories(bundle, plan(bundle, samples=3, evaluations=3, steps=3), threads=1).feeds


@pytest.fixture(scope="module")
def gathered(graph: Path, feeds: Feeds) -> Statistics:
    return gather(graph, feeds, threads=1)


def theirs(layer: str) -> str:
    """Return what diffusers calls one of our layers."""
    part, *rest = layer.split(".")
    if part == "embedders":
        which = {"timestep_in": "linear_1", "timestep_out": "linear_2"}[rest[1]]
        return f"transformer_blocks.{rest[0]}.norm1.emb.timestep_embedder.{which}"
    if part == "blocks":
        names = {
            "modulation": "norm1.linear",
            "to_out": "attn1.to_out.0",
            "mlp_in": "ff.net.0.proj",
            "mlp_out": "ff.net.2",
        }
        return f"transformer_blocks.{rest[0]}.{names.get(rest[1], f'attn1.{rest[1]}')}"
    return {"final_modulation": "proj_out_1", "final_linear": "proj_out_2"}[part]


@pytest.fixture(scope="module")
def activations(tiny_source: Path, feeds: Feeds) -> dict[str, NDArray[np.float32]]:
    """Module name of diffusers' model → everything that its linear layer read, [rows, in]."""
    model = DiTTransformer2DModel.from_pretrained(tiny_source / "transformer").eval()
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda module, inputs, name=name: seen.setdefault(name, []).append(inputs[0].flatten(0, -2))
            )
    with torch.no_grad():
        for one in feeds:
            model(*(torch.from_numpy(one[name]) for name in ("latents", "timestep", "class_labels")))
    return {name: torch.cat(arrays).numpy() for name, arrays in seen.items()}


def test_every_linear_layer_is_observed(gathered: Statistics, activations: dict[str, NDArray[np.float32]]) -> None:
    # The source has an embedder in every block; the graph has one.
    expected = {name for name in activations if not name.startswith("transformer_blocks.1.norm1.emb")}
    assert {theirs(layer) for layer in gathered.layers} == expected
    assert len(gathered.layers) == 2 + 2 * 7 + 2
    # query, key and value read one tensor, and so do all modulations
    assert len(gathered.histograms) == 2 + 1 + 2 * 4 + 1


def test_statistics_are_torchs(gathered: Statistics, activations: dict[str, NDArray[np.float32]]) -> None:
    for layer, value in gathered.layers.items():
        seen = np.abs(activations[theirs(layer)])
        histogram = gathered.histograms[value]
        np.testing.assert_allclose(gathered.channels[value], seen.max(axis=0), rtol=1e-3, atol=1e-4, err_msg=layer)
        assert histogram.absmax == gathered.channels[value].max() == pytest.approx(seen.max(), rel=1e-3)
        assert gathered.ranges[value] == histogram.absmax
        if "modulation" in layer or "embedders" in layer:
            continue  # the source evaluates these more than once
        assert histogram.total == seen.size
        # Rounding moves some values over the edge of a bin, so coarser parts are compared.
        expected, _ = np.histogram(seen, bins=32, range=(0.0, len(histogram.counts) * histogram.width))
        assert np.abs(histogram.counts.reshape(32, -1).sum(axis=1) - expected).sum() <= 0.005 * seen.size


def untouched(graph: Path, feeds: Feeds) -> dict[str, float]:
    """Return the largest |x| of every float value that nodes make, by ONNX Runtime without any optimisation."""
    model = onnx.load(graph)
    infos = {info.name: info for info in model.graph.value_info}
    known = {output.name for output in model.graph.output}
    floats = [
        name
        for node in model.graph.node
        for name in node.output
        if name in known or infos[name].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    model.graph.output.extend(infos[name] for name in floats if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    largest = dict.fromkeys(floats, 0.0)
    for one in feeds:
        for name, array in zip(floats, session.run(floats, one), strict=True):
            largest[name] = max(largest[name], float(np.abs(array).max()))
    return largest


def test_ranges_are_the_untouched_graphs(gathered: Statistics, graph: Path, feeds: Feeds) -> None:
    expected = untouched(graph, feeds)
    inputs = {name: max(float(np.abs(one[name]).max()) for one in feeds) for name in ("latents", "timestep")}
    assert set(gathered.ranges) == set(expected) | set(inputs)
    for name, largest in (expected | inputs).items():
        assert gathered.ranges[name] == pytest.approx(largest, rel=1e-5), name


def test_the_parts_of_the_vae_too(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    generator = np.random.default_rng(1)
    for component, shape in (("vae_decoder", (2, 6, 8, 12)), ("vae_encoder", (2, 3, 32, 48))):
        name = bundle.component(component).inputs[0].name
        feeds: Feeds = [{name: generator.random(shape, np.float32)}]
        found = gather(bundle.component_path(component), feeds, threads=1)
        expected = untouched(bundle.component_path(component), feeds)
        assert {layer.rpartition("mid_block.")[2] for layer in found.layers} == {
            f"attentions.0.{one}" for one in ("to_q", "to_k", "to_v", "to_out.0")
        }
        for value, largest in expected.items():
            assert found.ranges[value] == pytest.approx(largest, rel=1e-5), value


def test_parts_of_an_evaluation_give_the_same(
    gathered: Statistics, graph: Path, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = statistics._run

    def counted(session: Any, one: Any, path: Path) -> Any:
        runs.append(len(one["latents"]))
        return run(session, one, path)

    monkeypatch.setattr(statistics, "_run", counted)
    monkeypatch.setattr(statistics, "_FETCHED", 1)
    reports: list[tuple[int, int]] = []
    found = gather(graph, feeds, threads=1, progress=lambda *report: reports.append(report))
    assert runs == [1] * 18 and reports == [(done, 18) for done in range(1, 19)]
    for value, histogram in gathered.histograms.items():
        assert found.histograms[value].total == histogram.total
        assert found.histograms[value].absmax == pytest.approx(histogram.absmax, rel=1e-4)
    assert found.ranges == pytest.approx(gathered.ranges, rel=1e-4)
    runs.clear()
    monkeypatch.setattr(statistics, "_FETCHED", 1 << 30)
    gather(graph, feeds, threads=1)
    assert runs == [1, 5, 6, 6]


def test_weights_in_16_bits_make_the_same_layers(
    gathered: Statistics, graph: Path, feeds: Feeds, tmp_path: Path
) -> None:
    model = load_graph(graph)
    store_weights(model.graph, ir.DataType.FLOAT16, 1024)
    save_graph(model, tmp_path / "model.onnx")
    found = gather(tmp_path / "model.onnx", feeds, threads=1)
    assert found.layers == gathered.layers
    assert not [name for name in found.ranges if name.endswith(".float32")]  # weights are not activations
    for value, channels in gathered.channels.items():
        np.testing.assert_allclose(found.channels[value], channels, rtol=0.05, atol=0.01)


def test_the_graph_is_not_written_and_its_weights_are_not_copied(graph: Path, feeds: Feeds) -> None:
    before = {path: path.stat().st_mtime_ns for path in graph.parent.iterdir()}
    model = load_graph(graph)
    statistics.instrument(model)
    external = sum(path.stat().st_size for path in graph.parent.glob("*.data"))
    assert ir.to_proto(model).ByteSize() < graph.stat().st_size + 250_000 < external
    gather(graph, feeds[:1], threads=1)
    assert {path: path.stat().st_mtime_ns for path in graph.parent.iterdir()} == before


def test_what_is_not_finite_is_named(graph: Path, feeds: Feeds) -> None:
    bad = {**feeds[0], "latents": np.full_like(feeds[0]["latents"], 3e38)}
    with pytest.raises(BackendError, match=r"^calibration: .*(blocks\.0\.to_[qkv]|prediction).* NaN or infinite"):
        gather(graph, [bad], threads=1)


def test_an_infinity_that_is_meant_is_a_range(tmp_path: Path) -> None:
    """An attention mask of −∞ must not stop a calibration."""
    x = ir.Value(name="x", shape=ir.Shape(["n", 4]), type=ir.TensorType(ir.DataType.FLOAT))
    mask = ir.node("Log", [ir.node("Relu", [x]).outputs[0]])
    y = ir.node("Exp", mask.outputs)
    nodes = [mask.inputs[0].producer(), mask, y]  # type: ignore[union-attr]
    for name, node in zip("abc", nodes, strict=True):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
        node.outputs[0].shape = ir.Shape(["n", 4])
    made = ir.Graph([x], y.outputs, nodes=nodes, opset_imports={"": 20}, name="g")
    ir.save(ir.Model(made, ir_version=10), tmp_path / "model.onnx")
    found = gather(tmp_path / "model.onnx", [{"x": np.array([[-1.0, 0.5, 1.0, 2.0]], np.float32)}], threads=1)
    assert found.ranges == {"x": 2.0, "a": 2.0, "b": np.inf, "c": 2.0}
    assert not found.layers and not found.histograms


CHAIN = """
import resource, sys
from pathlib import Path
import numpy as np
from dit_deploy.exporters.calibration.statistics import gather

size = 1 << 21
gather(Path(sys.argv[1]), [{"x": np.ones((1, 8), np.float32)}], threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = gather(Path(sys.argv[1]), [{"x": np.ones((1, size), np.float32)}], threads=1)
print(len(found.ranges), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_tensors_are_looked_at_while_they_are_there(tmp_path: Path) -> None:
    """All 100 tensors of 8 MB at once would be 800 MB: ONNX Runtime's default order keeps them until the end."""
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", "m"])
    first = value = ir.Value(name="x", shape=shape, type=kind)
    nodes = []
    for index in range(100):
        nodes.append(ir.node("Cos" if index % 2 else "Sin", [value]))
        value = nodes[-1].outputs[0]
        value.name, value.shape, value.type = f"t{index}", shape, kind
    made = ir.Graph([first], [value], nodes=nodes, opset_imports={"": 20}, name="g")
    ir.save(ir.Model(made, ir_version=10), tmp_path / "model.onnx")
    result = subprocess.run(
        [sys.executable, "-c", CHAIN, tmp_path / "model.onnx"], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    ranges, megabytes = map(int, result.stdout.split())
    assert ranges == 101
    assert megabytes < 150


def test_a_graph_that_is_refused(tmp_path: Path, graph: Path) -> None:
    model = load_graph(graph)
    save_graph(model, tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").write_bytes(b"")
    with pytest.raises(Exception, match=r"model\.onnx"):
        gather(tmp_path / "model.onnx", [], threads=1)
