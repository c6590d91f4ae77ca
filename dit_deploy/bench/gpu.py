"""DiT on an NVIDIA GPU: this package's engines against PyTorch, with the GPU's matmul ceiling measured in the same run.

    python -m dit_deploy.bench.gpu [--quick] [--json FILE]

DiT-XL/2 with random weights in FP16, 256² and 512² pixels, batch 1, 8 and 32, 50 DDIM steps with guidance (so each
step is a denoiser call of twice the batch). It runs as it is where torch, onnx and onnxruntime-gpu are installed: then
the graph is written by PyTorch's older exporter. Engines of a bundle are measured beside it with ``--bundle DIR
--engine NAME``: make them with ``dit-deploy export`` and ``dit-deploy build-engine``, or let ``--build`` do it, which
takes the whole export extra and builds for each of ONNX Runtime, TensorRT and TensorRT-RTX that is installed.

Candidates take turns (A B C A B C …) and medians are reported. Work counts 2 operations for a multiplication and
addition of the network's matrices and attention, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bench.gpu_report import GpuReport, Row
from dit_deploy.bench.machine import describe
from dit_deploy.bench.timing import interleave
from dit_deploy.errors import DitDeployError, InputError
from dit_deploy.extras import importable

if TYPE_CHECKING:
    from dit_deploy.bench.gpu_candidates import Open, Work
    from dit_deploy.exporters.families.dit import DiTConfig

__all__ = ["EAGER", "bench_gpu", "call_flops", "main"]

EAGER = "PyTorch eager"


def call_flops(config: DiTConfig, size: int, batch: int, compression: int = 8) -> float:
    """Return the operations of one denoiser call on ``batch`` samples of ``size`` pixels: matrices and attention."""
    hidden, depth, patch = config.hidden_size, config.depth, config.patch_size
    tokens = (size // compression // patch) ** 2
    mlp = int(hidden * config.mlp_ratio)
    block = tokens * (4 * hidden * hidden + 2 * hidden * mlp) + 2 * tokens * tokens * hidden + 6 * hidden * hidden
    ends = tokens * patch * patch * hidden * (config.in_channels + config.out_channels)
    once = (256 + hidden) * hidden + 2 * hidden * hidden  # the timestep's layers, and the last modulation
    return 2.0 * batch * (depth * block + ends + once)


def bench_gpu(
    *,
    device: str = "cuda",
    arch: str = "DiT-XL/2",
    sizes: Sequence[int] = (256, 512),
    batches: Sequence[int] = (1, 8, 32),
    steps: int = 50,
    rounds: int = 5,
    compile_modes: Sequence[str] = ("reduce-overhead", "max-autotune"),
    bundle: Path | None = None,
    engines: Sequence[str] = (),
    build: bool = False,
    work_folder: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> GpuReport:
    """Run the benchmark; the arguments are the command line's.

    Raises:
        InputError: there is no GPU, no such model, or a number is out of range.
    """
    for name, number in (("steps", steps), ("rounds", rounds), *(("batch", one) for one in batches)):
        if number < 1:
            raise InputError(f"{name}: {number} came, at least 1 was expected")
    if reason := _no_cuda(device):
        raise InputError(f"this benchmark needs an NVIDIA GPU: {reason}")
    import torch

    from dit_deploy.bench import gpu_candidates as candidates
    from dit_deploy.exporters.families.dit import DiT

    config = _config(arch)
    half = device == "cuda"
    ceiling_size = 8192 if half else 512
    machine = describe()
    report = GpuReport(
        settings={
            "model": arch,
            "precision": "FP16" if half else "FP32",
            "steps": steps,
            "rounds": rounds,
            "gpu": torch.cuda.get_device_name() if half else machine["cpu"]["model"],
            "ceiling_size": ceiling_size,
        },
        machine=machine,
    )
    report.ceiling.append(_matmul_tera(device, ceiling_size))
    with tempfile.TemporaryDirectory(dir=work_folder) as temporary:
        folder = Path(temporary)
        if build:
            progress("exporting a bundle and building engines")
            bundle, engines, network = _build(folder, arch, sizes, batches)
        else:
            network = candidates.random_network(config)
        assert isinstance(network, DiT)
        network = candidates.place(network, device, torch.float16 if half else torch.float32)
        openers: dict[str, Callable[[], Open]] = {EAGER: lambda: candidates.by_torch(network, device)}
        for mode in compile_modes:
            openers[f"torch.compile {mode}"] = partial(candidates.by_torch, network, device, mode=mode)

        def onnxruntime() -> Open:
            graph = folder / "denoiser.onnx"
            candidates.write_graph(network, graph, device)
            return candidates.by_onnxruntime(graph, config, device)

        openers["ONNX Runtime, this package's loop"] = onnxruntime
        if bundle is not None:
            from dit_deploy.bundle import Bundle

            opened_bundle = Bundle.open(bundle)
            for engine in engines:
                openers[f"engine {engine}"] = partial(candidates.by_engine, opened_bundle, engine)
        ready: dict[str, Open] = {}
        missing: dict[str, str] = {}
        for name, opener in openers.items():
            progress(f"opening {name}")
            try:
                ready[name] = opener()
            except Exception as error:  # one candidate's absence is a row, the others are measured
                missing[name] = _reason(error)
        for size in sizes:
            for batch in batches:
                report.absent |= {(size, batch, name): reason for name, reason in missing.items()}
                work = candidates.Work(size, batch, steps)
                flops = steps * call_flops(config, size, 2 * batch)
                _measure(report, ready, work, flops, rounds, progress)
    report.ceiling.append(_matmul_tera(device, ceiling_size))
    return report


def _measure(
    report: GpuReport,
    ready: Mapping[str, Open],
    work: Work,
    flops: float,
    rounds: int,
    progress: Callable[[str], None],
) -> None:
    """Warm every candidate up at a size, then time those that run."""
    runs, latents = {}, {}
    for name, opener in ready.items():
        progress(f"{work.size}², batch {work.batch}: warming up {name}")
        try:
            run = opener(work)
            run()
            _, latents[name] = run()
            runs[name] = run
        except Exception as error:
            report.absent[work.size, work.batch, name] = _reason(error)
    if not runs:
        return
    timed = {name: (lambda run=run: run()[0]) for name, run in runs.items()}
    timings = interleave(timed, rounds, progress)
    baseline = EAGER if EAGER in runs else next(iter(runs))
    for name, timing in timings.items():
        report.rows.append(
            Row(
                size=work.size,
                batch=work.batch,
                candidate=name,
                timing=timing,
                ratio=timing.ratio(timings[baseline]),
                difference=_difference(latents[name], latents[baseline]),
                flops=flops,
                steps=work.steps,
            )
        )


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float | None:
    """Return the largest difference over the largest value; ``None`` for latents of another model."""
    if found.shape != expected.shape:
        return None
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def _config(arch: str) -> DiTConfig:
    from dit_deploy.exporters.families.dit import ARCHITECTURES, DiTConfig

    if arch == "tiny":  # for tests
        return DiTConfig(hidden_size=48, depth=2, num_heads=2)
    if arch not in ARCHITECTURES:
        raise InputError(f"arch: {arch!r} came, expected one of {', '.join(ARCHITECTURES)}")
    hidden, depth, heads, patch = ARCHITECTURES[arch]
    return DiTConfig(hidden_size=hidden, depth=depth, num_heads=heads, patch_size=patch)


def _build(folder: Path, arch: str, sizes: Sequence[int], batches: Sequence[int]) -> tuple[Path, list[str], Any]:
    """Export a random checkpoint, build FP16 engines of every backend installed; return the network of its weights."""
    from dit_deploy.bench.random_checkpoint import write_random_checkpoint
    from dit_deploy.exporters import export
    from dit_deploy.exporters.builders import build_engine
    from dit_deploy.exporters.families.dit_source import open_checkpoint

    checkpoint = write_random_checkpoint(folder, arch)
    bundle = export(checkpoint, folder / "bundle", arch=arch, image_size=256)
    backends: dict[str, dict[str, Any]] = {"onnxruntime": {"provider": "cuda"}}
    backends |= {one: {} for one in ("tensorrt", "tensorrt-rtx") if importable(one.replace("-", "_"))}
    names = []
    for backend, options in backends.items():
        if backend != "onnxruntime":
            options["resolutions"] = [f"{batch}x{size}x{size}" for size in sizes for batch in batches]
        try:
            engine = build_engine(
                bundle, backend=backend, precision="fp16", name=f"{backend}-fp16", check=False, **options
            )
            names.append(engine.name)
        except DitDeployError as error:
            print(f"{backend}: {error}", file=sys.stderr)
    source = open_checkpoint(checkpoint, arch=arch, image_size=256)
    return bundle.path, names, source.network()


def _matmul_tera(device: str, size: int) -> float:
    """Return TFLOP/s of a product of two square matrices, the median of several."""
    import time

    import torch

    dtype = torch.float16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - started) / 10)
    return 2 * size**3 / statistics.median(seconds[2:]) / 1e12


def _no_cuda(device: str) -> str:
    if device != "cuda":
        return ""
    if not importable("torch"):
        return "PyTorch is not installed"
    import torch

    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    return "" if torch.cuda.is_available() else "PyTorch finds none (`nvidia-smi` shows what the driver sees)"


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    first = text[0][:160] if text else ""
    return first if isinstance(error, DitDeployError) else f"{type(error).__name__}: {first}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status: 2 where there is no GPU, or bad input."""
    parser = argparse.ArgumentParser(prog="python -m dit_deploy.bench.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="256² only, batch 1 and 8, 10 steps, 3 rounds")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything that was measured to FILE, too")
    parser.add_argument("--arch", default="DiT-XL/2", help="which DiT (default: %(default)s)")
    parser.add_argument("--size", type=int, action="append", help="pixels on a side; may be repeated (256, 512)")
    parser.add_argument("--batch", type=int, action="append", help="pictures at once; may be repeated (1, 8, 32)")
    parser.add_argument("--steps", type=int, help="denoising steps (50)")
    parser.add_argument("--rounds", type=int, help="timed runs of each candidate (5)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--bundle", type=Path, help="a bundle whose engines are measured, too")
    parser.add_argument("--engine", action="append", default=[], help="an engine of the bundle; may be repeated")
    parser.add_argument("--build", action="store_true", help="export a bundle and build its engines first")
    parser.add_argument("--work", type=Path, help="an existing folder with room for graphs (the system's own)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    quick = given.quick
    modes = ("reduce-overhead",) if quick else ("reduce-overhead", "max-autotune")
    try:
        report = bench_gpu(
            device=given.device,
            arch=given.arch,
            sizes=given.size or ((256,) if quick else (256, 512)),
            batches=given.batch or ((1, 8) if quick else (1, 8, 32)),
            steps=given.steps or (10 if quick else 50),
            rounds=given.rounds or (3 if quick else 5),
            compile_modes=() if given.no_compile else modes,
            bundle=given.bundle,
            engines=given.engine,
            build=given.build,
            work_folder=given.work,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except DitDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.markdown())
    if given.json is not None:
        given.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
