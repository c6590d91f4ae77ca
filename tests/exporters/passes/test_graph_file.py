"""Graph files: what is saved runs as before, weight by weight, and never over its own source."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from dit_deploy.errors import ExportError
from dit_deploy.exporters.passes.graph_file import check_types, infer_types, load_graph, save_graph

FEEDS = {
    "latents": np.random.default_rng(0).standard_normal((2, 6, 16, 24), np.float32),
    "timestep": np.array([3.0, 700.0], np.float32),
    "class_labels": np.array([1, 16]),
}


def run(path: Path) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, FEEDS)


@pytest.fixture
def denoiser(tiny_bundle: Path) -> Path:
    return tiny_bundle / "denoiser" / "model.onnx"


def test_what_is_saved_computes_the_same_and_keeps_types_and_shapes(denoiser: Path, tmp_path: Path) -> None:
    model = load_graph(denoiser)
    save_graph(model, tmp_path / "new" / "graph.onnx")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["graph.onnx", "graph.onnx.data"]
    for found, expected in zip(run(tmp_path / "new" / "graph.onnx"), run(denoiser), strict=True):
        np.testing.assert_array_equal(found, expected)
    described = [
        onnx.load(path, load_external_data=False).graph.value_info
        for path in (denoiser, tmp_path / "new" / "graph.onnx")
    ]
    assert {info.name: info.type for info in described[0]} == {info.name: info.type for info in described[1]}
    check_types(model)


def test_weights_are_not_written_over_themselves(denoiser: Path, tmp_path: Path) -> None:
    shutil.copytree(denoiser.parent, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "model.onnx.data").read_bytes()
    model = load_graph(tmp_path / "model.onnx")
    weight = next(
        iter(value for value in model.graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor))
    )
    source = weight.const_value
    assert source is not None
    # Also where a pass hides the file behind a lazy tensor.
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.LazyTensor(
                lambda tensor=tensor: tensor, dtype=tensor.dtype, shape=tensor.shape, name=value.name
            )
    with pytest.raises(ExportError, match=r"model\.onnx\.data: the weights of this graph are still read from it"):
        save_graph(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").read_bytes() == before


def test_damaged_files_are_named(denoiser: Path, tmp_path: Path) -> None:
    shutil.copytree(denoiser.parent, tmp_path, dirs_exist_ok=True)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"needs \d+ bytes of model\.onnx\.data, which has \d+ bytes"):
        load_graph(tmp_path / "model.onnx")
    data.unlink()
    with pytest.raises(ExportError, match="which is missing"):
        load_graph(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(ExportError, match="no ONNX graph"):
        load_graph(tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="no ONNX graph"):
        load_graph(tmp_path / "nothing.onnx")


def test_missing_types_are_inferred_and_known_ones_stay(denoiser: Path) -> None:
    model = load_graph(denoiser)
    known = {value.name: (value.type, value.shape) for node in model.graph for value in node.outputs}
    dropped = [node.outputs[0] for node in model.graph][::2]
    for value in dropped:
        if not value.is_graph_output():
            value.type = value.shape = None
    infer_types(model)
    for node in model.graph:
        for value in node.outputs:
            assert value.type == known[value.name][0], value.name
            if value not in dropped:
                assert value.shape == known[value.name][1]
    assert sum(value.shape is not None for value in dropped) > 0.8 * len(dropped)


def test_types_that_do_not_fit_are_found(denoiser: Path) -> None:
    model = load_graph(denoiser)
    bias = next(value for name, value in model.graph.initializers.items() if name.endswith("to_q.bias"))
    bias.const_value = ir.tensor(bias.const_value.numpy().astype(np.float16), name=bias.name)  # type: ignore[union-attr]
    bias.type = ir.TensorType(ir.DataType.FLOAT16)
    with pytest.raises(ExportError, match=r"types do not fit: .*Add"):
        check_types(model)


@pytest.mark.slow
def test_more_than_protobuf_holds_is_written_one_weight_at_a_time(tmp_path: Path) -> None:
    """2.4 GB in twelve lazy weights: the process grows by a few of them, not by all."""
    script = f"""
import resource, numpy as np, onnx_ir as ir
from pathlib import Path
from dit_deploy.exporters.passes.graph_file import save_graph, check_types, load_graph
shape = ir.Shape([5000, 10000])
def value(name): return ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
graph_input = value("x"); node_input = graph_input; nodes = []; weights = []
for index in range(12):
    weight = value(f"w{{index}}")
    weight.const_value = ir.LazyTensor(lambda index=index: ir.tensor(np.full((5000, 10000), index, np.float32)),
                                       dtype=ir.DataType.FLOAT, shape=shape, name=weight.name)
    node = ir.node("Add", [node_input, weight]); node.outputs[0].name = f"y{{index}}"
    node.outputs[0].shape, node.outputs[0].type = shape, graph_input.type
    node_input = node.outputs[0]; nodes.append(node); weights.append(weight)
graph = ir.Graph([graph_input], [node_input], nodes=nodes, initializers=weights, opset_imports={{"": 23}}, name="g")
model = ir.Model(graph, ir_version=10)
check_types(model)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_graph(model, Path({str(tmp_path)!r}) / "big.onnx")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
again = load_graph(Path({str(tmp_path)!r}) / "big.onnx")
assert float(again.graph.initializers["w7"].const_value.numpy()[4999, 9999]) == 7
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 700
    assert (tmp_path / "big.onnx.data").stat().st_size == 12 * 200_000_000
