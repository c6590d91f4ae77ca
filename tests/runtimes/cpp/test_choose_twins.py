"""The C++ runtime chooses the engine that the Python runtime chooses, and says the same of those it does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from dit_deploy import Bundle
from dit_deploy.bundle import Target
from dit_deploy.errors import BundleError, InputError
from dit_deploy.runtimes.choose import choose_engine
from dit_deploy.runtimes.fit import Machine, unfit
from tests.runtimes.engines import CPU, CUDA, add_engine, rtx
from tests.runtimes.test_choose import CPU_ONLY, GPU
from tests.runtimes.test_fit import FITS, LAPTOP, NOT, onnx, record

Ask = Callable[[list[dict[str, Any]]], list[dict[str, str]]]

RTX_PROVIDER = "NvTensorRTRTXExecutionProvider"
#: Machines that lack one thing each.
MACHINES = {
    "a CPU": CPU_ONLY,
    "a GPU": GPU,
    "no operators": Machine(versions=CPU_ONLY.versions, providers=CPU_ONLY.providers, cpu_ops_note="no operators here"),
    "a silent GPU": Machine((), "the NVIDIA driver finds no GPU", GPU.versions, GPU.providers),
    "another GPU": Machine(("12.0", "8.9"), "", GPU.versions, GPU.providers),
    "an old ONNX Runtime": Machine(("8.9",), "", {"onnxruntime": "1.20.1"}, CPU_ONLY.providers),
}
#: Versions that are compared in a way of their own: built, here.
VERSIONS = [
    ("1.32", "1.32.0"),
    ("1.9.0", "1.32.0"),
    ("1.32.0", "1.9.0"),
    ("2", "1.99"),
    ("01.032", "1.32"),
    ("", "1.0"),
]


BUILD = os.environ.get("DIT_DEPLOY_CPP_BUILD")
pytestmark = pytest.mark.skipif(
    not BUILD, reason="build the C++ runtime with its tests, and set DIT_DEPLOY_CPP_BUILD to the folder of the build"
)


@pytest.fixture(scope="module")
def ask() -> Ask:
    program = Path(BUILD or "") / "tests" / "tools" / "unfit"

    def answers(questions: list[dict[str, Any]]) -> list[dict[str, str]]:
        lines = "".join(json.dumps(one) + "\n" for one in questions)
        done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return answers


def comparable(text: str) -> str:
    """Leave out how to get a backend, which is another thing in C++."""
    return re.sub(r"(has no (?:ONNX Runtime|TensorRT(?:-RTX)?))(?: that this library can load)?: [^;]*", r"\1", text)


def test_unfit_says_the_same(ask: Ask) -> None:
    pairs = [*FITS, *((engine, here) for engine, here, _ in NOT)]
    for built, here in VERSIONS:
        machine = Machine(("8.9",), "", {"onnxruntime": here, "tensorrt-rtx": here}, LAPTOP.providers)
        pairs.append((onnx(built), machine))
        pairs.append((record(backend_version=built), machine))
        pairs.append((record(backend_version=built, options={"version_compatible": True}), machine))
    fused = Target(device="cpu", provider="CPUExecutionProvider", operators="cpu_ops")
    pairs.extend(
        (record(backend="onnxruntime", backend_version="1.32.0", target=fused), one) for one in MACHINES.values()
    )
    assert len(pairs) > 40
    said = ask([{"record": one.model_dump(mode="json"), "machine": asdict(here)} for one, here in pairs])
    expected = [comparable(unfit(one, here)) for one, here in pairs]
    assert [comparable(one["unfit"]) for one in said] == expected
    assert any(expected) and not all(expected)


def _engines(bundle: Bundle) -> None:
    tensorrt = {**rtx("8.9"), "backend": "tensorrt", "backend_version": "11.0"}
    context = CUDA.model_copy(update={"provider": RTX_PROVIDER})
    add_engine(bundle, "tensorrt-fp16", precision="fp16", **tensorrt)
    add_engine(bundle, "rtx-int8", precision="int8", **rtx("8.9"))
    add_engine(bundle, "decoder", "vae_decoder", precision="int8", **rtx("12.0"))
    add_engine(bundle, "context-fp16", target=context, backend_version="1.7.1.116", precision="fp16")
    add_engine(bundle, "cuda-bf16", target=CUDA, precision="bf16")
    add_engine(bundle, "cpu-int8", precision="int8", target=CPU.model_copy(update={"operators": "cpu_ops"}))
    add_engine(bundle, "cpu-fp16", precision="fp16")
    add_engine(bundle, "cpu-bad", precision="int8", parity={"passed": False, "psnr": 12.0})
    add_engine(bundle, "cpu-fp32", parity={"passed": True, "psnr": 50.0})


def _python(bundle: Bundle, engine: str, machine: Machine) -> dict[str, str]:
    try:
        choice = choose_engine(bundle, engine, machine)
    except (BundleError, InputError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"name": choice.name, "reason": choice.reason}


def test_the_same_engine_is_chosen_for_the_same_reason(ask: Ask, tiny_bundle: Path, tmp_path: Path) -> None:
    """Engines are taken away one by one, and one is damaged."""
    bundle = Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "copied"))
    _engines(bundle)
    damaged = add_engine(bundle, "damaged", precision="int8")
    (damaged.path / "denoiser/model.onnx.data").write_bytes(b"short")
    names = bundle.engine_names()
    while True:
        present = bundle.engine_names()
        asked = [(name, here) for here in MACHINES.values() for name in ("auto", "onnx", "fast", *present)]
        questions = [{"bundle": str(bundle.path), "engine": name, "machine": asdict(here)} for name, here in asked]
        for (name, here), found in zip(asked, ask(questions), strict=True):
            expected = _python(bundle, name, here)
            assert {key: comparable(text) for key, text in found.items()} == {
                key: comparable(text) for key, text in expected.items()
            }, (name, here)
        if not present:
            break
        shutil.rmtree(bundle.path / "engines" / present[len(present) // 2])
    assert len(names) == 10
