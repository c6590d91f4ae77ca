"""The C++ runtime takes the bundles and engines that the Python package takes, and says the same of those it refuses.

Each case breaks a bundle in one way; the breaks are those that ``tests/bundle`` makes, and random ones.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from dit_deploy.bundle import Bundle, Engine
from dit_deploy.bundle._onnx import context_files, external_data
from dit_deploy.bundle._reader import digest_line
from dit_deploy.errors import BundleError
from dit_deploy.runtimes.integrity import check_component, check_engine
from dit_deploy.text import one_line
from tests.bundle import (
    test_engine,
    test_engine_store,
    test_manifest,
    test_manifest_video,
    test_onnx_external_data,
    test_open,
)
from tests.bundle.conftest import make, rewrite, tiny_model
from tests.bundle.engines import build, context_model, rewrite_engine

BUILD = os.environ.get("DIT_DEPLOY_CPP_BUILD")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="build the C++ runtime with its tests, and set DIT_DEPLOY_CPP_BUILD to the folder of the build"
)

Document = dict[str, Any]
Change = Callable[[Document], object]
Accident = Callable[[Bundle, Path], None]


class Twin:
    """The program that opens bundles with the C++ runtime, asked one question a line."""

    def __init__(self) -> None:
        program = Path(BUILD or "") / "tests" / "tools" / "open_bundle"
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, path: Path | str, name: str = "", **more: Any) -> list[Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, "path": str(path), "name": name, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the C++ program ended: {self._process.wait()}"
        answer: list[Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    twin = Twin()
    yield twin
    twin.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle, and beside it the same with an engine; to be copied."""
    folder = tmp_path_factory.mktemp("made")
    make(folder / "tiny")
    build(make(folder / "with_engine"))
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(made / "tiny", tmp_path / "tiny"))


@pytest.fixture
def engine(made: Path, bundle: Bundle) -> Engine:
    """The engine ``fast`` of ``bundle``."""
    shutil.copytree(made / "with_engine/engines", bundle.path / "engines")
    return bundle.engine("fast")


def python(do: str, path: Path | str, name: str = "") -> list[Any]:
    """Do what the program does."""
    try:
        if do == "verify":
            return [one_line(problem, None) for problem in Bundle.open(path, check_files=False).verify()]
        if do == "references":
            found = [[one.tensor, one.location, one.offset, one.length or 0] for one in external_data(Path(path))]
            return ["ok", *found, *context_files(Path(path))]
        bundle = Bundle.open(path)
        if do == "use":
            bundle.scheduler_config()
        if do == "component":
            check_component(bundle, name)
        if do == "engine":
            engine = bundle.engine(name)
            for component in sorted(engine.record.components):
                check_engine(engine, component)
    except BundleError as error:
        return [f"{type(error).__name__}: {error}"]
    return ["ok"]


# What the system and parsers say in their own words.
_FOREIGN = re.compile(r"cannot be (?:read|opened|listed)|expected strict JSON|invalid JSON|a finite number")


def agree(twin: Twin, do: str, path: Path | str, name: str = "", *, message: bool = True) -> str:
    """Hold one answer of the program against Python's, and return the first line of it."""
    expected, found = python(do, path, name), twin.ask(do, path, name)
    first = str((expected or [""])[0])
    if not message or any(_FOREIGN.search(str(line)) for line in expected):
        expected, found = ([str(line).split(":")[0] for line in lines] for lines in (expected, found))
    assert found == expected
    return first


def cases(test: Any) -> list[Any]:
    """Return the values that a test of ``tests/bundle`` is parametrised with."""
    (mark,) = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return list(mark.args[1])


def quiet(change: Change) -> Callable[[Document], None]:
    """Return the change as one that gives nothing back."""

    def apply(document: Document) -> None:
        change(document)

    return apply


def setter(*keys: Any, to: Any) -> Callable[[Document], None]:
    """Return a change that sets one value."""

    def change(document: Document) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


def test_good_bundles_and_engines(twin: Twin, bundle: Bundle, tmp_path: Path) -> None:
    build(bundle)
    for do, name in (("use", ""), ("engine", "fast"), ("component", "denoiser"), ("component", "vae_decoder")):
        assert agree(twin, do, bundle.path, name) == "ok"
    assert agree(twin, "verify", bundle.path) == ""
    (tmp_path / "link").symlink_to(bundle.path)
    assert agree(twin, "use", f"{tmp_path}/link/") == "ok"
    assert agree(twin, "use", f"{tmp_path}/./x/../tiny") == "ok"


def test_a_real_bundle(twin: Twin, tiny_bundle: Path) -> None:
    assert agree(twin, "use", tiny_bundle) == "ok"
    for name in Bundle.open(tiny_bundle).manifest.components:
        assert agree(twin, "component", tiny_bundle, name) == "ok"
    assert agree(twin, "verify", tiny_bundle) == ""


def test_what_is_no_bundle(twin: Twin, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    unfinished = [f".x.{kind}-12-0af" for kind in ("tmp", "old")]
    near = [
        ".x.tmp-12-0ag",
        ".x.tmp-1a-0a",
        "..tmp-1-a",
        ".tmp-1-a",
        "x.tmp-1-a",
        ".x.new-1-a",
        ".x.tmp--a",
        ".x.tmp-1-",
    ]
    for name in ["absent", "file", "folder", "file/x", "x" * 300, *unfinished, *near]:
        agree(twin, "open", tmp_path / name)
    agree(twin, "open", "a\0b", message=False)
    for name in "abcdef":
        (folder / name).touch()
    agree(twin, "open", folder)
    for name in ("config.json", "model_index.json"):
        (folder / name).touch()
        agree(twin, "open", folder)
    (folder / "manifest.json").mkdir()
    agree(twin, "open", folder)
    (folder / "manifest.json").rmdir()
    (folder / "manifest.json").symlink_to("nowhere")
    agree(twin, "open", folder)


#: Documents beside those of ``tests/bundle``, where two parsers may differ.
DOCUMENTS = [
    b" ", b"nul", b"{'a': 1}", b'{"a": 1,}', b"[1,]", b"[1 2]", b'{"a" 1}', b"{1: 2}", b'"abc', b'"\t"', b'"\\x"',
    b'"\\u12"', b'"\\ud800\\u12"', b'"\\ud83d\\ude00"', b"1 2", b"01", b"1.", b"1e", b"-", b"+1", b".5", b"0x1",
    b"-Infinity", b"1e308", b"1e309", b"-1e309", b"1e-400", b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xe2\x82', b'"\xf5"',
    b'{"\xc3\xa9\'": 1, "\xc3\xa9\'": 2}', b'"\\u0000"', b"\xef\xbb\xbf{}", b"{}x", b"\0", b"[" * 150 + b"]" * 150,
    b'{"format": "dit-deploy-bundle"}', b'{"format": "dit-deploy-bundle", "version": 1.0}',
    b'{"format": "dit-deploy-bundle", "version": [1, {"a": "\\n"}]}', b'{"format": "dit-deploy-bundle", "version": 7}',
    b'{"format": "dit-deploy-bundle", "version": -1}', b'{"format": 1, "version": 1}',
    b'{"format": "dit-deploy-bundle", "version": 1, "a": [], "b": {}, "c": null}',
]  # fmt: skip


@pytest.mark.parametrize(
    "data", [*(case[0] for case in cases(test_open.test_manifest_that_is_not_strict_json)), *DOCUMENTS]
)
def test_bytes_of_manifests(twin: Twin, bundle: Bundle, data: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(data)
    assert agree(twin, "open", bundle.path) != "ok"
    agree(twin, "verify", bundle.path)


DENOISER = ("components", "denoiser")
AXES = (*DENOISER, "inputs", 0, "axes")
LABELS = (*DENOISER, "inputs", 2)
SHA256 = "0" * 64
EMPTY = {"size": 0, "sha256": SHA256}
PLAIN, OWN = (
    test_manifest.test_paths_that_are_not_plain_are_refused,
    (test_manifest.test_files_with_records_of_their_own_are_not_recorded),
)


def each(where: Sequence[Any], keys: Sequence[Any], values: Sequence[Any]) -> list[Change]:
    """Set each of the keys below ``where`` to each of the values, one at a time."""
    return [setter(*where, key, to=value) for key in keys for value in values]


#: Changes to a manifest beside those of ``tests/bundle``.
CHANGES: list[Change] = [
    *each(("latents",), ["channels"], [1.0, True, None, {}, [], "4", -1, 1e2, 5]),
    *each(("latents",), ["scaling_factor"], [1, True, None, "1", [], 1e300]),
    *each(("latents",), ["temporal_compression", "patch_size", "spatial_compression", "height"], [3]),
    *each((), ["latents", "guidance", "scheduler", "labels", "files", "components", "source"], [None, [], {}, 1]),
    *each(DENOISER, ["path", "weights", "inputs", "outputs"], [None, [], {}, "x"]),
    *each(AXES, [0, 1, 2], [0, True, 1.5, "x", {}, None, {"name": "a"}]),
    *each(LABELS, ["axes"], [[], None, {}, [1], [1] * 5]),
    setter(*AXES, 3, to={"name": "patch_width", "multiple": 2, "maximum": 0}),
    setter(*AXES, 3, to={"name": "patch_width", "multiple": 2, "minimum": 5, "maximum": 4}),
    setter(*AXES, 3, to={"name": "Patch", "multiple": 0, "extra": 1}),
    *each(LABELS, ["name", "dtype", "unit", "description"], [1, None, "bool", "x\n", "é" * 70]),
    *each(LABELS, ["minimum", "maximum"], [1, None, "bool", 2000]),
    *each(("guidance",), ["unconditional"], [{}, {"A": 1}, {"class_labels": None, "b": []}, {"b": 1, "a": 2}]),
    *each(("guidance", "unconditional"), ["class_labels"], [5.0, "1", True, 1e22, -1, 0]),
    *each(("guidance", "unconditional"), ["latents"], [0]),
    *each(("guidance",), ["kind", "channels", "default_scale"], [0, 4, 5, "none", None]),
    *each(("prediction",), ["type", "timestep_unit", "learned_range_variance"], ["sigma", "sample", True, 1, None]),
    *each(("labels",), ["01", "0", "-1", "1000000000", "999999999", "", "٣"], ["x", 1]),
    *each(("files",), [*cases(PLAIN), *cases(OWN)], [EMPTY]),
    *each(("files",), ["scheduler/scheduler_config.json"], [
        None, {}, {"size": 1}, {**EMPTY, "size": -1}, {**EMPTY, "size": 1.0}, {**EMPTY, "sha256": SHA256 + "\n"},
        {**EMPTY, "sha256": "A" * 64}, {**EMPTY, "x": 1}, {**EMPTY, "size": 2**62}]),
    setter("scheduler", "path", to="absent.json"),
    setter("scheduler", "num_inference_steps", to=0),
    setter("components", "Bad Name", to=1),
    setter("components", "x" * 65, to={}),
    setter("components", "vae_encoder", to={}),
    setter("family", to="é" * 70),
    setter("created_by", to=None),
    setter("created_by", to="a\u2028b\0 \x1b[31m"),
    lambda d: (d["latents"].update(channels={}), d.pop("family")),
    lambda d: (d.update(surprise={}), d["latents"].clear()),
    lambda d: d["components"].pop("denoiser"),
    lambda d: d.update(dict(reversed(list(d.items())))),
    lambda d: d["components"]["denoiser"]["outputs"].append(d["components"]["denoiser"]["outputs"][0]),
    lambda d: d["components"]["vae_decoder"]["outputs"][0]["axes"].__setitem__(0, {"name": "elsewhere"}),
]  # fmt: skip


@pytest.mark.parametrize("change", [*(case[0] for case in cases(test_open.test_fields_that_are_wrong)), *CHANGES])
def test_changed_manifests(twin: Twin, bundle: Bundle, change: Change) -> None:
    rewrite(bundle, quiet(change))
    agree(twin, "use", bundle.path)
    agree(twin, "verify", bundle.path)


_BATCH, _LENGTH = {"name": "batch"}, {"name": "sequence_length"}
_IDS = {"name": "input_ids", "dtype": "int64", "axes": [_BATCH, _LENGTH]}
_STATES = {"name": "states", "dtype": "float32", "axes": [_BATCH, _LENGTH, 7]}
_TOKENIZER = "scheduler/scheduler_config.json"  # any file that has a record


def with_prompts(document: Document) -> None:
    """Give a manifest a text encoder, a join, and what denoisers may have beside."""
    path = document["components"]["denoiser"]["path"]
    document["components"]["text_encoder"] = {"path": path, "inputs": [_IDS], "outputs": [_STATES]}
    document["components"]["join"] = {"path": path, "inputs": [_STATES], "outputs": [{**_STATES, "name": "joined"}]}
    document["components"]["denoiser"]["inputs"] += [
        {**_STATES, "name": "joined"},
        {"name": "scale", "dtype": "float32", "axes": [_BATCH]},
        {"name": "skip", "dtype": "int64", "axes": [_BATCH, 3]},
    ]
    document["guidance"] = {"kind": "embedded", "input": "scale", "skip_layers": "skip", "normalise": "token"}
    document["scheduler"] |= {"sigmas": "linspace", "strength": "rounded_up"}
    encoder = {"component": "text_encoder", "tokenizer": _TOKENIZER, "cleaning": ["strip"], "prompt_template": "a {}!"}
    document["prompts"] = {"encoders": [encoder], "join": "join", "negative": None}


_ENCODER = ("prompts", "encoders", 0)
#: Changes to what :func:`with_prompts` makes.
PROMPTS: list[Change] = [
    lambda document: None,
    *each((), ["prompts"], [None, {}, [], 1, {"encoders": []}, {"encoders": [1]}, {"encoders": None}]),
    *each(("prompts",), ["join", "negative", "x"], [None, "", "text_encoder", "absent", "Join", 1]),
    *each(_ENCODER, ["component", "tokenizer", "negative_tokenizer"], [
        None, "", "join", "absent", "denoiser", 1, _TOKENIZER]),
    *each(_ENCODER, ["prompt_template", "negative_template"], [
        None, "", "x", "{} {}", "{}", "{{}}", "é{\n", 1, "{}" * 90]),
    *each(_ENCODER, ["cleaning"], [
        None, [], ["lowercase", "html_unescape", "collapse_whitespace"], ["wash"], [1], "strip"]),
    lambda d: d["prompts"]["encoders"].append(d["prompts"]["encoders"][0]),
    *each(("components", "text_encoder"), ["inputs"], [
        [], [_STATES], [_IDS, {**_IDS, "name": "attention_mask", "dtype": "int32"}], [{**_IDS, "dtype": "float32"}],
        [{**_IDS, "axes": [_BATCH]}], [{**_IDS, "axes": [_LENGTH, _BATCH]}], [_IDS, {**_IDS, "name": "type_ids"}]]),
    *each(("components", "text_encoder"), ["outputs"], [[], [_IDS], [_STATES, {**_STATES, "name": "other"}]]),
    *each(("components", "join"), ["inputs"], [[{**_STATES, "name": "b"}, {**_STATES, "name": "a"}]]),
    *each(("components", "join"), ["outputs"], [
        [_STATES], [{**_STATES, "name": "latents"}], [{**_STATES, "name": "joined", "dtype": "float16"}],
        [{**_STATES, "name": "joined", "axes": [_BATCH, 7]}], [{**_STATES, "name": "joined", "axes": [_BATCH, 2, 7]}]]),
    *each(("guidance",), ["kind"], ["none", "classifier_free", "magic"]),
    *each(("guidance",), ["input", "skip_layers"], [None, "absent", "skip", "scale", "latents", "joined", "A", 1, ""]),
    *each(("guidance",), ["normalise", "scale_offset"], [None, "token", "pixel", 1, 0.5]),
    *each(("scheduler",), ["sigmas", "strength"], [None, "scheduler", "linspace_to_zero", "rounded_down", 1]),
]  # fmt: skip


@pytest.mark.parametrize("change", PROMPTS)
def test_changed_prompts(twin: Twin, bundle: Bundle, change: Change) -> None:
    rewrite(bundle, quiet(lambda document: (with_prompts(document), change(document))))
    answer = agree(twin, "use", bundle.path)
    assert answer == "ok" or change is not PROMPTS[0]


def with_videos(document: Document) -> None:
    """Make a manifest of videos of it, with all that one of them may have."""
    path = document["components"]["denoiser"]["path"]
    video = test_manifest_video
    made = {name: video.denoiser("denoiser", *video.CONDITIONS) for name in ("denoiser", "denoiser_2")}
    made |= {"vae_decoder": video.DECODER, "pictures": video.PICTURE, "vision": video.VISION}
    document["components"] = {name: {**_plain(one), "path": path} for name, one in made.items()}
    document["latents"] |= {"frames": 3, "temporal_compression": 4, "frame_rate": 12.5}
    document["image_conditions"] = copy.deepcopy(video.RECORD)
    document["experts"] = {"component": "denoiser_2", "boundary": 0.875, "default_scale": 3}
    spaces = {"tile_height": 32, "tile_width": 32, "stride_height": 24, "stride_width": 16}
    document["tiling"] = {**spaces, "tile_frames": 4, "stride_frames": 3, "always_in_time": True}


_VIDEO_AXES = ("components", "vae_decoder", "outputs", 0, "axes")
_PICTURES, _RECORD = ("components", "pictures"), ("image_conditions",)
_FRAMES = {"name": "latent_frames", "multiple": 4, "offset": -3}
#: Changes to what :func:`with_videos` makes.
VIDEOS: list[Change] = [
    lambda document: None,
    *each(("latents",), ["frames", "temporal_patch_size", "frame_rate"], [None, 0, 1, 2, -1, 1.5, True, "x", 1e300]),
    *each(("latents",), ["noise_axes"], [None, "frames_channels", "frames", 1]),
    *each(_VIDEO_AXES, [2], [
        9, _FRAMES, {**_FRAMES, "offset": -4}, {**_FRAMES, "offset": 2**62},
        {**_FRAMES, "offset": 1.0}, {**_FRAMES, "offset": None}, {**_FRAMES, "maximum": 2, "minimum": 3, "offset": -9},
        {**_FRAMES, "multiple": 2**62, "minimum": 2**62}, {**_FRAMES, "offset": -(2**63)}, {"name": "frames"}]),
    *each(_VIDEO_AXES, [0], [{"name": "batch", "offset": 1}, {"name": "batch", "multiple": 2, "offset": -1}]),
    *each(_VIDEO_AXES, [3], [{"name": "latent_height", "multiple": 8, "offset": -7}]),
    *each(AXES, [2], [4, {"name": "patch_frames", "offset": 1}, {"name": "latent_frames"}, _FRAMES]),
    *each((), ["image_conditions", "experts", "tiling"], [None, [], {}, 1, {"x": 1}, {"component": "pictures"}]),
    *each(_RECORD, ["component"], [None, "absent", "vision", "denoiser", "Bad", 1]),
    *each(_RECORD, ["kept", "mask"], [None, "absent", "image_mask", "A", 1]),
    *each(_RECORD, ["required", "last_image", "x"], [None, True, 1]),
    *each(_RECORD, ["encoder"], [
        None, {}, 1, {"component": "absent", "size": 1}, {"component": "vision", "size": 0},
        {"component": "vision", "size": 225}, {"component": "pictures", "size": 224}]),
    *each(_PICTURES, ["inputs"], [
        [_STATES], [{**_IDS, "name": "images"}, {**_IDS, "name": "given"}],
        [{"name": "images", "dtype": "float32", "axes": [_BATCH, 3, 1, 1, 1]}, {**_STATES, "name": "given"}]]),
    *each(_PICTURES, ["outputs"], [[_STATES], [{**_STATES, "name": "timestep", "axes": [_BATCH]}], [
        {**_STATES, "name": "image_mask", "axes": [_BATCH, 1, 1, 1]}], [
        {"name": "image_mask", "dtype": "int64", "axes": [_BATCH, 1, 1, 1, 1]}]]),
    *each(("experts",), ["component"], ["absent", "vision", "denoiser", None]),
    *each(("experts",), ["boundary"], [0, 1, 1.0, -0.5, 0.5, True, None, "x", 1e-300]),
    *each(("experts",), ["default_scale", "x"], [None, 1, "x", True]),
    *each(("components", "denoiser_2", "inputs", 0), ["description", "unit", "minimum"], ["x", None, 1]),
    *each(("tiling",), ["tile_height", "stride_width", "stride_frames", "tile_frames"], [None, 0, 1, 99, 1.0, "x"]),
    *each(("tiling",), ["always_in_time", "x"], [None, False, 1]),
    lambda d: d["tiling"].update(tile_frames=None, stride_frames=None),
    lambda d: d["tiling"].update(tile_height=1, tile_width=1),
    lambda d: d["components"].pop("vae_decoder"),
    lambda d: d["components"].update(vae_encoder=d["components"]["vae_decoder"]),
    lambda d: d["components"]["vae_decoder"]["inputs"].append({**_IDS, "name": "noise"}),
    lambda d: d.update(image_conditions=None, experts=None, latents={**d["latents"], "frames": None}),
]  # fmt: skip


@pytest.mark.parametrize("change", VIDEOS)
def test_changed_videos(twin: Twin, bundle: Bundle, change: Change) -> None:
    rewrite(bundle, quiet(lambda document: (with_videos(document), change(document))))
    answer = agree(twin, "use", bundle.path)
    assert answer == "ok" or change is not VIDEOS[0]


@pytest.mark.parametrize("changes", [None, "dropped", "kept", "x", 1])
@pytest.mark.parametrize("alone", [True, False])
def test_padding_of_prompts(twin: Twin, bundle: Bundle, changes: Any, alone: bool) -> None:
    def change(document: Document) -> None:
        with_prompts(document)
        document["prompts"]["padding"] = changes
        if alone:
            document["prompts"]["join"] = None
            document["components"]["text_encoder"]["outputs"][0]["name"] = "joined"

    rewrite(bundle, change)
    agree(twin, "use", bundle.path)


def _fitting_cases() -> list[Document]:
    """The manifests whose parts do not fit, of tests/bundle/test_manifest.py, as changes to the tiny one's fields."""
    whole = [changes for changes, _ in cases(test_manifest.test_parts_that_do_not_fit_are_refused)]
    vae = [
        test_manifest._with_autoencoder(name, **changes)
        for name, changes, _ in cases(test_manifest.test_autoencoders_that_do_not_fit)
    ]
    denoisers = []
    for inputs, outputs, _ in cases(test_manifest.test_denoisers_that_no_runtime_can_feed):
        changes = {} if inputs is None else {"inputs": inputs}
        made = outputs or (inputs or (test_manifest.LATENTS,))[:1]
        changes["outputs"] = tuple(spec.model_copy(update={"name": "prediction"}) for spec in made)
        denoisers.append(test_manifest._with_denoiser(**changes))
    return [*whole, *vae, *denoisers, test_manifest._with_autoencoder("vae_encoder")]


def _plain(value: Any) -> Any:
    """A field of a manifest as JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


@pytest.mark.parametrize("changes", _fitting_cases())
def test_manifests_whose_parts_do_not_fit(twin: Twin, bundle: Bundle, changes: Document) -> None:
    rewrite(bundle, quiet(lambda document: document.update(_plain(changes))))
    agree(twin, "use", bundle.path)


def _cut(bundle: Bundle, outside: Path) -> None:
    data = bundle.path / "denoiser/model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])


def _alter(bundle: Bundle, outside: Path) -> None:
    (bundle.path / "denoiser/model.onnx.data").write_bytes(b"\7" * 16)


def _alter_manifest(bundle: Bundle, outside: Path) -> None:
    path = bundle.path / "manifest.json"
    path.write_text(path.read_text().replace('"epsilon"', '"sample"'))


def _link(target: str, name: str = "denoiser/model.onnx.data") -> Accident:
    def make_link(bundle: Bundle, outside: Path) -> None:
        path = bundle.path / name
        if path.is_file():
            path.rename(bundle.path / "denoiser/inside")
        elif path.is_dir():
            path.rename(outside)
        path.symlink_to(target.format(outside=outside))

    return make_link


def _replace(name: str, *kinds: Callable[[Path], object]) -> list[Accident]:
    """Put something else in the place of a file, one thing at a time."""

    def replacing(kind: Callable[[Path], object]) -> Accident:
        def replace(bundle: Bundle, outside: Path) -> None:
            path = bundle.path / name
            if path.exists():
                path.unlink()
            kind(path)

        return replace

    return [replacing(kind) for kind in kinds]


def _folder(*names: str) -> Callable[[Path], object]:
    """Make a folder of empty folders, and a file."""

    def make_folder(path: Path) -> None:
        for name in names:
            (path / name).mkdir(parents=True)
        (path / "stray").touch()

    return make_folder


def _holding(*contents: bytes) -> list[Callable[[Path], object]]:
    return [partial(Path.write_bytes, data=data) for data in contents]


ANYTHING: list[Callable[[Path], object]] = [
    Path.mkdir,
    os.mkfifo,
    Path.touch,
    lambda path: None,
    *_holding(b"x" * 5000),
]
SCHEDULERS = [b"{}", b"[]", b'{"a": NaN}', b'{"_class_name": 1}', b'{"_class_name": "DPM", "lambda": -Infinity}']
DIGEST = b"0" * 64

#: What may have happened to a bundle's folder.
ACCIDENTS: list[Accident] = [
    _cut,
    _alter,
    _alter_manifest,
    *map(_link, ("inside", "{outside}", "nowhere", "/nowhere/at/all", "model.onnx.data", "../denoiser/inside")),
    _link("{outside}", "denoiser"),
    _link("{outside}", "extra"),
    _link("nowhere", "extra"),
    _link("../..", "extra"),
    _link("extra", "extra"),
    _link("denoiser/../../tiny/denoiser", "extra"),
    _link("../tiny2", "extra"),
    _link("{outside}", "engines"),
    _link("{outside}", "parity"),
    *_replace("denoiser/model.onnx", *ANYTHING),
    *_replace("manifest.json.sha256", *ANYTHING),
    *_replace("scheduler/scheduler_config.json", *ANYTHING, *_holding(*(data.ljust(62) for data in SCHEDULERS))),
    *_replace("manifest.json.sha256", *_holding(b"\xff" * 80, DIGEST, DIGEST + b"  manifest.json\n", b"A" + DIGEST)),
    *_replace("notes.txt", Path.touch),
    *_replace("denoiser/notes.txt", Path.touch),
    *_replace("calibration", Path.touch),
    *_replace("parity", _folder("x")),
    *_replace("engines", _folder("half", ".fast.tmp-1-a")),
    *_replace("with  two spaces\tand\x1bmore", Path.touch),
]


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_accidents(twin: Twin, bundle: Bundle, tmp_path: Path, accident: Accident) -> None:
    accident(bundle, tmp_path / "outside")
    agree(twin, "use", bundle.path)
    agree(twin, "component", bundle.path, "denoiser")
    agree(twin, "verify", bundle.path)


#: Changes to an engine's record beside those of ``tests/bundle``.
ENGINE_CHANGES: list[Change] = [
    *each((), ["name", "created", "backend", "precision", "key", "seconds", "files", "options"],
          [None, 1, -1.5, "x", [], {}, "2026-11-25T21:40:00Z", "x" * 101]),
    *each((), ["parity"], [{}, {"passed": 1}, {"passed": False}, [], 1]),
    *each(("target",), ["device", "provider", "compute_capabilities", "operators"],
          [None, "cuda", "cpu_ops", 1, ["8.9", "10.0"], ["08.9"], [8.9], {}]),
    *each(DENOISER, ["path", "kind", "graph", "profiles", "kept", "seconds"],
          [None, 1, -1, "x", [], {}, "tensorrt", SHA256, {"a": "b"}, {"a": 1}, [{}], [{"sizes": {}}],
           [{"sizes": {"batch": {"minimum": 2, "optimum": 1, "maximum": 1}, "B": {}}}]]),
    setter("components", to={}),
    setter("components", "Bad", to={}),
    setter("key_parts", to={"a": "é→😀\n\x7f\"\\\0"}),
    setter("key_parts", to={"a": 1}),
    setter("files", "../x", to={"size": 1, "sha256": SHA256}),
    setter("files", "engine.json", to={"size": 1, "sha256": SHA256}),
    lambda d: d.update(key_parts={"a": "é→😀\n\x7f\"\\\0/"}, key="d0" * 32),
    lambda d: d["files"].update({"manifest.json": d["files"].pop("denoiser.onnx.data")}),
    lambda d: d["components"].update(solver=d["components"]["denoiser"]),
]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        *(case[0] for case in cases(test_engine_store.test_a_record_that_says_something_else)),
        *(
            (lambda changes: lambda d: d.update(changes))(case[0])
            for case in cases(test_engine.test_what_a_record_may_not_say)
        ),
        *ENGINE_CHANGES,
    ],
)
def test_changed_engines(twin: Twin, bundle: Bundle, engine: Engine, change: Change) -> None:
    rewrite_engine(engine, change)
    agree(twin, "engine", bundle.path, "fast")
    agree(twin, "verify", bundle.path)


@pytest.mark.parametrize("data", [case[0] for case in cases(test_engine_store.test_a_record_that_is_none)])
def test_bytes_of_engines(twin: Twin, bundle: Bundle, engine: Engine, data: bytes) -> None:
    (engine.path / "engine.json").write_bytes(data)
    agree(twin, "engine", bundle.path, "fast")
    agree(twin, "verify", bundle.path)


def test_keys_of_engines_in_all_letters(twin: Twin, bundle: Bundle) -> None:
    build(bundle, key_parts={"é→😀": '\0\x01\b\f\n\r\t\x1f "\\/\x7f\x80\uffff\U0010ffff', "B": "", "a": "1"})
    assert agree(twin, "engine", bundle.path, "fast") == "ok"


def test_engines_that_are_not_there(twin: Twin, bundle: Bundle) -> None:
    agree(twin, "engine", bundle.path, "fast")
    build(bundle)
    build(bundle, "a-1")
    (bundle.path / "engines/partial").mkdir()
    for name in ("slow", "../fast", "", ".", "a\nb", ".fast", "onnx", "partial", "fast/", "é", "x" * 101, "a'b"):
        agree(twin, "engine", bundle.path, name)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (name, what)
        for name in ("denoiser.onnx", "denoiser.onnx.data")
        for what in ("cut", "gone", "other", "link", "fifo")
    ],
)
def test_accidents_to_engines(twin: Twin, bundle: Bundle, engine: Engine, tmp_path: Path, name: str, what: str) -> None:
    path = engine.path / name
    data = path.read_bytes()
    path.unlink()
    if what in ("cut", "other"):
        path.write_bytes(data[:-1] if what == "cut" else bytes(len(data)))
    elif what == "link":
        (tmp_path / "outside").write_bytes(data)
        path.symlink_to(tmp_path / "outside")
    elif what == "fifo":
        os.mkfifo(path)
    agree(twin, "engine", bundle.path, "fast")
    agree(twin, "verify", bundle.path)


@pytest.mark.parametrize("where", ["denoiser.onnx.data", "engine.json", "", ".."])
def test_engines_that_lead_out(twin: Twin, bundle: Bundle, engine: Engine, tmp_path: Path, where: str) -> None:
    path = Path(os.path.normpath(engine.path / where))
    shutil.move(path, tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    agree(twin, "engine", bundle.path, "fast")
    agree(twin, "verify", bundle.path)


def test_engines_of_another_graph(twin: Twin, bundle: Bundle, engine: Engine) -> None:
    rewrite(bundle, lambda d: d["files"].update({"denoiser/more": {"size": 0, "sha256": SHA256}}))
    (bundle.path / "denoiser/more").touch()
    assert "was built from another graph" in agree(twin, "engine", bundle.path, "fast")
    assert agree(twin, "verify", bundle.path) != ""


def in_graph(bundle: Bundle, data: bytes) -> None:
    """Make ``data`` the decoder's graph, in a manifest that is in order."""
    path = bundle.path / "vae_decoder/model.onnx"
    path.write_bytes(data)
    rewrite(bundle, setter("files", "vae_decoder/model.onnx", "size", to=len(data)))


@pytest.mark.parametrize("entries", [
    *(({"location": location, **entries}) for location, entries, _ in cases(
        test_onnx_external_data.test_locations_that_are_refused)),
    {"location": "more.data"}, {"location": "more.data", "offset": "8", "length": "8"},
    {"location": "more.data", "offset": "9", "length": "8"}, {"location": "more.data", "offset": "17"},
    {"location": "more.data", "offset": "9" * 19, "length": "9" * 19}, {"location": "more.data", "length": ""},
    {"location": "more.data", "length": "٣"}, {"location": "more.data", "length": "1 "}, {"location": "a\nb'c\"é"},
    {"location": ""}, {"offset": "1"}, {},
])  # fmt: skip
def test_references(twin: Twin, bundle: Bundle, entries: dict[str, str]) -> None:
    (bundle.path / "vae_decoder/more.data").write_bytes(bytes(16))
    rewrite(bundle, setter("files", "vae_decoder/more.data", to={"size": 16, "sha256": SHA256}))
    model = tiny_model()
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    in_graph(bundle, model.SerializeToString())
    agree(twin, "open", bundle.path)


def test_graphs_in_all_their_forms(twin: Twin, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    deep = b""
    for number in (6, 5, 1) * 40:
        deep = test_onnx_external_data.field(number, len(deep)) + deep
    graphs = [
        test_onnx_external_data.GOOD,
        tiny_model(1000).SerializeToString(),
        context_model(embed_mode=0, ep_cache_context="x.engine"),
        context_model(embed_mode=1, ep_cache_context=b"\xff" * 100_000),
        context_model(embed_mode=0, ep_cache_context=b"\xff"),
        context_model(embed_mode=0, ep_cache_context="x" * 65537),
        test_onnx_external_data.field(7, len(deep)) + deep,
        *(case[0] for case in cases(test_onnx_external_data.test_malformed_files)),
        b"\x08" + b"\xff" * 9 + b"\x01",
        b"\x08" + b"\xff" * 9 + b"\x7f",
        b"\x0a" + b"\x80" * 9 + b"\x02" + b"x" * 5,
        b"\xfa" + b"\xff" * 8 + b"\x7f\x00",
    ]
    for data in graphs:
        path.write_bytes(data)
        agree(twin, "references", path, message=b"\x80\x80\x80" not in data)


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs(twin: Twin, tmp_path: Path, seed: int) -> None:
    """Bytes changed, taken away and repeated in a graph that refers to files in every way."""
    draw = random.Random(seed)
    path = tmp_path / "model.onnx"
    original = [test_onnx_external_data.GOOD, context_model(embed_mode=0, ep_cache_context="x.engine")][seed % 2]
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(data))
            data[at : at + draw.choice((0, 1, 1, 1, 5))] = draw.choice(
                (b"", bytes([draw.randrange(256)]), data[at : at + 9])
            )
        path.write_bytes(bytes(data) or b"\0")
        refused += agree(twin, "references", path) != "ok"
    assert 10 < refused < 290


@pytest.mark.parametrize("seed", range(4))
def test_random_manifests(twin: Twin, bundle: Bundle, engine: Engine, seed: int) -> None:
    """Characters changed in the texts of a manifest and of an engine's record, and values exchanged."""
    draw = random.Random(seed)
    paths = [bundle.path / "manifest.json", engine.path / "engine.json"]
    texts = [path.read_bytes() for path in paths]
    junk: list[Any] = [None, True, 0, -1, 1.5, "", "x", "../x", [], {}, [[]], {"": {}}, 2**62, "\u00e9'\"", 1e300, "1"]
    for number in range(200):
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text)
        if number % 2:
            data = bytearray(texts[number % 4 // 2])
            data[draw.randrange(len(data))] = draw.choice((draw.randrange(256), *b'{}[]",:0-.e\\ '))
            paths[number % 4 // 2].write_bytes(data)
        else:
            document = json.loads(texts[number % 4 // 2])
            _exchange(document, draw, junk)
            paths[number % 4 // 2].write_text(json.dumps(document))
        if draw.random() < 0.8:
            _sign(bundle)
        agree(twin, "use", bundle.path)
        agree(twin, "engine", bundle.path, "fast")


def _sign(bundle: Bundle) -> None:
    """Write the digest of the manifest as it is."""
    digest = hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    (bundle.path / "manifest.json.sha256").write_bytes(digest_line(digest))


def _exchange(document: Any, draw: random.Random, junk: list[Any]) -> None:
    """Put another value somewhere into nested lists and objects."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        key = draw.choice(keys)
        inner = document[key]
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.85:
            document = inner
            continue
        if isinstance(document, dict) and draw.random() < 0.2:
            document[draw.choice(("x", "", "A b", "latents", f"{key}2"))] = document.pop(key)
        else:
            document[key] = draw.choice(junk)
        return


def test_a_bundle_is_read_whole_while_it_is_replaced(twin: Twin, tmp_path: Path) -> None:
    """Two bundles take turns under one name, each time as a new folder; each answer is of one of them."""
    first, second = make(tmp_path / "tiny").path, tmp_path / "second"
    kept = [shutil.copytree(first, tmp_path / "first"), shutil.copytree(first, second)]
    rewrite(Bundle.open(second), setter("created_by", to="someone else"))
    stop = threading.Event()

    def exchange() -> None:
        # As writers do it: one folder never comes back under the name after another had it.
        for source in itertools.cycle(kept):
            if stop.is_set():
                return
            shutil.copytree(source, tmp_path / "new")
            first.rename(tmp_path / "old")
            (tmp_path / "new").rename(first)
            shutil.rmtree(tmp_path / "old")

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        answers = {twin.ask("open", tmp_path / "tiny")[0] for _ in range(200)}
    finally:
        stop.set()
        thread.join()
    absent = f"BundleError: there is no {tmp_path / 'tiny'}"
    over = f"BundleError: {tmp_path / 'tiny'} is being replaced over and over; try again later"
    assert {answer for answer in answers if not answer.startswith(absent)} <= {"ok", over}
    assert "ok" in answers
