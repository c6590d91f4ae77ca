"""What is made of a library's words. Most are those of TensorRT-RTX 1.7.1; test_tensorrt.py provokes them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_deploy.exporters.builders.refusal import SourceNames, advice, explain
from tests.exporters.builders import graphs

ATTENTION = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] "
    "MyelinCheckException: decompose_composite_ops.cpp:59: CHECK(composite_op->is_decomposable()) failed. Attention "
    "operation was not supported by a dedicated kernel.  (See https://example.org/a.html#b for shapes and datatypes "
    "with dedicated kernels.)  Alternatively, padded attention operation may be marked as decomposable"
)
NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
    "version))"
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    graphs.attention(tmp_path / "denoiser.onnx")
    return tmp_path / "denoiser.onnx"


def test_the_node_and_where_it_came_from(graph: Path) -> None:
    detail = {
        "message": "Invalid Node - node_to_q\nITensor::getDimensions: Error Code 4: API Usage Error (node_to_q: "
        "IMatrixMultiplyLayer must have same input types. `A` is of type Float and `B` is of type Half. In "
        f"validateTypes at /_src/optimizer/common/nodes/matrixMultiplyNode.cpp:38)\n{NO_DRIVER}",
        "code": "INVALID_NODE",
        "node": "node_to_q",
        "operator": "MatMul",
        "functions": [],
    }
    assert explain(graph, "TensorRT-RTX 1.7.1", [{"message": NO_DRIVER}, detail]) == (
        "TensorRT-RTX 1.7.1 refuses denoiser.onnx: node node_to_q (MatMul; weights blocks.3.to_q.weight): node_to_q: "
        "IMatrixMultiplyLayer must have same input types. `A` is of type Float and `B` is of type Half. "
        "Try a Cast where the types meet: a strongly typed network converts nothing by itself"
    )


def test_an_attention_without_a_name(graph: Path) -> None:
    message = explain(graph, "TensorRT-RTX 1.7.1", [{"message": ATTENTION}])
    assert message == (
        "TensorRT-RTX 1.7.1 refuses denoiser.onnx: node node_attention (Attention; blocks.3 in the source model): "
        "Attention operation was not supported by a dedicated kernel. Alternatively, padded attention operation may "
        "be marked as decomposable. Try fp16 or bf16, as fused attention takes no fp32 and no odd head size; or "
        "attention decomposed"
    )


@pytest.mark.parametrize(
    ("said", "where", "tried"),
    [
        (
            "Error Code 10: Internal Error (Could not find any implementation for node node_to_k.)",
            "node node_to_k (MatMul; weights blocks.3.to_k.weight)",
            "narrower profiles",
        ),
        (
            "Error Code 10: Internal Error (Could not find any implementation for node "
            "{ForeignNode[node_to_q...node_attention]} due to insufficient workspace. See verbose log for requested "
            "sizes.)",
            "node node_to_q (MatMul; weights blocks.3.to_q.weight) … node_attention (Attention; blocks.3 in the source",
            "narrower profiles",
        ),
        (
            "Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot compile operation 'node_to_v' "
            "for Turing (SM75): FP32 GEMM is not supported. In compileGraph at /_src/a.cpp:2012)",
            "node node_to_v (MatMul; weights blocks.3.to_v.weight)",
            "fp16, which 7.5 needs",
        ),
    ],
)
def test_a_node_within_a_message(graph: Path, said: str, where: str, tried: str) -> None:
    message = explain(graph, "TensorRT 10.14", [{"message": said}])
    assert where in message
    assert f"Try {tried}" in message
    assert "/_src" not in message


@pytest.mark.parametrize(
    ("said", "tried"),
    [
        ("UNSUPPORTED_NODE: false", "another export of this operator"),
        ("No importer registered for op: GroupNorm7", "another export of this operator"),
        ("Non-zero zero point is not supported.", "symmetric int8"),
        ("no tactics to implement the operation within workspace limit", "a larger workspace"),
        ("Requested amount of GPU memory could not be allocated: Cuda Runtime (out of memory)", "a smaller maximum"),
        ("was killed, as happens where memory runs out (phase 'Timing')", "a smaller maximum"),
        ("Resize: unsupported type BFloat16", "a Cast to float32 around Resize"),
        ("MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.", "a machine with an NVIDIA"),
        ("please ensure that the optimization profiles satisfy MIN<=OPT<=MAX.", "profiles whose minimum"),
        ("crashed (SIGSEGV) (phase 'Building engine')", "another precision, or attention decomposed"),
        ("something new", "another precision, or this component with the onnxruntime backend"),
    ],
)
def test_advice(said: str, tried: str) -> None:
    assert advice(said).startswith(tried)


def test_nothing_said(graph: Path) -> None:
    assert "denoiser.onnx: it gives no reason. Try" in explain(graph, "TensorRT 10.14", [])
    assert "denoiser.onnx: it gives no reason. Try" in explain(graph, "TensorRT 10.14", [{"message": NO_DRIVER}])


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no protobuf")
    detail = {"message": "false", "code": "UNSUPPORTED_NODE", "node": "node_7", "operator": "Det", "functions": ["f"]}
    assert explain(tmp_path / "model.onnx", "TensorRT 10.14", [detail]).startswith(
        "TensorRT 10.14 refuses model.onnx: node node_7 (Det) (inside function f): UNSUPPORTED_NODE: "
    )


def test_names_that_mean_a_node(graph: Path) -> None:
    names = SourceNames(graph)
    assert names.named(["blocks.3.to_q", "node_to_k", "blocks.3.to_v.weight"]) == {
        "node_to_q",
        "node_to_k",
        "node_to_v",
    }
    assert names.named(["blocks.3"]) == {"node_attention"}
    assert names.named(["blocks", "to_q"]) == set()


def test_weights_behind_casts_and_quantisation(tmp_path: Path) -> None:
    graphs.quantized(tmp_path / "model.onnx")
    assert SourceNames(tmp_path / "model.onnx").describe("node_first") == (
        "node_first (MatMul; weights blocks.3.to_q.weight)"
    )
