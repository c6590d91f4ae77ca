"""Who imports what: nothing at run time needs PyTorch, and the public lists are true."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import dit_deploy

#: Raises on import of anything that belongs to build time, as where it is not installed.
NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", NO_TORCH + code], capture_output=True, text=True, timeout=120)


def runtime_modules() -> list[str]:
    import dit_deploy.runtimes

    names = [f"dit_deploy.runtimes.{module.name}" for module in pkgutil.iter_modules(dit_deploy.runtimes.__path__)]
    assert {"dit_deploy.runtimes.pipeline", "dit_deploy.runtimes.onnxruntime"} <= set(names)
    return [name for name in names if name != "dit_deploy.runtimes.torch"]


def test_the_refusal_refuses() -> None:
    assert "No module named 'torch'" in run_without_torch("import torch").stderr


@pytest.mark.parametrize("module", ["dit_deploy", "dit_deploy.sampling", "dit_deploy.cli", *runtime_modules()])
def test_run_time_imports_without_torch(module: str) -> None:
    result = run_without_torch(f"import {module}")
    assert result.returncode == 0, result.stderr


def test_a_picture_without_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    code = f"""
from dit_deploy import Bundle, Pipeline
out = Pipeline(Bundle.open({str(tiny_bundle)!r}))(class_labels=[3], num_inference_steps=2, seed=0)
out.images[0].save({str(tmp_path / "picture.png")!r})
assert not {{"torch", "diffusers", "transformers"}} & set(sys.modules)
"""
    result = run_without_torch(code)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_wheel_with_the_cpu_extra_alone_draws(tiny_bundle: Path, tmp_path: Path) -> None:
    root = Path(dit_deploy.__file__).parents[1]
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin" / "pip", "install", "--quiet", f"{root}[cpu]"], check=True, timeout=600)
    installed = subprocess.run([venv / "bin" / "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "torch" not in installed
    assert "diffusers" not in installed
    command = [
        venv / "bin" / "dit-deploy",
        "generate",
        tiny_bundle,
        tmp_path / "a.png",
        "--class-label",
        "3",
        "--steps",
        "2",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.png").exists()


PUBLIC = [
    "dit_deploy",
    "dit_deploy.bench",
    "dit_deploy.bundle",
    "dit_deploy.exporters",
    "dit_deploy.exporters.calibration",
    "dit_deploy.parity",
    "dit_deploy.runtimes",
    "dit_deploy.sampling",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_lists_are_true(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for member in module.__all__:
        assert hasattr(module, member), member
