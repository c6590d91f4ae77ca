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

from .conftest import BATCH, FIELDS, HEIGHT, WIDTH

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


def _axes(spec: TensorSpec, *axes: int | Axis) -> TensorSpec:
    return spec.model_copy(update={"axes": axes})


def _with_autoencoder(name: str, **changes: Any) -> dict[str, Any]:
    """The tiny decoder with changes, under its own name, or turned around as the encoder."""
    components = dict(FIELDS["components"])
    decoder = components.pop("vae_decoder")
    if name == "vae_encoder":
        mean = decoder.inputs[0].model_copy(update={"name": "mean"})
        decoder = decoder.model_copy(update={"inputs": decoder.outputs, "outputs": (mean,)})
    components[name] = decoder.model_copy(update=changes)
    return {"components": {key: component.model_dump() for key, component in components.items()}}


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
        ({"guidance": Guidance(skip_layers="layers")}, "guidance.skip_layers layers is no condition of the denoiser"),
        ({"guidance": Guidance(skip_layers="class_labels")}, r"is int64 \[batch\], expected int64 \[batch, number of"),
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


PATCHED = (Axis(name="patch_height", multiple=2), Axis(name="patch_width", multiple=2))
SMALL, IMAGES = FIELDS["components"]["vae_decoder"].inputs[0], FIELDS["components"]["vae_decoder"].outputs[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (17.5, "17.5 came, expected an integer, as the input is int64"),
        (1001, "1001 came, expected a value of the input's 0 … 1000"),
        (-1, "-1 came"),
    ],
)
def test_unconditional_values_are_ones_that_the_input_takes(value: float, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(guidance=Guidance(kind="classifier_free", unconditional={"class_labels": value}))


def test_guidance_needs_a_condition() -> None:
    with pytest.raises(ValidationError, match=r"unconditional is empty.*\['class_labels'\]"):
        manifest(guidance=Guidance(kind="classifier_free"))
    with pytest.raises(ValidationError, match=r"names no condition of the denoiser: \['timestep'\]"):
        manifest(guidance=Guidance(unconditional={"timestep": 0}))
    assert manifest(guidance=Guidance()).guidance.kind == "none"


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ((_axes(LATENTS, BATCH, 4, Axis(name="patch_height", multiple=4), PATCHED[1]), TIMESTEP, LABELS), None,
         r"latents has \[batch, 4, 4·patch_height, 2·patch_width\], expected \[batch, channels, 2·patch_height"),
        ((_axes(LATENTS, BATCH, 4, PATCHED[1], PATCHED[0]), TIMESTEP, LABELS), None, "2·patch_width, 2·patch_height"),
        ((_axes(LATENTS, BATCH, 4, 8, 8), TIMESTEP, LABELS), None, r"has \[batch, 4, 8, 8\]"),
        ((LATENTS, _axes(TIMESTEP, 1), LABELS), None, r"timestep has \[1\], expected batch as the first axis"),
        ((LATENTS, TIMESTEP, _axes(LABELS)), None, r"class_labels has \[\], expected batch"),
        (None, (_axes(LATENTS, BATCH, 3, *PATCHED),), "expected the axes of latents"),
    ],
)  # fmt: skip
def test_denoisers_that_no_runtime_can_feed(
    inputs: tuple[TensorSpec, ...] | None, outputs: tuple[TensorSpec, ...] | None, message: str
) -> None:
    changes: dict[str, Any] = {} if inputs is None else {"inputs": inputs}
    spatial = (inputs or (LATENTS,))[0]
    made = outputs or (spatial,)
    changes["outputs"] = tuple(spec.model_copy(update={"name": "prediction"}) for spec in made)
    with pytest.raises(ValidationError, match=message):
        manifest(**_with_denoiser(**changes))


def test_a_variance_has_the_axes_of_the_latents() -> None:
    prediction = LATENTS.model_copy(update={"name": "prediction"})
    variance = _axes(LATENTS, BATCH, 1, *PATCHED).model_copy(update={"name": "variance"})
    with pytest.raises(ValidationError, match=r"variance has .* expected the axes of latents"):
        manifest(
            **_with_denoiser(outputs=(prediction, variance)),
            prediction=Prediction(type="epsilon", learned_range_variance=True),
        )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vae_decoder", {"outputs": (IMAGES.model_copy(update={"name": "image"}),)}, r"gives \['image'\], expected"),
        ("vae_encoder", {"outputs": (SMALL,)}, r"gives \['latents'\], expected 'images' and 'mean'"),
        ("vae_decoder", {"outputs": (_axes(IMAGES, BATCH, 3, HEIGHT, WIDTH),)}, "expected .*8·latent_height"),
        ("vae_encoder", {"inputs": (_axes(IMAGES, BATCH, 3, HEIGHT, WIDTH),)}, "expected .*8·latent_height"),
        ("vae_decoder", {"inputs": (_axes(SMALL, BATCH, 16, HEIGHT, WIDTH),)}, "expected 4 channels"),
        ("vae_decoder", {"inputs": (_axes(SMALL, BATCH, 4, WIDTH, HEIGHT),)}, "latent_height, latent_width"),
    ],
)
def test_autoencoders_that_do_not_fit(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(**_with_autoencoder(name, **changes))


def test_an_encoder_passes() -> None:
    assert "vae_encoder" in manifest(**_with_autoencoder("vae_encoder")).components
