"""Engines of the trained demo: built here without a GPU, and near enough to its own pictures to be used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from dit_deploy import Bundle, Pipeline
from tests.cli.command import command

FASHION = Path(__file__).parents[2] / "examples" / "fashion"
RTX = importlib.util.find_spec("tensorrt_rtx") is not None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from dit_deploy.exporters import export

    return export(FASHION / "model", tmp_path_factory.mktemp("fashion") / "bundle").path


@pytest.mark.slow
@pytest.mark.skipif(not RTX, reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'")
@pytest.mark.parametrize(("precision", "least"), [("fp16", 45.0), ("int8", 30.0)])
def test_tensorrt_rtx_engines_build_and_hold_their_limits(
    bundle: Path, precision: str, least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "build-engine",
        bundle,
        "--backend",
        "tensorrt-rtx",
        "--precision",
        precision,
        "--sm",
        "8.9",
        "--sm",
        "12.0",
    )
    result = command(capsys, *words)
    assert result.status == 0, result.err
    record = Bundle.open(bundle).engine(f"tensorrt-rtx-{precision}").record
    assert {"denoiser", "vae_encoder", "vae_decoder"} <= set(record.components)
    assert record.target.compute_capabilities == ("8.9", "12.0")
    assert record.parity is not None
    assert record.parity["psnr"] >= least
    again = command(capsys, *words)
    assert "the same" in again.err  # its key says that it is there


@pytest.mark.slow
def test_int8_on_the_cpu_draws_the_same_pictures(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "build-engine", bundle, "--precision", "int8").status == 0
    request = {"class_labels": list(range(10)), "num_inference_steps": 50, "seed": 7, "output_type": "numpy"}
    opened = Bundle.open(bundle)
    plain = np.asarray(Pipeline(opened, "onnx")(**request).images)
    quantised = np.asarray(Pipeline(opened, "onnxruntime-int8")(**request).images)
    error = float(np.mean((plain - quantised) ** 2))
    assert error > 0
    assert -10 * np.log10(error) >= 30.0  # pictures that the build did not see: other seeds and labels
    assert Pipeline(opened).engine == "onnxruntime-int8"


@pytest.mark.slow
def test_full_tensorrt_says_what_is_missing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    result = command(capsys, "build-engine", bundle, "--backend", "tensorrt", "--precision", "fp16")
    assert result.status == 2
    assert "not installed: tensorrt" in result.message
