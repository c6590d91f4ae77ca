"""The heavy layers of a network, by precision. The networks here are stand-ins; real ones are in test_tensorrt.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from dit_deploy.errors import BackendError
from dit_deploy.exporters.builders.layers import (
    HeavyLayer,
    check_layers,
    check_weights,
    count_engine_layers,
    count_types,
    heavy_layers,
    precisions,
)


@dataclass
class Tensor:
    name: str
    type: str

    @property
    def dtype(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.type)


@dataclass
class Layer:
    kind: str
    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    metadata: str = ""

    @property
    def type(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.kind)

    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


@dataclass
class Network:
    layers: list[Layer] = field(default_factory=list)

    num_layers = property(lambda self: len(self.layers))

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def add(self, kind: str, name: str, *inputs: Tensor, to: str, metadata: str = "") -> Tensor:
        output = Tensor(f"{name}_output", to)
        self.layers.append(Layer(kind, name, list(inputs), [output], metadata))
        return output


def dequantized(network: Network, name: str, kind: str = "INT8") -> Tensor:
    return network.add("DEQUANTIZE", name, Tensor(f"{name}.q", kind), Tensor(f"{name}.scale", "HALF"), to="HALF")


def test_precision_is_the_first_input_s() -> None:
    network = Network()
    half, single = Tensor("h", "HALF"), Tensor("x", "FLOAT")
    network.add("MATRIX_MULTIPLY", "one", half, half, to="HALF", metadata="[ONNX Layer: node_1]")
    network.add("MATRIX_MULTIPLY", "two", single, single, to="FLOAT")
    network.add("MATRIX_MULTIPLY", "sizes", Tensor("n", "INT64"), Tensor("m", "INT64"), to="INT64")
    network.add("CONVOLUTION", "three", Tensor("b", "BF16"), to="BF16")
    network.add("ATTENTION_INPUT", "four_AttentionInput", half, half, half, to="HALF")
    network.add("ACTIVATION", "five", single, to="FLOAT")
    found = heavy_layers(network)
    assert found == [
        HeavyLayer("node_1", "matmul", "fp16"),
        HeavyLayer("two", "matmul", "fp32"),
        HeavyLayer("three", "convolution", "bf16"),
        HeavyLayer("four", "attention", "fp16"),
    ]
    assert precisions(found) == {
        "matmul": {"fp16": 1, "fp32": 1},
        "convolution": {"bf16": 1},
        "attention": {"fp16": 1},
    }
    assert count_types(network)["MATRIX_MULTIPLY"] == 3


def test_quantised_on_both_sides() -> None:
    network = Network()
    activation, weight = dequantized(network, "a"), dequantized(network, "w")
    reshaped = network.add("SHUFFLE", "s", weight, to="HALF")
    cast = network.add("CAST", "c", activation, to="HALF")
    plain = Tensor("p", "HALF")
    network.add("MATRIX_MULTIPLY", "both", activation, reshaped, to="HALF")
    network.add("MATRIX_MULTIPLY", "weight only", plain, weight, to="HALF")
    network.add("MATRIX_MULTIPLY", "a cast between", cast, weight, to="HALF")
    network.add("MATRIX_MULTIPLY", "eight-bit float", *[dequantized(network, n, "FP8") for n in "fg"], to="HALF")
    assert [(layer.name, layer.precision) for layer in heavy_layers(network)] == [
        ("both", "int8"),
        ("weight only", "fp16"),
        ("a cast between", "fp16"),
        ("eight-bit float", "fp8"),
    ]


def layers(**of: int) -> list[HeavyLayer]:
    return [
        HeavyLayer(f"{precision}.{index}", "matmul", precision) for precision in of for index in range(of[precision])
    ]


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("fp32", layers(fp32=2)),
        ("fp16", layers(fp16=2)),
        ("bf16", layers(bf16=2)),
        ("int8", layers(int8=2, fp16=1)),
        ("int8", layers(int8=2, bf16=1)),
        ("fp8", layers(fp8=2, fp16=1)),
        ("fp16", []),
    ],
)
def test_as_asked(asked: str, given: list[HeavyLayer]) -> None:
    check_layers(given, asked, quantized=2 if asked in ("int8", "fp8") else None)


@pytest.mark.parametrize(
    ("asked", "given", "message"),
    [
        ("fp16", layers(fp16=3, fp32=1), r"1 of 4 heavy layers .* fp32\.0 \(matmul, fp32\)"),
        ("fp16", layers(fp32=5), r"5 of 5 .* fp32\.2 \(matmul, fp32\) and 2 more"),
        ("fp16", layers(bf16=1), "1 of 1"),
        ("bf16", layers(fp16=1), "1 of 1"),
        ("fp32", layers(fp16=1), "1 of 1"),
        ("int8", layers(int8=2, fp32=1), "1 of 3"),
        ("int8", layers(fp16=3), "not one of 3 heavy layers is quantised"),
        ("fp8", layers(fp8=1), "fp8 was asked for 2 linear layers, but 1 are quantised"),
        ("int8", layers(int8=3), "int8 was asked for 2 linear layers, but 3 are quantised"),
    ],
)
def test_not_as_asked(asked: str, given: list[HeavyLayer], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        check_layers(given, asked, quantized=2)


def test_kept_layers_may_differ() -> None:
    check_layers(layers(fp16=1, fp32=2), "fp16", kept={"fp32.0", "fp32.1"})
    with pytest.raises(BackendError, match=r"1 of 3 .* fp32\.1"):
        check_layers(layers(fp16=1, fp32=2), "fp16", kept={"fp32.0"})


def test_weights_of_a_built_engine() -> None:
    check_weights(260_636_544, 260_636_074, "fp16")
    check_weights(5_712_132, 5_709_467, "int8")
    check_weights(9_000, 100, "fp16")
    with pytest.raises(BackendError, match=r"int8 was asked, but .* 8\.3 MB of weights where the graph has 5\.7 MB"):
        check_weights(8_343_424, 5_709_467, "int8")


def test_layers_of_a_built_engine() -> None:
    information = {
        "Layers": [
            {"Name": "a", "LayerType": "gemm", "Outputs": [{"Name": "x", "Format/Datatype": "Half"}]},
            {"Name": "b", "LayerType": "gemm", "Outputs": [{"Name": "y", "Datatype": "Half"}]},
            {"Name": "c", "LayerType": "NoOp", "Outputs": []},
        ],
        "Bindings": ["x"],
    }
    assert count_engine_layers(information) == {"gemm → Half": 2, "NoOp → nothing": 1}
    assert count_engine_layers({"Layers": ["only", "names"]}) == {}
