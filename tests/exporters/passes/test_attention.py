"""Attention forms against the untouched operator in ONNX Runtime and against PyTorch's own attention."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch.nn import functional as F

from dit_deploy import Bundle
from dit_deploy.errors import ExportError
from dit_deploy.exporters.passes.attention import Form, lower_attention
from dit_deploy.exporters.passes.graph_file import check_types, load_graph, save_graph
from dit_deploy.exporters.tracing import example_inputs

FORMS: list[Form] = ["microsoft", "decomposed"]


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)


def counts(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("component", ["denoiser", "vae_encoder", "vae_decoder"])
def test_a_bundle_computes_as_before_at_every_size(
    tiny_bundle: Path, tmp_path: Path, component: str, form: Form
) -> None:
    bundle = Bundle.open(tiny_bundle)
    path = tiny_bundle / bundle.component(component).path
    model = load_graph(path)
    before = counts(model)
    assert lower_attention(model, form) == before["Attention"] > 0
    check_types(model)
    assert counts(model)["Attention"] == 0
    save_graph(model, tmp_path / "lowered.onnx")
    reference, lowered = (ort.InferenceSession(one) for one in (path, tmp_path / "lowered.onnx"))
    names = ("batch", "patch_height", "patch_width", "latent_height", "latent_width")
    for sizes in ((1, 1, 1, 1, 1), (3, 5, 3, 5, 3), (1, 4, 7, 4, 7), (2, 9, 2, 9, 2)):
        feeds = example_inputs(bundle.component(component), dict(zip(names, sizes, strict=True)), seed=sum(sizes))
        for found, expected in zip(lowered.run(None, feeds), reference.run(None, feeds), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max(), err_msg=str(sizes))


def test_microsoft_form_takes_the_projections_themselves(tiny_bundle: Path) -> None:
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    before = counts(model)
    blocks = lower_attention(model, "microsoft")
    after = counts(model)
    assert after["MultiHeadAttention"] == blocks == 2
    # Split and swap, three times on the way in, once on the way out.
    assert before["Transpose"] - after["Transpose"] == before["Reshape"] - after["Reshape"] == 4 * blocks
    node = next(node for node in model.graph if node.op_type == "MultiHeadAttention")
    assert [value.producer().op_type for value in node.inputs] == ["Add"] * 3  # type: ignore[union-attr]
    assert node.attributes.get_int("num_heads") == 3
    assert "blocks.0" in node.metadata_props["pkg.torch.onnx.name_scopes"]


def test_onnx_form_changes_nothing(tiny_bundle: Path) -> None:
    model = load_graph(tiny_bundle / "denoiser" / "model.onnx")
    before = [node.name for node in model.graph]
    assert lower_attention(model, "onnx") == 0
    assert [node.name for node in model.graph] == before


def make(
    inputs: dict[str, tuple[ir.DataType, list[int | str]]], attributes: dict[str, int | float], outputs: int = 1
) -> ir.Model:
    """Return a graph of one Attention; ``""`` among the inputs is one left out."""
    values = [
        ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(axes)) for name, (dtype, axes) in inputs.items()
    ]
    node = ir.node("Attention", [value if value.name else None for value in values], attributes, num_outputs=outputs)
    node.name = "attend"
    for index, value in enumerate(node.outputs):
        value.name = f"output_{index}"
    output, query = node.outputs[0], values[0]
    output.type, output.shape = query.type, ir.Shape(list(query.shape))  # type: ignore[arg-type]
    given = [value for value in values if value.name]
    return ir.Model(
        ir.Graph(given, node.outputs, nodes=[node], opset_imports={"": 23}, name="attention"), ir_version=10
    )


@pytest.mark.parametrize(("heads", "width", "decomposed"), [(2, 256, False), (1, 384, True), (3, 264, True)])
@pytest.mark.parametrize("rank", [3, 4])
def test_onnx_form_decomposes_heads_too_wide_for_a_fused_kernel(
    tmp_path: Path, heads: int, width: int, decomposed: bool, rank: int
) -> None:
    axes: list[int | str] = ["batch", "tokens", heads * width] if rank == 3 else ["batch", heads, "tokens", width]
    attributes = {"q_num_heads": heads, "kv_num_heads": heads} if rank == 3 else {}
    model = make(dict.fromkeys(("query", "key", "value"), (ir.DataType.FLOAT, axes)), attributes)
    ir.save(model, tmp_path / "plain.onnx")
    assert lower_attention(model, "onnx") == int(decomposed)
    assert counts(model)["Attention"] == int(not decomposed)
    ir.save(model, tmp_path / "lowered.onnx")
    drawn = np.random.default_rng(width)
    shape = [{"batch": 2, "tokens": 5}.get(str(axis), axis) for axis in axes]
    feeds = {name: drawn.normal(size=shape).astype(np.float32) for name in ("query", "key", "value")}
    for found, expected in zip(run(tmp_path / "lowered.onnx", feeds), run(tmp_path / "plain.onnx", feeds), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


FLOAT, BOOL = ir.DataType.FLOAT, ir.DataType.BOOL
Q = (FLOAT, ["batch", 4, "tokens", 8])
KV = (FLOAT, ["batch", 4, "kv_tokens", 8])

#: name: mask's type and axes, attributes, are keys as many as queries.
VARIANTS: dict[str, tuple[tuple[ir.DataType, list[int | str]] | None, dict[str, int | float], bool]] = {
    "plain": (None, {}, False),
    "scale": (None, {"scale": 0.7}, False),
    "causal": (None, {"is_causal": 1}, True),
    "padding": ((BOOL, ["batch", 1, 1, "kv_tokens"]), {}, False),
    "boolean": ((BOOL, ["tokens", "kv_tokens"]), {"scale": 0.2}, False),
    "per head": ((FLOAT, [4, "tokens", "kv_tokens"]), {}, False),
    "bias": ((FLOAT, ["batch", 4, "tokens", "kv_tokens"]), {"scale": 0.5}, False),
    "one for all": ((FLOAT, [1, 1, "tokens", 1]), {}, False),
    "causal and mask": ((BOOL, ["batch", 1, "tokens", "tokens"]), {"is_causal": 1}, True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_agree_with_torch(tmp_path: Path, variant: str, form: Form) -> None:
    mask_type, attributes, square = VARIANTS[variant]
    kv = (FLOAT, ["batch", 4, "tokens", 8]) if square else KV
    inputs = {"query": Q, "key": kv, "value": kv} | ({"mask": mask_type} if mask_type else {})
    model = make(inputs, attributes)
    lower_attention(model, form)
    check_types(model)
    save_graph(model, tmp_path / "lowered.onnx")
    generator = np.random.default_rng(1)
    for batch, tokens, kv_tokens in ((1, 1, 3), (3, 7, 5), (2, 65, 130)):
        sizes = {"batch": batch, "tokens": tokens, "kv_tokens": tokens if square else kv_tokens}
        feeds: dict[str, np.ndarray] = {}
        for name, (dtype, axes) in inputs.items():
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
            feeds[name] = generator.standard_normal(shape, np.float32)
            if dtype == BOOL:
                feeds[name] = generator.random(shape) < 0.6
                feeds[name][..., 0] = True
        (found,) = run(tmp_path / "lowered.onnx", feeds)
        tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
        mask = tensors.get("mask")
        causal = bool(attributes.get("is_causal"))
        if causal and mask is not None:  # torch takes one of the two
            mask, causal = mask & torch.ones(tokens, tokens, dtype=torch.bool).tril(), False
        expected = F.scaled_dot_product_attention(
            tensors["query"], tensors["key"], tensors["value"], mask, is_causal=causal, scale=attributes.get("scale")
        )
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["Boolean", "float"])
def test_a_row_without_keys_is_zero(tmp_path: Path, form: Form, kind: str) -> None:
    dtype = BOOL if kind == "Boolean" else FLOAT
    model = make({"query": Q, "key": KV, "value": KV, "mask": (dtype, ["tokens", "kv_tokens"])}, {})
    lower_attention(model, form)
    save_graph(model, tmp_path / "lowered.onnx")
    generator = np.random.default_rng(0)
    query, key, value = (generator.standard_normal((2, 4, count, 8), np.float32) for count in (3, 5, 5))
    allowed = np.array([[1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]], bool)
    mask = allowed if kind == "Boolean" else np.where(allowed, np.float32(0), np.float32(-np.inf))
    (found,) = run(tmp_path / "lowered.onnx", {"query": query, "key": key, "value": value, "mask": mask})
    assert (found[:, :, 1] == 0).all()
    np.testing.assert_allclose(found[:, :, 2], value[:, :, 1], atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_grouped_heads_in_both_layouts(tmp_path: Path, form: Form, rank: int, kv_heads: int) -> None:
    def axes(tokens: str, heads: int, width: int) -> list[int | str]:
        return ["batch", heads, tokens, width] if rank == 4 else ["batch", tokens, heads * width]

    attributes: dict[str, int | float] = {} if rank == 4 else {"q_num_heads": 6, "kv_num_heads": kv_heads}
    inputs = {
        "query": (FLOAT, axes("tokens", 6, 8)),
        "key": (FLOAT, axes("kv_tokens", kv_heads, 8)),
        "value": (FLOAT, axes("kv_tokens", kv_heads, 8)),
    }
    model = make(inputs, attributes)
    lower_attention(model, form)
    check_types(model)
    save_graph(model, tmp_path / "lowered.onnx")
    generator = np.random.default_rng(0)
    query = torch.from_numpy(generator.standard_normal((2, 6, 5, 8), np.float32))
    key, value = (torch.from_numpy(generator.standard_normal((2, kv_heads, 9, 8), np.float32)) for _ in range(2))
    expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)

    def laid_out(tensor: torch.Tensor) -> np.ndarray:
        return (tensor if rank == 4 else tensor.transpose(1, 2).flatten(2)).numpy()

    feeds = {"query": laid_out(query), "key": laid_out(key), "value": laid_out(value)}
    (found,) = run(tmp_path / "lowered.onnx", feeds)
    np.testing.assert_allclose(found, laid_out(expected), atol=1e-5)


def test_soft_cap_and_causality_over_unequal_lengths_where_they_exist(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    feeds = {
        name: generator.standard_normal((2, 4, count, 8), np.float32) * 3
        for name, count in (("query", 3), ("key", 5), ("value", 5))
    }
    for attributes, refusal in (
        ({"softcap": 2.0}, "attend: MultiHeadAttention has no soft cap; lower it to 'decomposed'"),
        ({"is_causal": 1}, "attend: causal attention of tokens queries over kv_tokens keys"),
    ):
        model = make({"query": Q, "key": KV, "value": KV}, attributes)
        save_graph(model, tmp_path / "plain.onnx")
        with pytest.raises(ExportError, match=refusal):
            lower_attention(model, "microsoft")
        assert [node.op_type for node in model.graph] == ["Attention"]  # nothing was changed
        lower_attention(model, "decomposed")
        save_graph(model, tmp_path / "lowered.onnx")
        (found,), (expected,) = (run(tmp_path / f"{name}.onnx", feeds) for name in ("lowered", "plain"))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_no_other_form_has_is_refused_by_name(form: Form) -> None:
    mask = (FLOAT, ["tokens", "kv_tokens"])
    past = {"query": Q, "key": KV, "value": KV, "mask": mask, "past_key": KV, "past_value": KV}
    with pytest.raises(ExportError, match="attend: attention over past keys"):
        lower_attention(make(past, {}), form)
    with pytest.raises(ExportError, match="attend: output output_1 exists in form 'onnx' only"):
        lower_attention(make({"query": Q, "key": KV, "value": KV}, {}, outputs=2), form)
    free = (FLOAT, ["batch", "heads", "tokens", 8])
    with pytest.raises(ExportError, match=r"attend: axis 1 of query is heads; heads and their size must be fixed"):
        lower_attention(make({"query": free, "key": free, "value": free}, {}), form)
