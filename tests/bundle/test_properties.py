"""Whatever happens to the bytes of a bundle: a ``BundleError``, or the meaning it was written with."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_deploy.bundle import Bundle, Manifest, summarise
from dit_deploy.bundle._reader import digest_line
from dit_deploy.errors import BundleError

from .conftest import make

MANIFEST, DIGEST = "manifest.json", "manifest.json.sha256"
FILES = [
    "denoiser/model.onnx", "denoiser/model.onnx.data", "scheduler/scheduler_config.json", "vae_decoder/model.onnx",
    MANIFEST, DIGEST,
]  # fmt: skip
PATHS = ["../secret", "/etc/passwd", "denoiser/../../secret", "link", "", ".", "denoiser", "a\0b", "x" * 300, "\ud800"]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(PATHS),
    st.sampled_from([2**63, 10**400, -1, 1.0, "1", [[]], {"": {}}]),
    st.recursive(st.integers(0, 3), lambda inner: st.lists(inner, max_size=2), max_leaves=4),
)  # fmt: skip


class Original:
    """The bundle as written, and a copy of it to spoil."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tiny"
        self.bundle = make(self.root)
        (folder / "secret").write_bytes(b"secret")
        self.bytes = {name: (self.root / name).read_bytes() for name in FILES}
        self.document = json.loads(self.bytes[MANIFEST])

    def restore(self) -> None:
        if sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()) != sorted(FILES):
            shutil.rmtree(self.root)
        for name, data in self.bytes.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def write_manifest(self, document: Any, *, digest: bool) -> None:
        data = json.dumps(document).encode()
        (self.root / MANIFEST).write_bytes(data)
        if digest:
            (self.root / DIGEST).write_bytes(digest_line(hashlib.sha256(data).hexdigest()))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return Original(tmp_path_factory.mktemp("properties"))


def open_or_refuse(root: Path) -> Bundle | None:
    """Open, and use everything that reads; anything but a one-line ``BundleError`` fails the test."""
    try:
        bundle = Bundle.open(root)
    except BundleError as error:
        message = str(error)
    else:
        use(bundle, root)
        return bundle
    assert "\n" not in message
    assert len(message) < 1500
    return None


def use(bundle: Bundle, root: Path) -> None:
    """Read everything that an opened bundle gives."""
    real_root = os.path.realpath(root)
    for name in bundle.manifest.files:
        assert os.path.realpath(bundle.file(name)).startswith(real_root + os.sep)
    bundle.verify()
    with contextlib.suppress(BundleError):
        json.dumps(summarise(bundle), allow_nan=False)


def nodes(value: Any, parent: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of every node below a JSON document."""
    if parent is not None:
        yield parent, key
    if isinstance(value, dict | list):
        for inner in list(value) if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[inner], value, inner)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), digest=st.booleans())
def test_any_node_of_the_manifest(original: Original, data: st.DataObject, digest: bool) -> None:
    """Dropped, renamed or replaced; with ``digest`` by someone who puts the manifest's SHA-256 right too."""
    original.restore()
    document = copy.deepcopy(original.document)
    for _ in range(data.draw(st.integers(1, 2))):
        places = list(nodes(document))
        parent, key = places[data.draw(st.integers(0, len(places) - 1))] if places else ({}, "gone")
        action = data.draw(st.sampled_from(["drop", "rename", "replace", "repeat"]))
        value = parent.pop(key) if key != "gone" else None
        if action == "rename" and isinstance(parent, dict):
            parent[data.draw(st.one_of(st.text(max_size=6), st.sampled_from(PATHS)))] = value
        elif action == "replace":
            new = data.draw(JUNK)
            parent.insert(key, new) if isinstance(parent, list) else parent.update({key: new})
        elif action == "repeat" and isinstance(parent, list):
            parent[key:key] = [value, value]
    original.write_manifest(document, digest=digest)
    bundle = open_or_refuse(original.root)
    if bundle is None:
        return
    if not digest:
        assert bundle.manifest == original.bundle.manifest
    else:
        # What was given is what was understood: nothing is read as another type or left out.
        understood = json.loads(bundle.manifest.to_json())
        assert contained(document, understood), (document, understood)


def contained(given_value: Any, understood: Any) -> bool:
    """Say whether every value of one document stands in the other, which may have defaults besides."""
    if isinstance(given_value, dict) and isinstance(understood, dict):
        return all(key in understood and contained(value, understood[key]) for key, value in given_value.items())
    if isinstance(given_value, list) and isinstance(understood, list):
        return len(given_value) == len(understood) and all(map(contained, given_value, understood))
    if isinstance(given_value, int) and isinstance(understood, float):
        return float(given_value) == understood and not isinstance(given_value, bool)
    return type(given_value) is type(understood) and bool(given_value == understood)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), name=st.sampled_from(FILES), flip=st.integers(1, 255))
def test_any_byte_of_any_file(original: Original, data: st.DataObject, name: str, flip: int) -> None:
    original.restore()
    spoiled = bytearray(original.bytes[name])
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= flip
    (original.root / name).write_bytes(spoiled)
    bundle = open_or_refuse(original.root)
    assert bundle is None or name not in (MANIFEST, DIGEST)
    if bundle is not None:
        assert bundle.manifest == original.bundle.manifest
        assert [problem.path for problem in bundle.verify()] == [name]
    assert [(problem.path, problem.kind) for problem in original.bundle.verify()] == [(name, "altered")]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(FILES), more=st.binary(max_size=3))
def test_a_file_cut_short_or_longer(original: Original, data: st.DataObject, name: str, more: bytes) -> None:
    original.restore()
    whole = original.bytes[name]
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))] + more
    (original.root / name).write_bytes(cut)
    if cut != whole:
        # Of the same length only where one byte or more was replaced at the end.
        same_size = len(cut) == len(whole) and name not in (MANIFEST, DIGEST)
        bundle = open_or_refuse(original.root)
        assert bundle is None or same_size
        assert [problem.path for problem in original.bundle.verify()] == [name]


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300), name=st.sampled_from([MANIFEST, DIGEST]))
def test_any_bytes_for_a_manifest(original: Original, data: bytes, name: str) -> None:
    original.restore()
    (original.root / name).write_bytes(data)
    assert open_or_refuse(original.root) is None


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(FILES), action=st.sampled_from(["remove", "folder", "link out", "link in", "fifo", "loop"]))
def test_anything_in_place_of_a_file(original: Original, name: str, action: str) -> None:
    original.restore()
    path = original.root / name
    path.unlink()
    if action == "folder":
        path.mkdir()
    elif action == "fifo":
        os.mkfifo(path)
    elif action == "loop":
        path.symlink_to(path.name)
    elif action == "link out":
        path.symlink_to(original.root.parent / "secret")
    elif action == "link in":
        path.symlink_to(original.root / ("denoiser/model.onnx" if name != "denoiser/model.onnx" else FILES[-1]))
    try:
        assert open_or_refuse(original.root) is None
        assert name in [problem.path for problem in original.bundle.verify()]
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@settings(max_examples=50, deadline=None)
@given(path=st.one_of(st.sampled_from(PATHS), st.text(max_size=12), st.from_regex(r"[./\\a-z~]{1,12}", fullmatch=True)))
def test_any_path_in_the_manifest(original: Original, path: str) -> None:
    """As a component's path, with a record of its own: opened only if such a file is there."""
    original.restore()
    (original.root.parent / "link").unlink(missing_ok=True)
    document = copy.deepcopy(original.document)
    document["files"][path] = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    document["components"]["vae_decoder"]["path"] = path
    original.write_manifest(document, digest=True)
    assert open_or_refuse(original.root) is None


def test_the_manifest_survives_the_trip(original: Original) -> None:
    original.restore()
    assert Manifest.model_validate_json(original.bytes[MANIFEST]) == original.bundle.manifest
    assert open_or_refuse(original.root) is not None
