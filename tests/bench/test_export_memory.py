"""The memory measurement, on a small model: slow, because it exports in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_deploy.bench import export_memory


@pytest.mark.slow
def test_a_small_model(tmp_path: Path) -> None:
    found = export_memory.measure("DiT-S/8", 64, tmp_path)
    assert found["weights"] > 100e6
    for kind in ("anonymous", "resident"):
        assert 0 < found["ratio"][kind] < 5
        assert found["peak"][kind] >= found["baseline"][kind]
    assert [stage for stage in found["stages"] if "denoiser" in stage["stage"]]
    assert "times the weights" in export_memory.text(found)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_checkpoint_that_is_there(tiny_source: Path, tmp_path: Path) -> None:
    found = export_memory.measure_source(tiny_source, tmp_path)
    weights = tiny_source / "transformer" / "diffusion_pytorch_model.safetensors"
    assert found["weights"] == weights.stat().st_size
    assert found["peak"]["resident"] > found["baseline"]["resident"]
    assert [stage for stage in found["stages"] if "vae_decoder" in stage["stage"]]
    assert list(tmp_path.iterdir()) == []


def test_reading_a_process() -> None:
    import os

    status = export_memory._status(os.getpid())
    assert status["VmHWM"] >= status["VmRSS"] > status["RssAnon"] > 0
    assert export_memory._status(2**30) == {}
