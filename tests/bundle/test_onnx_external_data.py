"""The walk over ONNX protobufs finds every reference that the onnx package can write, and survives junk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dit_deploy.bundle import ExternalData, FileRecord, external_data
from dit_deploy.bundle._onnx import check_references
from dit_deploy.errors import BundleError, IntegrityError

from .conftest import tiny_model


def outside(name: str, location: str = "", **entries: str) -> TensorProto:
    """A tensor kept in a file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location or f"{name}.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def inside(name: str) -> TensorProto:
    return numpy_helper.from_array(np.ones(4, np.float32), name)


def field(number: int, length: int) -> bytes:
    """The start of a protobuf field that holds ``length`` bytes."""
    out = b""
    for value in (number << 3 | 2, length):
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        out += bytes([value])
    return out


def constant(name: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=outside(name))


def sparse(name: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside(name), indices=outside(f"{name}_indices"), dims=[8])


def everywhere() -> onnx.ModelProto:
    """A model that keeps a tensor outside in each place where a tensor can be."""
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    deepest = helper.make_graph([constant("in_loop")], "deepest", [], [output], [outside("loop_initializer")])
    branch = helper.make_graph(
        [helper.make_node("Loop", ["a"], ["y"], body=deepest), constant("in_branch")], "branch", [], [output]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, domain="test")
    node.attribute.append(helper.make_attribute("tensors", [outside("in_list")]))
    node.attribute.append(helper.make_attribute("graphs", [helper.make_graph([constant("in_graphs")], "g", [], [])]))
    node.attribute.append(helper.make_attribute("sparse", sparse("sparse_attribute")))
    graph = helper.make_graph([node], "main", [], [output], [inside("kept"), outside("initializer")])
    graph.sparse_initializer.append(sparse("sparse_initializer"))
    function = helper.make_function(
        "test", "Function", [], ["y"], [constant("in_function")], [helper.make_opsetid("", 18)], []
    )
    function.attribute_proto.append(helper.make_attribute("default", outside("in_default")))
    model = helper.make_model(graph, functions=[function])
    training = model.training_info.add()
    training.algorithm.initializer.append(outside("in_algorithm"))
    training.initialization.node.append(constant("in_initialization"))
    return model


def test_every_place_is_visited(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(everywhere().SerializeToString())
    assert {item.tensor for item in external_data(path)} == {
        "initializer", "in_loop", "loop_initializer", "in_branch", "in_list", "in_graphs", "in_function", "in_default",
        "in_algorithm", "in_initialization", "sparse_attribute", "sparse_attribute_indices", "sparse_initializer",
        "sparse_initializer_indices",
    }  # fmt: skip
    assert all(item.location == f"{item.tensor}.bin" for item in external_data(path))


def test_every_message_type_that_holds_tensors_is_entered() -> None:
    """The table of fields agrees with the onnx package's descriptors, so a new field shows here."""
    from dit_deploy.bundle._onnx import _ENTERED

    short = {f"{name}Proto": name for name in (*_ENTERED, "Tensor")}
    for name, fields in _ENTERED.items():
        expected = {
            field.number: short[field.message_type.name]
            for field in getattr(onnx, f"{name}Proto").DESCRIPTOR.fields
            if field.message_type is not None and field.message_type.name in short
        }
        assert fields == expected, name


def test_files_written_by_onnx(tmp_path: Path) -> None:
    plain, one = tmp_path / "plain.onnx", tmp_path / "one.onnx"
    onnx.save(tiny_model(1000), plain)
    assert external_data(plain) == []
    onnx.save(tiny_model(1000), one, save_as_external_data=True, location="one.data", size_threshold=0)
    assert external_data(one) == [ExternalData("weight", "one.data", 0, 4000)]


def test_weights_are_stepped_over(tmp_path: Path) -> None:
    """A graph of two gigabytes, most of it a hole in the file, is walked at once."""
    path, size = tmp_path / "large.onnx", 2_000_000_000
    tail = onnx.ModelProto(graph=onnx.GraphProto(initializer=[outside("late")])).SerializeToString()

    raw = field(9, size)
    tensor = field(5, len(raw) + size)
    with path.open("wb") as stream:
        stream.write(field(7, len(tensor) + len(raw) + size) + tensor + raw)
        stream.seek(size, 1)
        stream.write(tail)
    assert external_data(path) == [ExternalData("late", "late.bin")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is empty"),
        (b"\x08", "is cut off"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x3a\x05ab", "claims 5 of 2 bytes"),
        (b"\x3b", "wire type 3"),
        (b"\x02\x00", "field 0"),
        (b"\x08\x07", "it holds no graph"),
        (b"PK\x03\x04 a zip file, as torch.save writes it", "no well-formed ONNX file"),
        (b"\x3a\x02" * 1, "claims 2 of 0"),
    ],
)
def test_malformed_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message):
        external_data(path)


def test_absurd_nesting_is_refused(tmp_path: Path) -> None:
    # By hand, because onnx refuses to write it. A graph's node (1) has an attribute (5), that a graph (6).
    data = b""
    for number in (6, 5, 1) * 40:
        data = field(number, len(data)) + data
    path = tmp_path / "model.onnx"
    path.write_bytes(field(7, len(data)) + data)
    with pytest.raises(BundleError, match="nested more than 100 deep"):
        external_data(path)


@pytest.mark.parametrize(
    ("location", "entries", "message"),
    [
        ("/etc/passwd", {}, "leaves the bundle"),
        ("../scheduler/config.json", {}, "leaves the bundle"),
        ("a/../../x", {}, "leaves the bundle"),
        ("C:\\weights", {}, "leaves the bundle"),
        ("*/_ORT_MEM_ADDR_/*", {}, "leaves the bundle"),
        ("other.data", {}, "a file that the manifest does not record"),
        ("model.data", {"length": "17"}, "at byte 0, length 17, but that file has 16 bytes"),
        ("model.data", {"offset": "8", "length": "9"}, "at byte 8, length 9"),
        ("model.data", {"offset": "-1"}, "expected bytes"),
        ("model.data", {"length": "9" * 30}, "expected bytes"),
    ],
)
def test_locations_that_are_refused(tmp_path: Path, location: str, entries: dict[str, str], message: str) -> None:
    files = {"denoiser/model.data": FileRecord(size=16, sha256="0" * 64)}
    path = tmp_path / "denoiser/model.onnx"
    path.parent.mkdir()
    tensor = outside("weight", location, **entries)
    path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
    kind = IntegrityError if "byte" in message and "expected" not in message else BundleError
    with pytest.raises(kind, match=message):
        check_references(tmp_path, "denoiser/model.onnx", files)


def test_locations_that_pass(tmp_path: Path) -> None:
    record = FileRecord(size=16, sha256="0" * 64)
    tensors = [outside("a", "model.data", offset="0", length="16"), outside("b", "deeper/model.data", checksum="x")]
    for model, files in (
        ("denoiser/model.onnx", {"denoiser/model.data": record, "denoiser/deeper/model.data": record}),
        ("model.onnx", {"model.data": record, "deeper/model.data": record}),
    ):
        path = tmp_path / model
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=tensors)).SerializeToString())
        check_references(tmp_path, model, files)


def test_a_location_given_twice_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    twice = outside("weight")
    twice.external_data.add(key="location", value="/etc/passwd")
    none = TensorProto(name="weight", data_location=TensorProto.EXTERNAL)
    for tensor, message in ((twice, "names its 'location' twice"), (none, "no location is given")):
        path.write_bytes(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())
        with pytest.raises(BundleError, match=message):
            external_data(path)


GOOD = everywhere().SerializeToString()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, len(GOOD)),
)
def test_what_onnx_can_read_holds_no_reference_that_the_walk_missed(
    tmp_path: Path, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(GOOD)
    for position, byte in edits:
        data[position] = byte
    if cut % 3 == 0:
        data = data[:cut]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    try:
        found = {item.location for item in external_data(path)}
    except BundleError:
        return
    try:
        model = onnx.ModelProto.FromString(bytes(data))
    except Exception:
        return
    tensors = list(model.graph.initializer) + [
        attribute.t for function in model.functions for node in function.node for attribute in node.attribute
    ]
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key == "location":
                assert entry.value in found
