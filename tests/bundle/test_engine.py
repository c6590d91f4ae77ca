"""Records of engines: keys, what changed in them, profiles, and what a record may not say."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from dit_deploy.bundle import (
    Bundle,
    EngineRecord,
    FileRecord,
    Profile,
    SizeRange,
    engine_key,
    explain_key,
    graph_digest,
)
from dit_deploy.bundle.engine import SOLVER
from dit_deploy.bundle.schema import ENGINE_PATH, schema_text

from .engines import KEY, build

SIZES = {
    "batch": SizeRange(minimum=1, optimum=2, maximum=8),
    "patch_height": SizeRange(minimum=8, optimum=16, maximum=16),
}


def test_key_is_the_sha256_of_canonical_json() -> None:
    parts = {"precision": "int8", "backend": "tensorrt-rtx 1.7.1 → x"}
    text = '{"backend":"tensorrt-rtx 1.7.1 \\u2192 x","precision":"int8"}'
    assert engine_key(parts) == hashlib.sha256(text.encode()).hexdigest()
    assert engine_key(dict(reversed(parts.items()))) == engine_key(parts)
    for changed in ({**parts, "precision": "fp16"}, {**parts, "more": ""}, {"precision": "int8"}, {}):
        assert engine_key(changed) != engine_key(parts)


def test_explain_names_each_part_that_differs() -> None:
    old = {"backend": "tensorrt-rtx 1.7.0", "precision": "int8", "graph.denoiser": "a" * 64, "option.alpha": "0.5"}
    new = {"backend": "tensorrt-rtx 1.7.1", "precision": "int8", "graph.denoiser": "b" * 64, "calibration": ""}
    assert explain_key(old, new) == [
        "backend: tensorrt-rtx 1.7.0 → tensorrt-rtx 1.7.1",
        "calibration: not set → empty",
        "graph.denoiser: aaaaaaaaaaaa → bbbbbbbbbbbb",
        "option.alpha: 0.5 → not set",
    ]
    assert explain_key(new, new) == []
    assert explain_key(None, new) == ["there is no engine of this name yet"]


def test_explained_values_stay_on_one_line_and_differ() -> None:
    """Long values are cut where they differ, not before."""
    long = "x" * 500
    (line,) = explain_key({"recipe": long + "1\n" + long}, {"recipe": long + "2\n" + long})
    assert "\n" not in line and len(line) < 400
    before, after = line.removeprefix("recipe: ").split(" → ")
    assert before != after and "1" in before and "2" in after


@pytest.mark.parametrize("sizes", [(2, 1, 4), (1, 5, 4), (1, 0, 4), (0, 1, 1), (4, 4, 2)])
def test_ranges_are_ordered(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValidationError, match=r"expected minimum ≤ optimum ≤ maximum|greater than or equal to 1"):
        SizeRange(minimum=sizes[0], optimum=sizes[1], maximum=sizes[2])


def test_a_profile_holds_its_ends_and_nothing_beyond() -> None:
    profile = Profile(sizes=SIZES)
    for batch, height, held in (
        (1, 8, True), (8, 16, True), (2, 16, True), (0, 16, False), (9, 16, False), (2, 7, False), (2, 17, False),
    ):  # fmt: skip
        assert profile.holds({"batch": batch, "patch_height": height, "other": 1}) is held
    assert not profile.holds({"batch": 2})


def test_distance_counts_doublings_from_the_optimum() -> None:
    profile = Profile(sizes=SIZES)
    assert profile.distance({"batch": 2, "patch_height": 16}) == 0
    assert profile.distance({"batch": 8, "patch_height": 16}) == pytest.approx(2)
    assert profile.distance({"batch": 1, "patch_height": 8}) == pytest.approx(2)


def test_graph_digest_covers_graph_and_weights_of_one_component(bundle: Bundle) -> None:
    manifest = bundle.manifest

    def with_file(path: str) -> Any:
        record = FileRecord(size=manifest.files.get(path, FileRecord(size=1, sha256="0" * 64)).size, sha256="f" * 64)
        return manifest.model_copy(update={"files": {**manifest.files, path: record}})

    before = {name: graph_digest(manifest, name) for name in ("denoiser", "vae_decoder")}
    assert before["denoiser"] != before["vae_decoder"]
    for path, name in (
        ("denoiser/model.onnx", "denoiser"),
        ("denoiser/model.onnx.data", "denoiser"),
        ("denoiser/shards/more.data", "denoiser"),
        ("vae_decoder/model.onnx", "vae_decoder"),
        ("denoiser2/model.onnx", None),
        ("scheduler/scheduler_config.json", None),
    ):
        after = {one: graph_digest(with_file(path), one) for one in before}
        assert {one for one in before if after[one] != before[one]} == ({name} if name else set()), path
    assert graph_digest(with_file("denoiser/model.onnx"), SOLVER) != graph_digest(manifest, SOLVER)
    with pytest.raises(KeyError):
        graph_digest(manifest, "vae_encoder")


def document(bundle: Bundle, **changes: Any) -> str:
    made = json.loads(build(bundle).record.to_json())
    return json.dumps({**made, **changes})


def test_a_record_survives_its_own_json(bundle: Bundle) -> None:
    record = build(bundle).record
    assert EngineRecord.model_validate_json(record.to_json(), strict=True) == record
    assert record.key == engine_key(KEY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "auto"}, "'auto' has a meaning of its own"),
        ({"name": "onnx"}, "'onnx' has a meaning of its own"),
        ({"name": "a/b"}, "should match pattern"),
        ({"key": "0" * 64}, "key is not the SHA-256 over key_parts"),
        ({"key_parts": {"backend": "another"}}, "key is not the SHA-256 over key_parts"),
        ({"components": {}}, "at least 1 item"),
        ({"files": {}}, r"denoiser\.onnx is named but has no record under files"),
        ({"files": {"../x": {"size": 1, "sha256": "0" * 64}}}, "not a plain relative path"),
        ({"files": {"engine.json": {"size": 1, "sha256": "0" * 64}}}, "cannot record itself"),
        ({"precision": "int4"}, "'fp8'"),
        ({"backend": "openvino"}, "'tensorrt'"),
        ({"created": "yesterday"}, "should match pattern"),
        ({"seconds": -1}, "greater than or equal to 0"),
        ({"seconds": "1"}, "valid number"),
        ({"surprise": 1}, "Extra inputs"),
        ({"target": {"device": "cuda", "compute_capabilities": ["sm_89"]}}, "should match pattern"),
    ],
)
def test_what_a_record_may_not_say(bundle: Bundle, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineRecord.model_validate_json(document(bundle, **changes), strict=True)


def test_a_tensorrt_artefact_is_none_of_onnxruntimes(bundle: Bundle) -> None:
    component = {"path": "denoiser.onnx", "kind": "tensorrt", "graph": "0" * 64}
    with pytest.raises(ValidationError, match="kind tensorrt, but the backend is onnxruntime"):
        EngineRecord.model_validate_json(document(bundle, components={"denoiser": component}), strict=True)


def test_committed_schema_is_the_generated_one() -> None:
    assert ENGINE_PATH.read_text(encoding="utf-8") == schema_text(EngineRecord), (
        "run `python -m dit_deploy.bundle.schema`"
    )


def test_schema_takes_a_real_record_and_refuses_changes(bundle: Bundle) -> None:
    schema = json.loads(schema_text(EngineRecord))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    made = json.loads(document(bundle))
    validator.validate(made)
    assert not validator.is_valid({**made, "version": 2})
    assert not validator.is_valid({**made, "surprise": 1})
    assert not validator.is_valid({key: value for key, value in made.items() if key != "key"})
