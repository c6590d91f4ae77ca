"""Which files an ONNX graph refers to, read without the onnx package.

ONNX Runtime follows the ``location`` of external data, and the file named by an EPContext node, wherever they point,
so a bundle must look first. Only the fields on the way to a tensor are entered; everything else, weights included, is
stepped over in a memory map, so a model of many gigabytes costs a few pages. Field numbers: onnx/onnx.proto3 in
onnx/onnx.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import BundleError, IntegrityError
from .manifest import FileRecord, check_relative_path

__all__ = [
    "ExternalData",
    "MalformedError",
    "check_references",
    "context_files",
    "external_data",
    "fields",
    "referenced_files",
    "text_at",
]

# Message → the fields that hold messages worth entering: field number → message.
_ENTERED: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION, _EXTERNAL = 8, 13, 14, 1
_NODE_OP_TYPE, _NODE_ATTRIBUTE, _ATTRIBUTE_NAME, _ATTRIBUTE_I, _ATTRIBUTE_S = 4, 5, 1, 3, 4
_DEPTH = 100  # protobuf's own limit on nesting


@dataclass(frozen=True)
class ExternalData:
    """One tensor kept outside the graph: ``location`` is relative to the graph's folder, sizes in bytes.

    ``length`` is ``None`` where the graph does not say: the rest of the file.
    """

    tensor: str
    location: str
    offset: int = 0
    length: int | None = None


def external_data(path: Path) -> list[ExternalData]:
    """Return every reference to external data in the ONNX file ``path``, in the file's order.

    Raises :class:`BundleError` where the file cannot be read or is no well-formed ONNX protobuf.
    """
    return _references(path)[0]


def context_files(path: Path) -> list[str]:
    """Return the files that the ONNX file ``path`` names in EPContext nodes: compiled engines kept beside it.

    Such a node has its engine inside (``embed_mode`` 1, the default) or names a file, relative to the graph's folder
    (``embed_mode`` 0). Raises :class:`BundleError` as :func:`external_data` does.
    """
    return _references(path)[1]


def referenced_files(root: Path, model: str) -> set[str]:
    """Return the paths, relative to ``root``, of ``model`` and of every file that it refers to, as they are written."""
    tensors, contexts = _references(root / model)
    parent = PurePosixPath(model).parent
    return {model} | {str(parent / one) for one in (*(tensor.location for tensor in tensors), *contexts)}


def check_references(
    root: Path, model: str, files: Mapping[str, FileRecord], what: str = "bundle", record: str = "the manifest"
) -> None:
    """Check that the graph ``model`` of the bundle at ``root`` refers to recorded files of it only.

    ``what`` and ``record`` are for the messages, where ``root`` is another folder than a bundle's.

    Raises :class:`BundleError` for a location that is absolute, goes up, or has no record in ``files``, and
    :class:`IntegrityError` for bytes past the recorded end of a file.
    """

    def recorded(location: str, where: str) -> int:
        try:
            target = str(PurePosixPath(model).parent / check_relative_path(location))
        except ValueError:
            raise BundleError(f"{where}, which leaves the {what} or is no plain relative path") from None
        if target not in files:
            raise BundleError(f"{where}, a file that {record} does not record")
        return files[target].size

    tensors, contexts = _references(root / model)
    for location in contexts:
        recorded(location, f"{root / model}: an EPContext node is kept in {location[:200]!r}")
    known: dict[str, int] = {}
    for item in tensors:
        where = f"{root / model}: tensor {item.tensor[:80]!r} is kept in {item.location[:200]!r}"
        if item.location not in known:
            known[item.location] = recorded(item.location, where)
        size = known[item.location]
        if item.offset + (item.length or 0) > size:
            raise IntegrityError(
                f"{where} at byte {item.offset}, length {item.length or 0}, but that file has {size} bytes"
            )


def _references(path: Path) -> tuple[list[ExternalData], list[str]]:
    tensors, contexts = [], []
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for message, start, end in _messages(data, "Model", 0, len(data), 0):
                if message == "Tensor":
                    tensors.append(_describe(data, start, end))
                else:
                    contexts += _context(data, start, end)
    except MalformedError as error:
        raise BundleError(f"{path} is no well-formed ONNX file: {error}") from error
    except ValueError as error:  # mmap refuses an empty file
        raise BundleError(f"{path} is no ONNX file: it is empty") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
    return tensors, contexts


class MalformedError(Exception):
    """The bytes are no protobuf message of the expected kind."""


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise MalformedError(f"a number at byte {position} is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedError(f"the number before byte {position} has more than ten bytes")


def fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (field number, wire type, start, end) for each field; start is the value itself for a varint."""
    while position < end:
        key, position = _varint(data, position, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(data, position, end)
            yield number, wire, value, position
            continue
        if wire == 2:
            length, position = _varint(data, position, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:  # groups (3, 4) occur in no ONNX message; 6 and 7 do not exist
            raise MalformedError(f"wire type {wire} before byte {position}")
        if number == 0 or length > end - position:
            raise MalformedError(f"field {number} before byte {position} claims {length} of {end - position} bytes")
        yield number, wire, position, position + length
        position += length


def _messages(data: mmap.mmap, message: str, start: int, end: int, depth: int) -> Iterator[tuple[str, int, int]]:
    """Yield the span of every TensorProto below one message that names external data, and of every EPContext node."""
    if depth > _DEPTH:
        raise MalformedError(f"messages are nested more than {_DEPTH} deep")
    if message == "Tensor":
        if any(
            number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and wire == 0 and first == _EXTERNAL)
            for number, wire, first, _ in fields(data, start, end)
        ):
            yield message, start, end
        return
    entered = _ENTERED[message]
    seen = False
    for number, wire, first, last in fields(data, start, end):
        if wire == 2 and number in entered:
            seen = True
            yield from _messages(data, entered[number], first, last, depth + 1)
        elif message == "Node" and number == _NODE_OP_TYPE and wire == 2 and data[first:last] == b"EPContext":
            yield message, start, end
    if message == "Model" and not seen:
        raise MalformedError("it holds no graph")


def _context(data: mmap.mmap, start: int, end: int) -> list[str]:
    """Return the file that an EPContext node names, in a list; none where the engine is inside the node."""
    embedded, spans = True, []
    for number, wire, first, last in fields(data, start, end):
        if number != _NODE_ATTRIBUTE or wire != 2:
            continue
        name, integer, text = "", 0, (0, 0)
        for inner, kind, a, b in fields(data, first, last):
            if inner == _ATTRIBUTE_NAME and kind == 2:
                name = text_at(data, a, b)
            elif inner == _ATTRIBUTE_I and kind == 0:
                integer = a
            elif inner == _ATTRIBUTE_S and kind == 2:
                text = (a, b)
        if name == "embed_mode":
            # Named twice, readers differ over which one counts: the one that may leave the folder does here.
            embedded = embedded and integer != 0
        elif name == "ep_cache_context":
            spans.append(text)
    return [] if embedded else [text_at(data, *span) for span in spans if span[0] < span[1]]


def _describe(data: mmap.mmap, start: int, end: int) -> ExternalData:
    name, entries = "", {}
    for number, wire, first, last in fields(data, start, end):
        if number == _TENSOR_NAME and wire == 2:
            name = text_at(data, first, last)
        elif number == _TENSOR_EXTERNAL_DATA and wire == 2:
            # StringStringEntryProto; where a field occurs twice the last one counts, as in protobuf.
            entry = {n: text_at(data, a, b) for n, w, a, b in fields(data, first, last) if w == 2 and n in (1, 2)}
            key = entry.get(1, "")
            if key in entries:
                # Readers differ over which one counts, so neither is trusted.
                raise MalformedError(f"tensor {name[:80]!r} names its {key[:40]!r} twice")
            entries[key] = entry.get(2, "")
    if "location" not in entries:
        raise MalformedError(f"tensor {name[:80]!r} is kept elsewhere, but no location is given")
    length = entries.get("length")
    return ExternalData(
        tensor=name,
        location=entries["location"],
        offset=_count(entries.get("offset", "0"), name),
        length=None if length is None else _count(length, name),
    )


def text_at(data: mmap.mmap, start: int, end: int) -> str:
    """Return the bytes of a field as text; :class:`MalformedError` for what is none, or too long for a name."""
    if end - start > 65536:
        raise MalformedError(f"a name of {end - start} bytes at byte {start}")
    try:
        return data[start:end].decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(f"the text at byte {start} is no UTF-8") from None


def _count(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise MalformedError(f"tensor {name[:80]!r} has the offset or length {text[:40]!r}, expected bytes")
    return int(text)
