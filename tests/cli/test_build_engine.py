"""``build-engine`` as a command: what it prints, what it explains, and one line for what cannot be."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.cli.command import Command

QUICK = ("--precision", "int8", "--kernels", "onnxruntime", "--samples", "4", "--evaluations", "2", "--threads", "1")
RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("cli") / "tiny"))


def test_an_engine_is_built_once_and_then_found(cli: Command, bundle: Path) -> None:
    first = cli("build-engine", bundle, *QUICK, "--no-check")
    assert first.status == 0, first.err
    assert "engines/onnxruntime-int8: int8 vae_encoder, vae_decoder, denoiser" in first.out
    assert "its pictures were not compared" in first.out
    assert "observing the denoiser" in first.err
    again = cli("build-engine", bundle, *QUICK, "--no-check")
    assert again.status == 0
    assert "onnxruntime-int8 is there already, and the same" in again.err
    assert "onnxruntime-int8" in cli("inspect", bundle).out
    assert cli("verify", bundle).status == 0


def test_explain_builds_nothing(cli: Command, bundle: Path) -> None:
    words = ("build-engine", bundle, *QUICK, "--name", "other", "--explain")
    result = cli(*words)
    assert (result.status, result.out) == (0, "there is no engine of this name yet\n")
    assert not (bundle / "engines/other").exists()


def test_parity_is_printed_with_its_limit(cli: Command, bundle: Path) -> None:
    result = cli("build-engine", bundle, "--threads", "1", "--component", "vae_decoder", "--quiet")
    assert result.status == 0, result.err
    assert "the limit is 60 dB" in result.out
    failed = cli("build-engine", bundle, *QUICK, "--name", "strict", "--limit", "300", "--no-adjust", "--quiet")
    assert failed.status == 0
    assert "parity FAILED" in failed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--precision", "int3"), "precision: 'int3' came, expected one of fp32, fp16, bf16, int8, fp8"),
        (("--backend", "tensort"), "backend: 'tensort' came"),
        (("--precision", "int8", "--limit", "40", "--no-check"), "--limit came with --no-check"),
        (("--precision", "fp32", "--sm", "8.9"), "build nothing ahead of time"),
        (("--name", "../x"), "names no engine"),
        ((*QUICK, "--prompt", "a cat"), "this bundle has no text encoder to calibrate with"),
    ],
)
def test_bad_input_is_one_line(cli: Command, bundle: Path, words: tuple[str, ...], message: str) -> None:
    result = cli("build-engine", bundle, *words)
    assert result.status == 2
    assert message in result.message


@needs_rtx
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--min", "4x32x32", "--max", "2x64x64"), "batch: minimum 4, optimum 4, maximum 2 came"),
        (("--sm", "9.9"), "compute capability: '9.9' came"),
        (("--resolution", "60x64"), "the nearest is 64"),
        (("--timing-cache", "cache"), "timing_cache: TensorRT-RTX has no such option"),
    ],
)
def test_what_tensorrt_rtx_cannot_do_is_one_line(
    cli: Command, bundle: Path, words: tuple[str, ...], message: str
) -> None:
    result = cli("build-engine", bundle, "--backend", "tensorrt-rtx", "--precision", "fp16", *words)
    assert result.status == 2
    assert message in result.message
