"""What a manifest refuses, beyond the types of its fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from dit_deploy.bundle import Axis, Bundle, FileRecord, Guidance, Manifest, Prediction, TensorSpec
from dit_deploy.bundle.manifest import check_relative_path
from dit_deploy.bundle.schema import PATH, schema_text

from .conftest import FIELDS

RECORD = FileRecord(size=1, sha256="0" * 64)
FILES = dict.fromkeys(("denoiser/model.onnx", "vae_decoder/model.onnx", "scheduler/scheduler_config.json"), RECORD)


def manifest(**changes: Any) -> Manifest:
    return Manifest(**{**FIELDS, "files": FILES, **changes})


def test_json_round_trip_gives_the_same_bytes() -> None:
    text = manifest().to_json()
    again = Manifest.model_validate_json(text, strict=True)
    assert again == manifest()
    assert again.to_json() == text


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", "./a", ".hidden", "a\\b", "C:/x", "a\n", "a\0b",
     "ä", "a b", "x" * 241],
)  # fmt: skip
def test_paths_that_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a plain relative path"):
        check_relative_path(path)
    with pytest.raises(ValidationError, match="not a plain relative path"):
        manifest(files={**FILES, path: RECORD})


@pytest.mark.parametrize("path", ["a", "a/b.c", "denoiser/model.onnx.data", "_x/A-1", "x" * 240])
def test_plain_paths_pass(path: str) -> None:
    assert check_relative_path(path) == path


@pytest.mark.parametrize("path", ["manifest.json", "manifest.json.sha256", "engines/a/engine.json", "parity/a.json"])
def test_files_with_records_of_their_own_are_not_recorded(path: str) -> None:
    with pytest.raises(ValidationError, match="records of its own"):
        manifest(files={**FILES, path: RECORD})


def _with_denoiser(**changes: Any) -> dict[str, Any]:
    components = dict(FIELDS["components"])
    components["denoiser"] = components["denoiser"].model_copy(update=changes)
    return {"components": {name: component.model_dump() for name, component in components.items()}}


LATENTS, TIMESTEP, LABELS = FIELDS["components"]["denoiser"].inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": {"vae_decoder": FIELDS["components"]["vae_decoder"]}}, "lack a denoiser"),
        ({"files": {"denoiser/model.onnx": RECORD}}, "vae_decoder/model.onnx is named but has no record"),
        (_with_denoiser(inputs=(LATENTS, LABELS)), r"lacks \['timestep'\]"),
        (_with_denoiser(inputs=(LATENTS, TIMESTEP, TIMESTEP)), "tensor names repeat"),
        (_with_denoiser(outputs=(LATENTS,)), r"lacks \['prediction'\]"),
        (_with_denoiser(path="denoiser/other.onnx"), "denoiser/other.onnx is named but has no record"),
        ({"latents": FIELDS["latents"].model_copy(update={"channels": 16})}, r"no \[batch, 16"),
        ({"prediction": Prediction(type="epsilon", learned_range_variance=True)}, "go together"),
        ({"guidance": Guidance(kind="classifier_free", unconditional={"prompt": 0})}, r"\['prompt'\]"),
        ({"guidance": Guidance(channels=5)}, "guidance.channels 5 exceeds 4"),
        ({"labels": {"tench": "0"}}, "should match pattern"),
        ({"version": 2}, "Input should be 1"),
        ({"family": "Not a name"}, "should match pattern"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(**changes)


def test_output_axes_must_follow_from_inputs() -> None:
    stray = TensorSpec(name="prediction", dtype="float32", axes=(Axis(name="elsewhere"),))
    with pytest.raises(ValidationError, match=r"axes of no input: \['elsewhere'\]"):
        manifest(**_with_denoiser(outputs=(stray,)))


def test_ranges_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="maximum 1 is below minimum 2"):
        Axis(name="a", minimum=2, maximum=1)
    with pytest.raises(ValidationError, match="below minimum"):
        TensorSpec(name="a", dtype="float32", axes=(), minimum=1, maximum=0)


def test_committed_schema_is_the_generated_one() -> None:
    assert PATH.read_text(encoding="utf-8") == schema_text(), "run `python -m dit_deploy.bundle.schema`"


def test_schema_takes_a_real_manifest_and_refuses_changes(bundle: Bundle) -> None:
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = json.loads((Path(bundle.path) / "manifest.json").read_text())
    validator.validate(document)
    assert not validator.is_valid({**document, "version": 2})
    assert not validator.is_valid({**document, "surprise": 1})
    assert not validator.is_valid({key: value for key, value in document.items() if key != "files"})
