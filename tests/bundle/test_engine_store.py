"""Engines in a bundle: opened with every check, written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from dit_deploy.bundle import Bundle, Engine, EngineComponent, EngineWriter, Target, graph_digest
from dit_deploy.bundle._onnx import context_files
from dit_deploy.errors import BundleError, InputError, IntegrityError

from .conftest import make, rewrite, tiny_model
from .engines import KEY, build, context_model, copy_engine, rewrite_engine


def refusal(bundle: Bundle, kind: type[BundleError] = BundleError, name: str = "fast") -> str:
    """Return the message with which an engine is refused; always one line."""
    with pytest.raises(BundleError) as caught:
        bundle.engine(name)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_engine_is_found_again(bundle: Bundle) -> None:
    built = build(bundle)
    opened = Bundle.open(bundle.path).engine("fast")
    assert opened.record == built.record
    assert opened.path == bundle.path / "engines/fast"
    assert opened.file("denoiser") == opened.path / "denoiser.onnx"
    assert opened.files_of("denoiser") == ["denoiser.onnx", "denoiser.onnx.data"]
    assert bundle.engine_names() == ["fast"]
    assert opened.verify() == [] and bundle.verify() == []
    assert sorted(os.listdir(bundle.path / "engines")) == ["fast"], "no lock or hidden folder is left"
    with pytest.raises(BundleError, match="has no component 'vae_decoder'; it has denoiser"):
        opened.file("vae_decoder")
    with pytest.raises(BundleError, match=r"engine\.json records no file 'x'"):
        opened.recorded("x")


def test_a_later_build_replaces_an_earlier_one(bundle: Bundle) -> None:
    build(bundle, before_finish=lambda writer: writer.file("old.bin").write_bytes(b"old"))
    build(bundle, key_parts={**KEY, "precision": "fp16"}, precision="fp16")
    assert Bundle.open(bundle.path).engine("fast").record.precision == "fp16"
    assert sorted(os.listdir(bundle.path / "engines/fast")) == ["denoiser.onnx", "denoiser.onnx.data", "engine.json"]


def test_exporting_again_drops_engines(bundle: Bundle) -> None:
    build(bundle)
    assert make(bundle.path, overwrite=True).engine_names() == []


def test_names_that_there_are_not(bundle: Bundle) -> None:
    assert "has no engine 'fast'; it has none; `dit-deploy build-engine` builds one" in refusal(bundle)
    build(bundle)
    for name in ("slow", "../fast", "", ".", "a\nb", ".fast", "onnx"):
        assert "it has fast" in refusal(bundle, name=name)
    (bundle.path / "engines/partial").mkdir()
    assert "is no finished engine, it has no engine.json; remove it" in refusal(bundle, name="partial")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("denoiser.onnx", "cut", "bytes, but engine.json says"),
        ("denoiser.onnx.data", "", "has 0 bytes, but engine.json says 16; copy the engine again, or build it again"),
        ("denoiser.onnx.data", None, "denoiser.onnx.data is missing; build it again"),
    ],
)
def test_a_file_cut_short(bundle: Bundle, file: str, text: str | None, message: str) -> None:
    path = build(bundle).path / file
    path.unlink() if text is None else path.write_text(text)
    assert message in refusal(bundle, IntegrityError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected strict JSON"),
        (b'{"format": "dit-deploy-engine", "version": 1', "expected strict JSON"),
        (b"[]", "expected a JSON object"),
        (b"{}", "is no record of an engine: its format is not 'dit-deploy-engine'"),
        (b'{"format": "dit-deploy-engine", "version": true}', "version: expected 1, but got True"),
        (b'{"format": "dit-deploy-engine", "version": 2}', "this engine is version 2; this dit-deploy reads version 1"),
        (b'{"format": "dit-deploy-engine", "version": 1}', "name: is required, but missing (and "),
        (b'{"format": "dit-deploy-engine", "version": 1, "version": 1}', "the key 'version' occurs twice"),
    ],
)
def test_a_record_that_is_none(bundle: Bundle, data: bytes, message: str) -> None:
    (build(bundle).path / "engine.json").write_bytes(data)
    assert message in refusal(bundle)
    assert [(problem.path, problem.kind) for problem in bundle.verify()] == [("engines/fast/engine.json", "unreadable")]
    assert build(bundle).verify() == [], "a damaged engine is built anew"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(precision="int4"), "precision: input should be 'fp32'"),
        (lambda d: d.update(seconds=float("nan")), "NaN is not a JSON number"),
        (lambda d: d.update(name="other"), "is of an engine called 'other'; rename the folder back"),
        (lambda d: d["key_parts"].update(backend="x"), "engine: key is not the SHA-256 over key_parts"),
        (lambda d: d["files"].update({"../x": d["files"]["denoiser.onnx"]}), "is not a plain relative path"),
        (lambda d: d["components"].update(other=d["components"]["denoiser"]), "has a component 'other', which the"),
        (lambda d: d["files"].pop("denoiser.onnx.data"), "'denoiser.onnx.data', a file that engine.json does not"),
    ],
)  # fmt: skip
def test_a_record_that_says_something_else(bundle: Bundle, change: Callable[[Any], object], message: str) -> None:
    rewrite_engine(build(bundle), change)
    assert message in refusal(bundle)


def test_an_engine_of_another_graph(bundle: Bundle, tmp_path: Path) -> None:
    engine = build(bundle)

    def other_weights() -> None:
        (folder,) = (tmp_path / "other").parent.glob(".other.tmp-*")
        (folder / "denoiser/model.onnx.data").write_bytes(b"\1" * 16)

    other = make(tmp_path / "other", before_finish=other_weights)
    copy_engine(engine, other.path)
    assert "engine fast was built from another graph of denoiser (exported since); build it again" in refusal(other)
    (problem,) = other.verify()
    assert (problem.path, problem.kind) == ("engines/fast", "unusable")
    same = make(tmp_path / "same")
    copy_engine(engine, same.path)
    assert same.engine("fast").record == engine.record, "the same graph, exported again"


@pytest.mark.parametrize(
    ("where", "expected"),
    [("file", ["unsafe"]), ("folder", ["unsafe"]), ("record", ["unsafe", "unreadable"]), ("engines", ["unsafe"])],
)
def test_links_out_are_refused(bundle: Bundle, tmp_path: Path, where: str, expected: list[str]) -> None:
    engine = build(bundle)
    path = {
        "file": engine.path / "denoiser.onnx.data",
        "record": engine.path / "engine.json",
        "folder": engine.path,
        "engines": engine.path.parent,
    }[where]
    shutil.move(path, tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert "is a link that leaves the" in refusal(bundle)
    assert [problem.kind for problem in bundle.verify()] == expected


def test_links_from_one_engine_to_another_are_refused(bundle: Bundle) -> None:
    """Inside the bundle, but the other engine may be replaced at any time."""
    engine, other = build(bundle), build(bundle, "other")
    (engine.path / "denoiser.onnx.data").unlink()
    (engine.path / "denoiser.onnx.data").symlink_to(other.path / "denoiser.onnx.data")
    assert "denoiser.onnx.data is a link that leaves the engine" in refusal(bundle)


def put(bundle: Bundle, data: bytes, *more: str) -> Engine:
    """Write an engine whose artefact is ``data``, and other files of three bytes."""
    graph = graph_digest(bundle.manifest, "denoiser")

    def files(writer: EngineWriter) -> None:
        writer.file("context/denoiser.onnx").write_bytes(data)
        for name in more:
            writer.file(name).write_bytes(b"abc")

    component = EngineComponent(path="context/denoiser.onnx", kind="onnx", graph=graph)
    target = Target(device="cuda", provider="NvTensorRTRTXExecutionProvider")
    return build(bundle, before_finish=files, components={"denoiser": component}, target=target)


def test_epcontext_files_stay_in_the_engine(bundle: Bundle) -> None:
    data = context_model(embed_mode=0, ep_cache_context="x.engine")
    engine = put(bundle, data, "context/x.engine")
    assert engine.files_of("denoiser") == ["context/denoiser.onnx", "context/x.engine"]
    for location, message in (
        ("../../../../secret", "which leaves the engine or is no plain relative path"),
        ("/etc/passwd", "which leaves the engine or is no plain relative path"),
        ("y.engine", "a file that engine.json does not record"),
    ):
        with pytest.raises(BundleError, match=message):
            put(bundle, context_model(embed_mode=0, ep_cache_context=location), "context/x.engine")
    assert bundle.engine("fast").record == engine.record


def test_epcontext_embedded_names_no_file(bundle: Bundle) -> None:
    for attributes in ({"embed_mode": 1}, {}):
        engine = put(bundle, context_model(ep_cache_context=b"\xff" * 100_000, **attributes))
        assert context_files(engine.file("denoiser")) == []


def test_epcontext_with_the_mode_twice(tmp_path: Path) -> None:
    """Whichever of two a reader takes, the file is looked at."""
    model = onnx.load_from_string(context_model(embed_mode=1, ep_cache_context="../x"))
    for branch in model.graph.node[0].attribute:
        for mode in (0, 1):
            branch.g.node[0].attribute.append(onnx.helper.make_attribute("embed_mode", mode))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert context_files(tmp_path / "model.onnx") == ["../x", "../x"]


def test_a_plain_graph_may_not_read_elsewhere_by_a_context_either(bundle: Bundle) -> None:
    graph = bundle.path / "vae_decoder/model.onnx"
    graph.write_bytes(context_model(embed_mode=0, ep_cache_context="../../x"))
    rewrite(bundle, lambda d: d["files"]["vae_decoder/model.onnx"].update(size=graph.stat().st_size))
    with pytest.raises(BundleError, match=r"an EPContext node is kept in '\.\./\.\./x', which leaves the bundle"):
        Bundle.open(bundle.path)


def test_verify_reads_every_byte_of_engines(bundle: Bundle) -> None:
    engine = build(bundle)
    seen: list[tuple[str, int, int]] = []
    assert bundle.verify(lambda *step: seen.append(step)) == []
    total = sum(one.size for files in (bundle.manifest.files, engine.record.files) for one in files.values())
    assert seen[-1] == ("engines/fast/denoiser.onnx.data", total, total)
    data = engine.path / "denoiser.onnx.data"
    data.write_bytes(b"\7" * 16)
    (engine.path / "notes.txt").write_text("mine")
    altered, extra = bundle.verify()
    assert (altered.path, altered.kind) == ("engines/fast/denoiser.onnx.data", "altered")
    assert altered.found == hashlib.sha256(b"\7" * 16).hexdigest()
    assert str(extra) == "engines/fast/notes.txt is not recorded in engine.json"
    assert [problem.kind for problem in engine.verify()] == ["altered", "extra"]


def test_caches_and_calibration_are_left_alone(bundle: Bundle) -> None:
    build(bundle)
    cache = bundle.cache_folder()
    assert cache == bundle.path / "engines/.cache"
    (cache / "timing").write_bytes(b"x")
    (bundle.path / "calibration").mkdir()
    (bundle.path / "calibration/a.json").write_text("{}")
    again = Bundle.open(bundle.path)
    assert again.verify() == [] and again.engine_names() == ["fast"]
    rewrite(bundle, lambda d: d["files"].update({"calibration/a.json": {"size": 2, "sha256": "0" * 64}}))
    with pytest.raises(BundleError, match=r"calibration/a\.json has records of its own"):
        Bundle.open(bundle.path)


def test_a_cache_that_cannot_be_made(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "engines").write_text("in the way")
    assert bundle.cache_folder() is None
    (bundle.path / "engines").unlink()
    (bundle.path / "engines").symlink_to(tmp_path)
    assert bundle.cache_folder() is None, "it would be outside the bundle"


def test_parity_is_recorded_later(bundle: Bundle) -> None:
    engine = build(bundle)
    again = engine.record_parity({"passed": True, "psnr": 34.5})
    assert again.record.parity == {"passed": True, "psnr": 34.5}
    assert bundle.engine("fast").record == again.record and bundle.verify() == []
    with pytest.raises(InputError, match=r"parity\.psnr is nan, which JSON cannot hold; write None"):
        engine.record_parity({"psnr": float("nan")})
    build(bundle, key_parts={**KEY, "precision": "fp16"}, precision="fp16")
    with pytest.raises(BundleError, match="was built anew meanwhile; measure its parity again"):
        engine.record_parity({"passed": False})
    assert bundle.engine("fast").record.parity is None


def test_bad_names_and_fields(bundle: Bundle) -> None:
    for name in ("auto", "onnx", "a/b", ".a", "", "a" * 101):
        with pytest.raises(InputError, match="names no engine"):
            EngineWriter(bundle, name)
    with pytest.raises(BundleError, match=r"engines/fast was not written: seconds: input should be greater"):
        build(bundle, seconds=-1)
    with pytest.raises(InputError, match=r"engine\.options\.x is inf, which JSON cannot hold"):
        build(bundle, options={"x": float("inf")})
    component = EngineComponent(path="denoiser.onnx", kind="onnx", graph="0" * 64)
    with pytest.raises(BundleError, match="engine fast was built from another graph of denoiser"):
        build(bundle, components={"denoiser": component})
    with (
        pytest.raises(BundleError, match=r"not written: EngineWriter\.finish was not called"),
        EngineWriter(bundle, "a"),
    ):
        pass
    assert os.listdir(bundle.path / "engines") == []


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_any_exception_leaves_the_older_engine(bundle: Bundle, error: BaseException) -> None:
    engine = build(bundle)

    def stops(writer: EngineWriter) -> None:
        raise error

    with pytest.raises(type(error)):
        build(bundle, before_finish=stops, key_parts={"a": "b"})
    assert bundle.engine("fast").record == engine.record
    assert os.listdir(bundle.path / "engines") == ["fast"]


def test_what_is_no_engine_is_not_replaced(bundle: Bundle, tmp_path: Path) -> None:
    folder = bundle.path / "engines"
    (folder / "mine").mkdir(parents=True)
    (folder / "mine/notes.txt").write_text("mine")
    (folder / "file").write_text("mine")
    (folder / "link").symlink_to("mine")
    for name, what in (("mine", "a folder"), ("file", "a file"), ("link", "a link")):
        with pytest.raises(BundleError, match=f"exists and is no engine but {what}; remove it, or give another name"):
            build(bundle, name)
    assert (folder / "mine/notes.txt").read_text() == "mine"
    assert sorted(os.listdir(folder)) == ["file", "link", "mine"]


def test_a_bundle_exported_anew_during_a_build(bundle: Bundle) -> None:
    with pytest.raises(BundleError) as caught:
        build(bundle, before_finish=lambda _: make(bundle.path, overwrite=True, family="sit"))
    assert "\n" not in str(caught.value)
    assert Bundle.open(bundle.path).engine_names() == []


def test_no_permission_is_one_line(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(bundle.path / "engines"))

    expected = rf"engines/fast cannot be written: Permission denied \({bundle.path}/engines\)"
    for owner, name in ((Path, "mkdir"), (os, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refused)
            with pytest.raises(BundleError, match=expected):
                build(bundle)


def test_a_full_disk_is_one_line(bundle: Bundle) -> None:
    def full(writer: EngineWriter) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BundleError, match=r"no space left in .*/engines: fast needs more than"):
        build(bundle, before_finish=full)


def test_the_solver_graph_is_a_component_of_engines_only(bundle: Bundle) -> None:
    components = {
        name: EngineComponent(path=f"{name}.onnx", kind="onnx", graph=graph_digest(bundle.manifest, name))
        for name in ("denoiser", "solver")
    }
    engine = build(
        bundle,
        before_finish=lambda writer: onnx.save(tiny_model(), writer.file("solver.onnx")),
        components=components,
    )
    assert bundle.engine("fast").file("solver") == engine.path / "solver.onnx"
    assert json.loads((engine.path / "engine.json").read_text())["components"]["solver"]["path"] == "solver.onnx"
