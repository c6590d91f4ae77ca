"""``dit-deploy build-engine``: from a bundle to an engine inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dit_deploy.cli._console import step_lines
from dit_deploy.cli._options import BundleFolder, Threads
from dit_deploy.errors import InputError

__all__ = ["build_engine"]


def _option(metavar: str, help_: str, default: str | None = None, *names: str, **more: Any) -> Any:
    shown: str | bool = True if default is None else default
    return typer.Option(*names, metavar=metavar, help=help_, show_default=shown, **more)


def build_engine(
    bundle: BundleFolder,
    backend: Annotated[str, _option("onnxruntime|tensorrt|tensorrt-rtx", "What runs the engine.")] = "onnxruntime",
    precision: Annotated[str, _option("fp32|fp16|bf16|int8|fp8", "What the linear layers compute in.")] = "fp32",
    name: Annotated[str | None, _option("NAME", "The engine's name.", "BACKEND-PRECISION")] = None,
    component: Annotated[
        list[str] | None, _option("NAME", "Build this component; again for more. The rest runs as plain graphs.", "all")
    ] = None,
    provider: Annotated[
        str | None,
        _option(
            "cpu|cuda|tensorrt|tensorrt-rtx", "ONNX Runtime's provider.", "cpu for fp32 and int8, cuda for the others"
        ),
    ] = None,
    minimum: Annotated[
        str | None,
        _option(
            "BxHxW", "Smallest size: pictures and pixels; BxFxHxW, a video's.", "the training size, 1 picture", "--min"
        ),
    ] = None,
    optimum: Annotated[str | None, _option("BxHxW", "Size it is fastest at.", "the training size", "--opt")] = None,
    maximum: Annotated[str | None, _option("BxHxW", "Largest size.", "the training size, 4 pictures", "--max")] = None,
    resolution: Annotated[
        list[str] | None,
        _option(
            "HxW",
            "Instead: a profile for each, the hot one first; BxFxHxW with frames; --min and --max hold the rest.",
            "none",
        ),
    ] = None,
    sm: Annotated[
        list[str] | None,
        _option("X.Y", "Compute capability to build for, with tensorrt-rtx; again for more.", "8.0 8.6 8.9 12.0"),
    ] = None,
    compute: Annotated[
        str | None, _option("fp32|fp16|bf16", "For int8 and fp8: what the rest computes in.", "fp16, on a CPU fp32")
    ] = None,
    keep: Annotated[
        list[str] | None,
        _option("PATTERN", "Layer that is not quantised, as 'blocks.0.*'; again for more.", "none"),
    ] = None,
    island: Annotated[
        list[str] | None, _option("PATTERN", "Node or module that stays in FP32; again for more.", "found by rule")
    ] = None,
    attention: Annotated[
        str, _option("auto|onnx|microsoft|decomposed", "Form of attention; auto is what the backend runs fused.")
    ] = "auto",
    kernels: Annotated[
        str,
        _option(
            "auto|onnxruntime|fused", "INT8 on a CPU: ONNX Runtime's operators, or this package's (needs g++ there)."
        ),
    ] = "auto",
    smoothing: Annotated[
        float, _option("A", "SmoothQuant's α of int8 and fp8, 0 … 1; a negative number turns it off.")
    ] = 0.5,
    method: Annotated[str, _option("max|percentile|mse", "How scales follow from what calibration saw.")] = "mse",
    percentile: Annotated[float, _option("P", "Of the method percentile.")] = 99.99,
    samples: Annotated[int | None, _option("N", "Pictures drawn to calibrate.", "16, fewer of a large model")] = None,
    evaluations: Annotated[
        int | None, _option("N", "Steps of the schedule that calibration looks at.", "16, or all where there are fewer")
    ] = None,
    seed: Annotated[int, _option("N", "Of the calibration's first picture.")] = 0,
    prompt: Annotated[
        list[str] | None, _option("TEXT", "Prompt to calibrate with; again for more.", "16 of many kinds")
    ] = None,
    limit: Annotated[
        float | None,
        _option("DB", "Least PSNR against the plain graphs; int8 keeps layers wider for it.", "the precision's"),
    ] = None,
    no_adjust: Annotated[bool, typer.Option("--no-adjust", help="Keep no layers wider for the limit.")] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Draw nothing to compare.")] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="TensorRT: leave the weights out; refitted where it is loaded.")
    ] = False,
    refittable: Annotated[bool, typer.Option("--refittable", help="TensorRT: weights can be replaced.")] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="TensorRT: later versions load it, too.")
    ] = False,
    workspace: Annotated[
        int | None, _option("MIB", "TensorRT: GPU memory that a layer may use while it runs.", "the library's", min=1)
    ] = None,
    optimization_level: Annotated[
        int | None, _option("0-5", "TensorRT: how long it searches for fast kernels.", "the library's")
    ] = None,
    timing_cache: Annotated[
        Path | None, _option("FILE", "TensorRT: file that makes later builds faster.", "none")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Build nothing; say which parts of the engine's key would change.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even where the same engine is there.")] = False,
    threads: Threads = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No lines about progress.")] = False,
) -> None:
    """Build an engine, or find that the bundle has it.

    The engine lands in BUNDLE/engines/NAME. Its pictures are compared with the plain graphs' on this machine's CPU.

    Needs the extras: pip install 'dit-deploy[cpu,export]', and [tensorrt-rtx] or [tensorrt] for those backends.
    """
    from dit_deploy.bundle import Bundle
    from dit_deploy.exporters.builders import CalibrationOptions, TensorRTOptions, explain_engine
    from dit_deploy.exporters.builders import build_engine as build

    if limit is not None and no_check:
        raise InputError("--limit came with --no-check; leave one out")
    options: dict[str, Any] = {
        "backend": backend,
        "precision": precision,
        "name": name,
        "components": component or None,
        "provider": provider,
        "minimum": minimum,
        "optimum": optimum,
        "maximum": maximum,
        "resolutions": tuple(resolution or ()),
        "compute_capabilities": tuple(sm or ()),
        "compute": compute,
        "keep": tuple(keep or ()),
        "islands": tuple(island or ()),
        "attention": attention,
        "kernels": kernels,
        "smoothing": None if smoothing < 0 else smoothing,
        "method": method,
        "percentile": percentile,
        "calibration": CalibrationOptions(
            samples=samples, evaluations=evaluations, seed=seed, prompts=tuple(prompt) if prompt else None
        ),
        "limit": "default" if limit is None else limit,
        "adjust": not no_adjust,
        "tensorrt_options": TensorRTOptions(
            strip_weights=strip_weights,
            refittable=refittable,
            version_compatible=version_compatible,
            workspace_bytes=None if workspace is None else workspace << 20,
            timing_cache=timing_cache,
            optimization_level=optimization_level,
        ),
    }
    opened = Bundle.open(bundle)
    if explain:
        lines = explain_engine(opened, **options)
        for line in lines or ["nothing would change: the engine is there already"]:
            typer.echo(line)
        return
    with step_lines(quiet) as progress:
        engine = build(opened, force=force, check=not no_check, threads=threads, progress=progress, **options)
    _print(engine)


def _print(engine: Any) -> None:
    from dit_deploy.bundle.solver import SOLVER

    record = engine.record
    size = sum(file.size for file in record.files.values())
    built = ", ".join(name for name in record.components if name != SOLVER)
    typer.echo(f"{engine.path}: {record.precision} {built}, {size / 1e6:.1f} MB, built in {record.seconds:.1f} s")
    wider = [
        name
        for part in record.components
        if part.startswith("denoiser")
        for name, why in record.components[part].kept.items()
        if not why.startswith("FP32")
    ]
    if wider:
        typer.echo(f"kept wider: {', '.join(wider)}")
    if record.parity is None:
        typer.echo("its pictures were not compared")
    else:
        typer.echo(_verdict(record.parity))


def _verdict(parity: dict[str, Any]) -> str:
    """Return the recorded figures as a line."""
    if "failure" in parity:
        return f"parity FAILED: {parity['failure']}"
    figure = "no difference" if parity["psnr"] is None else f"{parity['psnr']:.1f} dB"
    state = "parity" if parity["passed"] else "parity FAILED:"
    limit = "no limit was set" if parity["limit"] is None else f"the limit is {parity['limit']:g} dB"
    line = f"{state} {figure} against the plain graphs ({parity['ran']}); {limit}"
    if isinstance(parity.get("amplified"), float):
        own, allowed = parity["amplified"], parity["allowed"]
        line += f"; the plain graphs' own have {own:.1f} dB when predictions are off by {allowed:g}"
    if isinstance(parity.get("components"), float):
        line += f"; its components are off by {parity['components']:.2g}"
    return line
