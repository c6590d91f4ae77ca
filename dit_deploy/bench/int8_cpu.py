"""INT8 on this CPU beside FP32, PyTorch and OpenVINO, in one run: ``python -m dit_deploy.bench.int8_cpu``.

A random model of a published size is exported, engines are built, and OpenVINO is given the same INT8 graph in the
explicit form that every backend reads. Calibration is short: random weights make no pictures, and speed does not
depend on scales.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dit_deploy.bench.machine import usable_cores
from dit_deploy.bench.openvino import OpenVinoRunner
from dit_deploy.bench.random_checkpoint import write_random_autoencoder, write_random_checkpoint
from dit_deploy.bench.run import bench
from dit_deploy.bundle import Bundle
from dit_deploy.cli._console import print_results, show_lines
from dit_deploy.exporters import export
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.builders.recipe import Recipe, lower
from dit_deploy.exporters.calibration import calibrate
from dit_deploy.runtimes import Pipeline

__all__ = ["ENGINES", "SHORT", "main", "openvino_candidates"]

#: Engines that take part, the plain graphs beside: name → how they are built.
ENGINES: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "int8": {"precision": "int8"},  # the fused operators where this machine can have them
    "int8-onnxruntime": {"precision": "int8", "kernels": "onnxruntime"},
}
#: A calibration of seconds, not minutes.
SHORT = CalibrationOptions(samples=4, evaluations=2, steps=2)


def openvino_candidates(bundle: Bundle, folder: Path, threads: int) -> dict[str, Callable[[], Pipeline]]:
    """Return OpenVINO's rows: the bundle's INT8 graph, with the rest in FP32 and in what OpenVINO takes by itself."""
    explicit = Recipe("int8", "fp32")
    path = lower(
        bundle.component_path("denoiser"), folder / "explicit.onnx", explicit, calibrate(bundle, **vars(SHORT))
    ).path

    def opener(precision: str | None) -> Callable[[], Pipeline]:
        def call() -> Pipeline:
            runner = OpenVinoRunner(path, bundle.component("denoiser"), threads=threads, precision=precision)
            return Pipeline(bundle, "onnx", threads=threads, runners={"denoiser": runner})

        return call

    return {"OpenVINO INT8, rest FP32": opener("f32"), "OpenVINO INT8, its default": opener(None)}


def main() -> None:
    """Make, build, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="DiT-B/2", help="(%(default)s)")
    parser.add_argument("--image-size", type=int, default=256, help="pixels (%(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a whole run (%(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(every usable core)")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    args = parser.parse_args()

    say = show_lines()
    with tempfile.TemporaryDirectory(prefix="dit-deploy-bench-") as around:
        folder = Path(around)
        checkpoint = write_random_checkpoint(folder, args.arch, args.image_size)
        write_random_autoencoder(folder / "vae")
        bundle = export(checkpoint, folder / "bundle", progress=say)
        names = []
        for name, options in ENGINES.items():
            say(f"building {name}")
            built = build_engine(bundle, name=name, check=False, calibration=SHORT, threads=args.threads, **options)
            names.append(built.name)
        report = bench(
            bundle,
            engines=["onnx", *names],
            reference=None if args.no_torch else checkpoint,
            others=openvino_candidates(bundle, folder, args.threads),
            steps=args.steps,
            repeats=args.repeats,
            threads=args.threads,
            progress=say,
        )
        print_results(report.table())
    sys.exit(0)


if __name__ == "__main__":
    main()
