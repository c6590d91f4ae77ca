"""The golden files themselves: any bundle gives some, and they hold what the C++ tests will look for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dit_deploy import Bundle
from dit_deploy.sampling import noise
from tests.runtimes.cpp import golden


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_another_model_than_the_demo(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    out = tmp_path / "golden"
    golden.main([str(tiny_bundle), str(out), "--cases", "ddim", "euler-ancestral", "image-each"])
    document = json.loads((out / "golden.json").read_text(encoding="utf-8"))
    assert document["format"] == golden.FORMAT and document["version"] == golden.VERSION
    assert (out / document["bundle"]).resolve() == tiny_bundle.resolve()
    assert document["digest"] == bundle.digest
    assert sorted(document["cases"]) == sorted(path.stem for path in out.glob("*.safetensors"))

    tensors, metadata = read(out / "ddim.safetensors")
    assert metadata["format"] == golden.FORMAT and metadata["version"] == str(golden.VERSION)
    assert json.loads(metadata["request"]) == {
        "class_labels": [1, 7], "num_inference_steps": 12, "seed": 0, "engine": "onnx",
    }  # fmt: skip
    assert np.array_equal(tensors["noise"], noise(0, (2, 6, 16, 16)))
    assert tensors["latents"].shape == (12, 2, 6, 16, 16)
    assert tensors["array"].shape == tensors["pictures"].shape == (2, 64, 64, 3)
    assert not any(name.startswith("given.") for name in tensors)  # no other noise is drawn
    assert "given.latents" in read(out / "euler-ancestral.safetensors")[0]
    assert read(out / "image-each.safetensors")[0]["image.1"].shape == (64, 128, 3)


def test_a_folder_of_something_else_is_left_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match="holds something else"):
        golden.main([str(tiny_bundle), str(tmp_path), "--cases", "ddim"])
    with pytest.raises(SystemExit, match="expected one of ddim"):
        golden.main([str(tiny_bundle), str(tmp_path / "out"), "--cases", "magic"])


def test_names_are_one_file_each() -> None:
    names = [case.name for case in golden.CASES]
    assert len(names) == len(set(names))
    assert {"ddim", "dpmsolver++", "unipc", "euler-ancestral", "learned-variance", "image"} <= set(names)
