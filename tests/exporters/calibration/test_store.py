"""Calibrations in a bundle: made once, found again, never another's, never half of one."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from dit_deploy import Bundle
from dit_deploy.errors import BundleError, InputError
from dit_deploy.exporters.calibration import (
    Calibration,
    _kept,
    _session,
    calibrate,
    plan,
    read_calibration,
    sample_trajectories,
    statistics,
    store,
)
from dit_deploy.exporters.passes.graph_file import load_graph
from dit_deploy.exporters.passes.smoothing import smooth

SETTINGS: dict[str, Any] = {"samples": 3, "evaluations": 2, "steps": 2, "threads": 1}


@pytest.fixture(scope="module")
def kept(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """A calibration of the denoiser, in a bundle of its own; copy the bundle to change it."""
    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    shutil.copytree(tiny_bundle, folder)
    return calibrate(Bundle.open(folder), **SETTINGS)


@pytest.fixture
def bundle(kept: Calibration, tmp_path: Path) -> Bundle:
    """A copy of that bundle with its calibration."""
    shutil.copytree(kept.path.parents[1], tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def no_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run: no session can be opened."""
    import onnxruntime

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(AssertionError, match="a session was opened"):
        _session.ort.InferenceSession()


def _without_seconds(data: bytes) -> dict[str, Any]:
    return {name: value for name, value in json.loads(data).items() if name != "seconds"}


def file_of(bundle: Bundle) -> Path:
    (path,) = (bundle.path / "calibration").iterdir()
    return path


@pytest.mark.usefixtures("no_sessions")
def test_the_second_is_read_from_the_bundle(kept: Calibration, bundle: Bundle) -> None:
    again = calibrate(bundle, **SETTINGS)
    assert again.digest == kept.digest
    assert again.scales() == kept.scales()
    assert again.path == file_of(bundle)
    assert again.path.name == kept.path.name


def test_forced_it_is_made_anew_and_is_the_same(kept: Calibration, bundle: Bundle) -> None:
    reports: list[tuple[str, int, int]] = []
    again = calibrate(bundle, **SETTINGS, force=True, progress=lambda *report: reports.append(report))
    texts = list(dict.fromkeys(text for text, _, _ in reports))
    assert texts == ["sampling", "observing the denoiser"]
    for text in texts:
        assert [one[1:] for one in reports if one[0] == text][-1] == ((2, 2) if text == "sampling" else (12, 12))
    assert _without_seconds(again.path.read_bytes()) == _without_seconds(kept.path.read_bytes())
    assert again.seconds > 0.0


def test_other_settings_are_another_calibration(kept: Calibration, bundle: Bundle) -> None:
    for change in ({"seed": 1}, {"samples": 4}, {"evaluations": 1}, {"guidance_scale": 2.0}, {"steps": 5}):
        assert calibrate(bundle, **(SETTINGS | change)).digest != kept.digest
    assert len(list((bundle.path / "calibration").iterdir())) == 6


def test_a_bundle_with_calibrations_is_whole(bundle: Bundle) -> None:
    assert Bundle.open(bundle.path).verify() == []


def test_layers_are_those_of_the_graph(kept: Calibration, bundle: Bundle) -> None:
    model = onnx.load(bundle.component_path("denoiser"), load_external_data=False)
    matrices = {one.name for one in model.graph.initializer if len(one.dims) == 2}
    expected = {
        name.removesuffix(".weight")
        for node in model.graph.node
        for name in node.input[1:2]
        if node.op_type in ("MatMul", "Gemm") and name in matrices
    }
    assert set(kept.scales()) == set(kept.channel_maxima()) == set(kept.histograms()) == expected
    sizes = {one.name.removesuffix(".weight"): one.dims for one in model.graph.initializer}
    for layer, maxima in kept.channel_maxima().items():
        assert maxima.dtype == np.float32 and maxima.ndim == 1 and len(maxima) in sizes[layer]


@pytest.mark.parametrize(("levels", "largest"), [("int8", 127.0), ("fp8", 448.0)])
def test_scales_of_each_method(kept: Calibration, levels: Any, largest: float) -> None:
    maxima = {layer: channels.max() for layer, channels in kept.channel_maxima().items()}
    highest = kept.scales("max", levels)
    assert highest == {layer: np.float32(one / largest) for layer, one in maxima.items()}
    clipped = kept.scales("percentile", levels, percentile=99.0)
    mse = kept.scales("mse", levels)
    for layer in highest:
        assert 0.0 < clipped[layer] <= highest[layer]
        assert 0.0 < mse[layer] <= highest[layer]
    assert clipped != highest and mse != highest and mse != clipped


def test_scales_refuse_what_is_not_there(kept: Calibration) -> None:
    with pytest.raises(InputError, match="method: 'entropy'"):
        kept.scales("entropy")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="levels: 'int4'"):
        kept.scales("max", "int4")  # type: ignore[arg-type]


def test_ranges_hold_the_inputs(kept: Calibration, bundle: Bundle) -> None:
    assert kept.record.latents is not None
    assert kept.record.latents.array().shape == (3, 6, 16, 16)
    scheduler = DDIMScheduler.from_config(bundle.scheduler_config())
    scheduler.set_timesteps(2)
    assert kept.ranges()["timestep"] == scheduler.timesteps[0]


def test_the_vae_sees_what_the_denoiser_drew(kept: Calibration, bundle: Bundle, tiny_source: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_source / "vae").eval()
    largest: dict[str, float] = {}

    def note(half: str, name: str) -> Callable[..., None]:
        def hook(_module: Any, inputs: Any) -> None:
            largest[f"{half}.{name}"] = float(inputs[0].abs().max())

        return hook

    for half in ("encoder", "decoder"):
        attention = getattr(vae, half).mid_block.attentions[0]
        attention.to_q.register_forward_pre_hook(note(half, "to_q"))
        attention.to_out[0].register_forward_pre_hook(note(half, "to_out.0"))
    assert kept.record.latents is not None
    with torch.no_grad():
        images = vae.decode(torch.from_numpy(kept.record.latents.array()) / 0.3).sample / 2 + 0.5
        vae.encode(2 * images.clamp(0, 1) - 1)
    for half in ("encoder", "decoder"):
        found = calibrate(bundle, component=f"vae_{half}", **SETTINGS)
        assert found.component == f"vae_{half}" and found.record.latents is None
        if half == "encoder":  # the decoder's pictures go beyond, and are clipped by who asked for them
            assert found.ranges()["images"] <= 1.0
        assert len(found.scales()) == 4
        for layer, maxima in found.channel_maxima().items():
            expected = largest.get(f"{half}.{layer.rpartition('attentions.0.')[2]}")
            if expected is not None:
                assert maxima.max() == pytest.approx(expected, rel=1e-3)


def test_feeds_are_kept(kept: Calibration, bundle: Bundle) -> None:
    settings = plan(bundle, **{name: SETTINGS[name] for name in ("samples", "evaluations", "steps")})
    expected = sample_trajectories(bundle, settings, threads=1)
    feeds = read_calibration(kept.path).feeds
    assert len(feeds) == len(expected.feeds) == 2
    for found, one in zip(kept.feeds(), expected.feeds, strict=True):
        assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} == {
            name: (array.dtype, array.shape, array.tobytes()) for name, array in one.items()
        }


def test_smoothing_observes_the_smoothed_graph_on_the_same_feeds(
    kept: Calibration, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("pictures were drawn again")

    monkeypatch.setattr(store, "sample_trajectories", refuse)
    found = calibrate(bundle, **SETTINGS, smoothing=0.6)
    assert found.unsmoothed is not None and found.unsmoothed.digest == kept.digest != found.digest
    assert calibrate(bundle, **SETTINGS, smoothing=0.6).scales() == found.scales()
    names = sorted(path.name for path in (bundle.path / "calibration").iterdir())
    assert names == sorted([kept.path.name, found.path.name])
    assert [one.keys() for one in found.feeds()] == [one.keys() for one in kept.feeds()]
    smoothing = smooth(load_graph(bundle.component_path("denoiser")), kept.channel_maxima(), 0.6)
    assert len(smoothing.folded) >= 4
    before, after = kept.channel_maxima(), found.channel_maxima()
    for one in smoothing.folded:
        for layer in one.layers:
            np.testing.assert_allclose(after[layer], before[layer] / one.factors, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("no_sessions")
def test_no_other_components(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has no component 'text_encoder'"):
        calibrate(bundle, component="text_encoder", **SETTINGS)


def damage_cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_count(data: bytes) -> bytes:
    document = json.loads(data)
    one = next(iter(document["activations"].values()))
    one["absmax"] *= 2
    return json.dumps(document).encode()


def damage_packed(data: bytes) -> bytes:
    document = json.loads(data)
    one = next(iter(document["activations"].values()))
    one["counts"] = one["counts"][:-8]
    return json.dumps(document).encode()


def damage_feeds(data: bytes) -> bytes:
    document = json.loads(data)
    document["feeds"][0]["latents"]["shape"][0] += 1
    return json.dumps(document).encode()


def damage_layers(data: bytes) -> bytes:
    document = json.loads(data)
    document["layers"]["blocks.0.to_q"] = "nothing"
    return json.dumps(document).encode()


def damage_twice(data: bytes) -> bytes:
    return data.replace(b'"seconds"', b'"version": 1,\n "seconds"')


def damage_field(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | {"more": 1}).encode()


def damage_empty(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, "expected strict JSON"),
        (damage_count, "digest is not that of the content"),
        (damage_packed, "packed numbers"),
        (damage_feeds, "not as many as the shape"),
        (damage_layers, "layers name an activation that is not there"),
        (damage_twice, "'version' occurs twice"),
        (damage_field, "more: is not a known field"),
        (damage_empty, "expected strict JSON"),
    ],
)
def test_a_damaged_file_is_refused_and_made_anew(
    kept: Calibration, bundle: Bundle, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = file_of(bundle)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BundleError, match=message) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value) and "remove it" in str(caught.value) and "\n" not in str(caught.value)
    texts: list[str] = []
    again = calibrate(bundle, **SETTINGS, progress=lambda text, _done, _total: texts.append(text))
    assert texts[0] == f"calibration/{path.name} is damaged, and made anew"
    assert again.digest == kept.digest == read_calibration(path).digest


def test_a_packed_number_that_unpacks_to_too_much(bundle: Bundle) -> None:
    import base64
    import zlib

    path = file_of(bundle)
    document = json.loads(path.read_bytes())
    bomb = zlib.compress(bytes(1 << 27))
    next(iter(document["activations"].values()))["counts"] = base64.b64encode(bomb).decode()
    path.write_bytes(json.dumps(document).encode())
    with pytest.raises(BundleError, match="cut off or too many"):
        read_calibration(path)


def test_a_file_that_is_too_large(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kept, "_LIMIT", 1000)
    with pytest.raises(BundleError, match=r"larger than 1\.0 kB"):
        read_calibration(file_of(bundle))


def test_a_calibration_of_another_graph_is_not_used(kept: Calibration, bundle: Bundle) -> None:
    other = calibrate(bundle, **(SETTINGS | {"seed": 9}))
    path = bundle.path / "calibration" / kept.path.name
    shutil.copyfile(other.path, path)
    texts: list[str] = []
    again = calibrate(bundle, **SETTINGS, progress=lambda text, _done, _total: texts.append(text))
    assert "of another graph or other settings" in texts[0]
    assert again.digest == kept.digest


def test_weights_are_part_of_the_key(kept: Calibration, bundle: Bundle) -> None:
    identity = store._identity(bundle, "denoiser", plan(bundle, samples=3, evaluations=2, steps=2))
    assert kept.path.stem == store.canonical_digest(identity)[:16]
    record = bundle.manifest.files["denoiser/model.onnx.data"]
    altered = record.model_copy(update={"sha256": "0" * 64})
    files = bundle.manifest.files | {"denoiser/model.onnx.data": altered}
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files}), bundle.digest)
    assert store._identity(other, "denoiser", plan(other, samples=3, evaluations=2, steps=2)) != identity


@pytest.mark.usefixtures("no_sessions")
class TestNowhereToKeepIt:
    """Said before minutes are spent, on one line."""

    def fails(self, bundle: Bundle, message: str) -> None:
        with pytest.raises(BundleError, match=message) as caught:
            calibrate(bundle, **(SETTINGS | {"seed": 5}))
        assert "\n" not in str(caught.value)

    def test_no_permission(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        # Tests may run as root, whom permissions do not stop.
        def refuse(*_arguments: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(_kept, "lock_file", refuse)
        self.fails(bundle, "calibration cannot be written to: Permission denied; .* give the folder the permission")

    def test_a_file_in_the_way(self, bundle: Bundle) -> None:
        shutil.rmtree(bundle.path / "calibration")
        (bundle.path / "calibration").write_text("")
        self.fails(bundle, "calibration cannot be written to: ")

    def test_a_link_out(self, bundle: Bundle, tmp_path: Path) -> None:
        shutil.rmtree(bundle.path / "calibration")
        (tmp_path / "elsewhere").mkdir()
        (bundle.path / "calibration").symlink_to(tmp_path / "elsewhere")
        self.fails(bundle, "calibration is a link that leaves the bundle")
        assert not list((tmp_path / "elsewhere").iterdir())


def test_a_read_only_bundle_gives_what_it_has(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_kept, "lock_file", refuse)
    assert calibrate(bundle, **SETTINGS).scales()


@pytest.mark.parametrize(
    "moment", ["sampling", "observing the denoiser", "observing the denoiser, smoothed", "writing"]
)
def test_an_interruption_leaves_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    def interrupt(text: str, done: int, _total: int) -> None:
        if text == moment and done:
            raise KeyboardInterrupt

    def interrupted_write(*_arguments: object) -> None:
        raise KeyboardInterrupt

    if moment == "writing":
        import os

        monkeypatch.setattr(os, "replace", interrupted_write)
    before = file_of(bundle)
    data = before.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        calibrate(bundle, **SETTINGS, smoothing=0.5, force=True, progress=interrupt)
    assert file_of(bundle) == before  # nothing beside it: no lock, no half of a file
    assert _without_seconds(before.read_bytes()) == _without_seconds(data)


def test_what_a_killed_process_left_goes(bundle: Bundle) -> None:
    path = file_of(bundle)
    path.with_name(f".{path.name}.123-abcd").write_bytes(b"half")
    path.with_name(f".{path.stem}.lock").write_bytes(b"")
    path.with_name(f".{path.name}.smoothed").mkdir()
    (path.with_name(f".{path.name}.smoothed") / "weights").write_bytes(b"half")
    calibrate(bundle, **SETTINGS, force=True)
    assert file_of(bundle) == path


def test_two_at_once_make_one(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    gather = statistics.gather

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(threading.get_ident())
        return gather(*arguments, **options)

    monkeypatch.setattr(store, "gather", counted)
    results: list[Calibration] = []
    texts: list[str] = []
    start = threading.Barrier(2)

    def work() -> None:
        start.wait()
        results.append(
            calibrate(bundle, **(SETTINGS | {"seed": 7}), progress=lambda text, _done, _total: texts.append(text))
        )

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(results) == 2
    assert results[0].digest == results[1].digest
    assert "waiting for another calibration" in texts
    assert len(list((bundle.path / "calibration").iterdir())) == 2
