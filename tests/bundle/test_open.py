"""Every refusal of ``Bundle.open``, with the words that it says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from dit_deploy.bundle import Bundle
from dit_deploy.errors import BundleError, InputError, IntegrityError

from .conftest import FIELDS, SCHEDULER, make, rewrite, tiny_model


def refusal(path: Path | str, kind: type[BundleError] = BundleError) -> str:
    with pytest.raises(kind) as caught:
        Bundle.open(path)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_open_gives_what_was_written(bundle: Bundle) -> None:
    again = Bundle.open(str(bundle.path))
    assert again.manifest == bundle.manifest
    assert again.digest == bundle.digest
    assert again.path.is_absolute()
    assert again.component("denoiser") == FIELDS["components"]["denoiser"]
    assert again.component_path("denoiser") == bundle.path / "denoiser/model.onnx"
    assert again.scheduler_config() == SCHEDULER
    assert again.engine_names() == []
    assert again.verify() == []
    assert repr(again).startswith("Bundle('/")


def test_unknown_names_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no component 'text_encoder'; it has denoiser, vae_decoder"):
        bundle.component("text_encoder")
    for path in ("../secret", "manifest.json", "denoiser", "/etc/passwd"):
        with pytest.raises(BundleError, match="records no file"):
            bundle.file(path)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    export = r"dit-deploy export SOURCE BUNDLE"
    assert "there is no" in refusal(tmp_path / "absent")
    assert export in refusal(tmp_path / "absent")
    assert "there is no" in refusal("a\0b")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(tmp_path / "file")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "is empty" in refusal(folder)
    for name in "abcdef":
        (folder / name).touch()
    assert "it holds a, b, c, d and 2 more, but no manifest.json" in refusal(folder)
    (folder / "config.json").touch()
    assert f"looks like a diffusers model (config.json); run `dit-deploy export {folder} BUNDLE`" in refusal(folder)
    (folder / "model_index.json").touch()
    assert "looks like a diffusers pipeline" in refusal(folder)
    (folder / "manifest.json").mkdir()
    assert "is no regular file" in refusal(folder)
    (folder / "manifest.json").rmdir()
    (folder / "manifest.json").symlink_to("nowhere")
    assert "is missing" in refusal(folder, IntegrityError)
    refusal("x" * 5000)  # longer than a name may be: the words depend on the version of Python


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected strict JSON"),
        (b"{", "expected strict JSON"),
        (b"[1]", "expected a JSON object, but it holds a list"),
        (b"null", "expected a JSON object, but it holds a NoneType"),
        (b'{"a": "\xff"}', "expected UTF-8 text, but byte 7 is not"),
        ('{"a": 1}'.encode("utf-16"), "expected UTF-8 text"),
        (b'\xef\xbb\xbf{"a": 1}', "expected strict JSON"),
        (b'{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "expected strict JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": "other"}', "its format is not 'dit-deploy-bundle'"),
        (b" " * ((16 << 20) + 1), "is larger than 16.8 MB"),
    ],
)  # fmt: skip
def test_manifest_that_is_not_strict_json(bundle: Bundle, data: bytes, message: str) -> None:
    (bundle.path / "manifest.json").write_bytes(data)
    assert message in refusal(bundle.path)


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


AXES = ("components", "denoiser", "inputs", 0, "axes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("version", to=2),
            "this bundle is version 2; this dit-deploy reads version 1: upgrade dit-deploy",
        ),
        (_set("version", to="1"), "version: expected 1, but got '1'"),
        (_set("version", to=True), "version: expected 1, but got True"),
        (_set("version", to=0), "version: expected 1, but got 0"),
        (_set("colour", to=1), "colour: is not a known field"),
        (lambda d: d.pop("family"), "family: is required, but missing"),
        (lambda d: d.pop("files"), "files: is required, but missing"),
        (lambda d: d["latents"].update(channles=d["latents"].pop("channels")), "latents.channels: is required"),
        (lambda d: d["latents"].update(channles=d["latents"].pop("channels")), "(and 1 more)"),
        (_set("latents", "channels", to="4"), "latents.channels: input should be a valid integer, but got '4'"),
        (_set("latents", "channels", to=4.5), "but got 4.5"),
        (_set("latents", "channels", to=0), "should be greater than or equal to 1, but got 0"),
        (_set("latents", "scaling_factor", to=10**400), "latents.scaling_factor"),
        (_set(*AXES, 0, "multiple", to=0), "denoiser.inputs.0.axes.0.multiple: input should be greater"),
        (_set(*AXES, 0, to=-3), "axes.0"),
        (_set("components", to=[1]), "components: input should be an object, but got [1]"),
        (_set("components", "denoiser", "path", to="../../etc/passwd"), "is named but has no record under files"),
        (_set("files", "../x", to={"size": 1, "sha256": "0" * 64}), "'../x' is not a plain relative path"),
        (_set("files", "/etc/passwd", to={"size": 1, "sha256": "0" * 64}), "'/etc/passwd' is not a plain relative"),
        (_set("files", "denoiser/model.onnx", "sha256", to="xyz"), "files.denoiser/model.onnx.sha256"),
        (_set("source", "name", to="x" * 10 + "\ud800"), "manifest.json"),
    ],
)  # fmt: skip
def test_fields_that_are_wrong(bundle: Bundle, change: Callable[[dict[str, Any]], None], message: str) -> None:
    rewrite(bundle, change)
    found = refusal(bundle.path)
    assert message in found
    assert len(found) < 700


def test_possible_but_altered_manifest_is_refused(bundle: Bundle) -> None:
    """Every field is valid, so only the digest can tell that another picture would come out."""
    path = bundle.path / "manifest.json"
    path.write_text(path.read_text().replace('"epsilon"', '"sample"'))
    assert "manifest.json is not the one that was written" in refusal(bundle.path, IntegrityError)
    rewrite(bundle, lambda document: None)
    assert Bundle.open(bundle.path).manifest.prediction.type == "sample"
    (bundle.path / "manifest.json.sha256").unlink()
    assert "manifest.json.sha256 is missing" in refusal(bundle.path, IntegrityError)


def test_files_missing_or_of_another_size(bundle: Bundle) -> None:
    data = bundle.path / "denoiser/model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    message = refusal(bundle.path, IntegrityError)
    assert f"{data} has 15 bytes, but the manifest says 16; copy the bundle again, or export it again" in message
    data.unlink()
    assert f"{data} is missing" in refusal(bundle.path, IntegrityError)
    data.mkdir()
    assert "is no regular file" in refusal(bundle.path)
    data.rmdir()
    os.mkfifo(data)
    assert "is no regular file" in refusal(bundle.path)


def test_links_that_leave_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    data = bundle.path / "denoiser/model.onnx.data"
    data.rename(outside)
    data.symlink_to(outside)
    assert f"is a link that leaves the bundle, to {outside}" in refusal(bundle.path)
    data.unlink()
    data.symlink_to("loop")
    (bundle.path / "denoiser/loop").symlink_to("model.onnx.data")
    refusal(bundle.path)
    (bundle.path / "denoiser/loop").unlink()
    data.unlink()
    outside.rename(bundle.path / "denoiser/inside")
    data.symlink_to("inside")
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    (bundle.path / "engines").symlink_to(tmp_path)
    assert f"engines is a link that leaves the bundle, to {tmp_path}; remove it" in refusal(bundle.path)


def test_a_recorded_folder_that_is_a_link_out(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "denoiser").rename(tmp_path / "elsewhere")
    (bundle.path / "denoiser").symlink_to(tmp_path / "elsewhere")
    assert "leaves the bundle" in refusal(bundle.path)
    with pytest.raises(BundleError, match="leaves the bundle"):
        bundle.file("denoiser/model.onnx")
    assert [problem.kind for problem in bundle.verify()][:1] == ["unsafe"]


def test_a_bundle_may_be_opened_through_a_link(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle.path)
    assert Bundle.open(tmp_path / "link").digest == bundle.digest


def test_unreadable_files(bundle: Bundle) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    (bundle.path / "manifest.json").chmod(0)
    assert "cannot be read: Permission denied" in refusal(bundle.path)


def test_external_data_outside_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    """The manifest is in order and the link is in the graph alone, where ONNX Runtime would follow it."""
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    path = bundle.path / "vae_decoder/model.onnx"
    for location in ("../../secret", str(tmp_path / "secret"), "unrecorded.bin"):
        model = tiny_model()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(model.SerializeToString())
        size = path.stat().st_size
        rewrite(bundle, _set("files", "vae_decoder/model.onnx", "size", to=size))
        message = refusal(bundle.path)
        assert "tensor 'weight' is kept in" in message
        assert location in message


def test_scheduler_config_is_checked(bundle: Bundle) -> None:
    path = bundle.path / "scheduler/scheduler_config.json"
    path.write_text('{"_class_name": "DPM", "lambda_min_clipped": -Infinity}')
    assert bundle.scheduler_config()["lambda_min_clipped"] == float("-inf")
    for text, message in (("{}", "names no scheduler"), ("[]", "expected a JSON object"), ('{"a": NaN}', "NaN")):
        path.write_text(text)
        with pytest.raises(BundleError, match=message):
            bundle.scheduler_config()


def test_engine_names_skip_what_is_unfinished(bundle: Bundle) -> None:
    for name in ("b", "a", "partial", ".a.tmp-1"):
        (bundle.path / "engines" / name).mkdir(parents=True)
        if name != "partial":
            (bundle.path / "engines" / name / "engine.json").write_text("{}")
    (bundle.path / "engines/file").touch()
    assert bundle.engine_names() == ["a", "b"]


def test_parity_reports(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.parity_names() == []
    path = bundle.write_parity("onnxruntime-fp32", {"psnr": 61.5})
    assert json.loads(path.read_text()) == {"psnr": 61.5}
    bundle.write_parity("onnxruntime-fp32", {"psnr": None})
    assert json.loads(path.read_text()) == {"psnr": None}
    assert bundle.parity_names() == ["onnxruntime-fp32"]
    assert os.listdir(bundle.path / "parity") == ["onnxruntime-fp32.json"]
    assert Bundle.open(bundle.path).verify() == []
    for name in ("", "../x", "a/b", ".x", "a\n", "x" * 101):
        with pytest.raises(InputError, match="names no parity report"):
            bundle.write_parity(name, {})
    with pytest.raises(InputError, match=r"report.steps\[1\].psnr is inf"):
        bundle.write_parity("x", {"steps": [1, {"psnr": float("inf")}]})
    with pytest.raises(InputError, match="is not JSON"):
        bundle.write_parity("x", {"a": object()})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InputError, match="nested too deeply"):
        bundle.write_parity("x", {"a": loop})
    path.unlink()
    (bundle.path / "parity").rmdir()
    (bundle.path / "parity").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="leaves the bundle"):
        bundle.write_parity("x", {})
    assert make(tmp_path / "other").parity_names() == []
