"""The GPU benchmark on the CPU, with a tiny network: what it measures, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit_deploy.bench import gpu
from dit_deploy.bench.gpu import EAGER, bench_gpu, call_flops, main
from dit_deploy.bench.gpu_candidates import (
    SCHEDULER,
    Work,
    by_onnxruntime,
    by_torch,
    place,
    random_network,
    write_graph,
)
from dit_deploy.bench.gpu_report import GpuReport, Row
from dit_deploy.bench.timing import Timing
from dit_deploy.errors import InputError

ORT = "ONNX Runtime, this package's loop"
TINY = ["--device", "cpu", "--arch", "tiny", "--size", "64", "--batch", "1", "--steps", "2", "--rounds", "2"]


def test_a_table_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    assert main([*TINY, "--batch", "2", "--no-compile", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["absent"] == []
    assert [(row["size"], row["batch"], row["candidate"]) for row in found["rows"]] == [
        (64, batch, name) for batch in (1, 2) for name in (EAGER, ORT)
    ]
    for row in found["rows"]:
        # two independent implementations of network, loop, guidance and sampler
        assert row["difference"] <= (0 if row["candidate"] == EAGER else 1e-5)
        assert row["run"]["n"] == 2
        flops = 2 * call_flops(gpu._config("tiny"), 64, 2 * row["batch"])
        assert row["tflops"] == pytest.approx(flops / row["run"]["median"] / 1e12)
        assert row["share"] == pytest.approx(row["tflops"] / max(found["ceiling_tflops"]))
        line = next(one for one in out.splitlines() if one.startswith(f"| 64² | {row['batch']} | {row['candidate']} |"))
        assert line.count("|") == 11
    assert found["settings"]["precision"] == "FP32"
    assert "torch" in found["machine"]["versions"]


def test_it_runs_with_torch_onnx_and_onnxruntime_alone(tmp_path: Path) -> None:
    code = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"diffusers", "transformers", "onnx_ir", "onnxscript", "safetensors", "polygraphy"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
from dit_deploy.bench.gpu import main
sys.exit(main({[*TINY, "--no-compile"]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ORT in done.stdout
    assert "ModuleNotFoundError" not in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: this benchmark needs an NVIDIA GPU: ")
    assert captured.err.count("\n") == 1


def test_a_candidate_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Callable[[Work], Any]:
        def opened(work: Work) -> Any:
            raise RuntimeError("CUDA out of memory\nmore")

        return opened

    monkeypatch.setattr("dit_deploy.bench.gpu_candidates.by_onnxruntime", broken)
    report = bench_gpu(
        device="cpu", arch="tiny", sizes=(64,), batches=(1,), steps=2, rounds=1, compile_modes=("no such mode",)
    )
    assert [row.candidate for row in report.rows] == [EAGER]
    assert report.absent[64, 1, ORT] == "RuntimeError: CUDA out of memory"
    assert "no such mode" in report.absent[64, 1, "torch.compile no such mode"]
    assert "| 64² | 1 | ONNX Runtime, this package's loop | RuntimeError: CUDA out of memory |" in report.markdown()


def test_engines_of_a_bundle(tiny_bundle: Path) -> None:
    report = bench_gpu(
        device="cpu",
        arch="tiny",
        sizes=(64,),
        batches=(2,),
        steps=2,
        rounds=1,
        compile_modes=(),
        bundle=tiny_bundle,
        engines=("onnx", "missing"),
    )
    assert "engine onnx" in {row.candidate for row in report.rows}
    assert "missing" in report.absent[64, 2, "engine missing"]


def test_the_loop_is_diffusers() -> None:
    """The baseline must be what it is said to be: DDIM with guidance on the same network."""
    from diffusers import DDIMScheduler

    work, network = Work(64, 2, 5), random_network(gpu._config("tiny"))
    _, found = by_torch(network, "cpu")(work)()
    scheduler = DDIMScheduler(clip_sample=SCHEDULER["clip_sample"])
    scheduler.set_timesteps(5)
    sample = torch.from_numpy(work.start(4))
    labels = torch.tensor([0, 1, 1000, 1000])
    for timestep in scheduler.timesteps:
        predicted = network(torch.cat([sample] * 2), timestep.float().expand(4), labels)[0]
        conditional, unconditional = predicted.chunk(2)
        sample = scheduler.step(unconditional + 4 * (conditional - unconditional), timestep, sample).prev_sample
    assert np.abs(found - sample.numpy()).max() <= 1e-5 * np.abs(found).max()
    assert all(parameter.any() for parameter in network.parameters())


def test_in_half_precision(tmp_path: Path) -> None:
    """As on a GPU: parameters in FP16, frequencies not, latents and the sampler in float32."""
    config, work = gpu._config("tiny"), Work(64, 2, 5)
    _, expected = by_torch(random_network(config), "cpu")(work)()
    network = place(random_network(config), "cpu", torch.float16)
    assert network.position_frequencies.dtype == torch.float32
    write_graph(network, tmp_path / "half.onnx", "cpu")
    for opened in (by_torch(network, "cpu"), by_onnxruntime(tmp_path / "half.onnx", config, "cpu")):
        _, found = opened(work)()
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() <= 1e-2 * np.abs(expected).max()


def test_operations_are_those_that_the_network_does() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = gpu._config("tiny")
    network, work = random_network(config), Work(64, 3, 1)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        network(torch.from_numpy(work.start(4)), torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    assert call_flops(config, 64, 3) == pytest.approx(counter.get_total_flops(), rel=0.01)
    # DiT-XL/2 at 256²: 118.6 G multiplications and additions (Peebles & Xie 2023, table 1)
    assert call_flops(gpu._config("DiT-XL/2"), 256, 1) == pytest.approx(2 * 118.64e9, rel=0.01)


def test_bad_input() -> None:
    for arguments, message in (({"steps": 0}, "steps: 0"), ({"batches": (0,)}, "batch: 0"), ({"rounds": 0}, "rounds")):
        with pytest.raises(InputError, match=message):
            bench_gpu(device="cpu", arch="tiny", **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'DiT-Q/2' came, expected one of DiT-S/2"):
        bench_gpu(device="cpu", arch="DiT-Q/2")


def test_shares_are_of_the_best_ceiling() -> None:
    report = GpuReport({}, {}, ceiling=[1.0, 2.0])
    row = Row(64, 1, EAGER, Timing((2.0, 1.0, 3.0)), 1.0, 0.0, flops=2e12, steps=1)
    assert row.tera == 1.0
    report.rows.append(row)
    assert report.to_dict()["rows"][0]["share"] == 0.5
