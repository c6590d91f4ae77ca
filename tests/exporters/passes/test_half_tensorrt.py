"""TensorRT-RTX parses and builds what the passes write: strongly typed, with no GPU. Its own network says the types."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import onnx_ir as ir
import pytest

from dit_deploy.exporters.passes.attention import lower_attention
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.half import to_half

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None or importlib.util.find_spec("polygraphy") is None,
    reason="tensorrt-rtx and polygraphy are not installed",
)

#: In a process of its own: Polygraphy reads the variable once, and a native library may end its process.
BUILD = """
import json, os, sys
os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
import tensorrt_rtx as trt
from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_path
from polygraphy.logger import G_LOGGER
G_LOGGER.use_python_logging_system = False
G_LOGGER.module_severity = G_LOGGER.ERROR
found = {}
for path in sys.argv[1:]:
    loaded = builder, network, parser = network_from_onnx_path(path, strongly_typed=True)
    profile = Profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        sides = {"images": (16, 32, 64)}.get(tensor.name, (8, 16, 24))
        shapes = [
            [(batch, size, size, size)[axis] if length == -1 else length for axis, length in enumerate(tensor.shape)]
            for batch, size in zip((1, 2, 4), sides)
        ]
        profile.add(tensor.name, *shapes)
    config = CreateConfigRTX(profiles=[profile], use_gpu=False, compute_capabilities=[(8, 9)])
    engine = engine_bytes_from_network(loaded, config)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = {}
    for layer in layers:
        kinds.setdefault(layer.type.name, set()).add(layer.get_output(0).dtype.name)
    found[path] = {
        "bytes": engine.nbytes,
        "inputs": [network.get_input(index).dtype.name for index in range(network.num_inputs)],
        "outputs": [network.get_output(index).dtype.name for index in range(network.num_outputs)],
        "layers": {kind: sorted(types) for kind, types in kinds.items()},
    }
print(json.dumps(found))
"""


def build(*paths: Path) -> dict[str, dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", BUILD, *map(str, paths)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return {Path(path).name: found for path, found in json.loads(done.stdout.splitlines()[-1]).items()}


def test_each_component_builds_in_each_type_and_is_of_it(tiny_bundle: Path, tmp_path: Path) -> None:
    paths = []
    for component in ("denoiser", "vae_encoder", "vae_decoder"):
        for dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            model = load_graph(tiny_bundle / component / "model.onnx")
            to_half(model, dtype)
            paths.append(tmp_path / f"{component}_{dtype.name}.onnx")
            save_graph(model, paths[-1])
    for name, found in build(*paths).items():
        half = "HALF" if "_FLOAT16" in name else "BF16"
        assert isinstance(found["layers"], dict)
        assert set(found["inputs"]) <= {"FLOAT", "INT64"} and set(found["outputs"]) == {"FLOAT"}  # type: ignore[call-overload]
        products = {"CONVOLUTION", "MATRIX_MULTIPLY", "ATTENTION_INPUT"} & found["layers"].keys()
        assert len(products) >= 2
        assert all(found["layers"][kind] == [half] for kind in products), (name, found["layers"])
        assert found["layers"]["NORMALIZATION"] == ["FLOAT"]


def test_float32_builds_once_attention_is_decomposed(tiny_bundle: Path, tmp_path: Path) -> None:
    paths = []
    for component in ("denoiser", "vae_decoder"):
        model = load_graph(tiny_bundle / component / "model.onnx")
        lower_attention(model, "decomposed")
        paths.append(tmp_path / f"{component}.onnx")
        save_graph(model, paths[-1])
    for found in build(*paths).values():
        assert found["layers"]["SOFTMAX"] == ["FLOAT"]  # type: ignore[index]
