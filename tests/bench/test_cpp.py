"""The measurement of whole processes, with a stand-in for the C++ program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from dit_deploy import Bundle
from dit_deploy.bench import cpp
from dit_deploy.bench.machine import describe
from dit_deploy.errors import DitDeployError, InputError

#: Holds the picture that the second word names, and 100 MB for a while.
STAND_IN = """#!{python}
import sys
from PIL import Image
held = bytearray(100_000_000)
assert sys.argv[3:6] == ["--class-label", "3", "--steps"]
assert sys.argv[7:] == ["--seed", "0", "--engine", "onnx", "--threads", "1"]
Image.new("RGB", (64, 64)).save(sys.argv[2])
print("a line that is not for the launcher")
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "dit-deploy-run"
    path.write_text(STAND_IN.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return path


def measure(bundle: Path, program: Path, **options: object) -> dict[str, cpp.Measured]:
    few = {"steps": 1, "more_steps": 1, "repeats": 1, "threads": 1, "class_label": 3}
    return cpp.measure(Bundle.open(bundle), program, **{**few, **options})  # type: ignore[arg-type]


def test_beside_the_python_runtime(tiny_bundle: Path, program: Path) -> None:
    measured = measure(tiny_bundle, program)
    assert list(measured) == [cpp.PYTHON, cpp.CPP]
    assert measured[cpp.PYTHON].difference == 0
    assert measured[cpp.CPP].difference > 0  # black is not what the model draws
    assert 100e6 < measured[cpp.CPP].memory[0] < 200e6
    found = measured[cpp.CPP].to_dict(measured[cpp.PYTHON])
    assert found["first_picture"]["ratio"] > 0
    assert 0 < found["memory"]["ratio"] < 10
    settings = {"engine": "onnx", "steps": 1, "threads": 1, "machine": describe()}
    console = Console(width=200, record=True)
    console.print(cpp.table(Bundle.open(tiny_bundle), measured, settings))
    assert "peak memory" in console.export_text()


@pytest.mark.slow
def test_beside_diffusers(tiny_bundle: Path, tiny_source: Path, program: Path) -> None:
    measured = measure(tiny_bundle, program, reference=tiny_source)
    assert list(measured) == [cpp.DIFFUSERS, cpp.PYTHON, cpp.CPP]
    assert measured[cpp.PYTHON].difference <= 1  # the same picture


def test_what_does_not_start(tiny_bundle: Path, program: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no program"):
        measure(tiny_bundle, tmp_path / "nothing")
    with pytest.raises(InputError, match="no folder of a diffusers pipeline"):
        measure(tiny_bundle, program, reference=tmp_path)
    with pytest.raises(InputError, match="steps: 0 came"):
        measure(tiny_bundle, program, steps=0)
    program.write_text("#!/bin/sh\necho first >&2\necho no picture today >&2\nexit 3\n", encoding="utf-8")
    with pytest.raises(DitDeployError, match="dit-deploy-run ended with status 3; its last words: no picture today"):
        measure(tiny_bundle, program)
    program.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    with pytest.raises(DitDeployError, match="did not start; its last words: FileNotFoundError"):
        measure(tiny_bundle, program)
