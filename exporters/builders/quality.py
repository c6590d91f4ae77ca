"""Write an engine's graphs, draw with them here, and keep layers wider until the pictures are near enough.

What is compared is what the engine computes, run by ONNX Runtime on this machine's CPU: for an INT8 or FP16 engine of
another machine, the same graph with the same types, each operator rounded as the graph says.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from dit_deploy.bundle import Bundle
from dit_deploy.exporters.builders.plan import Plan
from dit_deploy.exporters.builders.recipe import Lowered, Recipe, lower
from dit_deploy.exporters.calibration import Calibration, calibrate
from dit_deploy.exporters.calibration.sensitivity import Group, choose_kept, sensitivity
from dit_deploy.exporters.passes.emulate import emulate_half
from dit_deploy.exporters.passes.fp8 import FP8
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.int8 import INT8
from dit_deploy.exporters.passes.smoothing import smooth
from dit_deploy.parity.amplification import Amplification
from dit_deploy.parity.engine import EngineParity, compare_with_plain, is_large, plain_pictures
from dit_deploy.runtimes import Runner, cpu_ops
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

__all__ = ["Settled", "runners_here", "settle"]

Progress = Callable[[str, int, int], None]

#: Evaluations of the denoiser, or a few more, that tell layers apart: from the first step to the last.
_EVALUATIONS = 4


@dataclass
class Settled:
    """The graphs of an engine, and how good they are.

    Attributes:
        lowered: component → its graph, in the work folder.
        seconds: component → how long writing it took.
        calibrations: component → digest of the calibration that its graph was made with.
        parity: figures as ``engine.json`` keeps them; ``None`` where nothing was drawn.
        sensitivity: what each layer costs, most first, where that was measured: ``[layer, relative error]``.
    """

    lowered: dict[str, Lowered] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    calibrations: dict[str, str] = field(default_factory=dict)
    parity: dict[str, Any] | None = None
    sensitivity: list[list[Any]] | None = None


def settle(bundle: Bundle, plan: Plan, work: Path, *, check: bool, threads: int | None, progress: Progress) -> Settled:
    """Write the graphs of ``plan`` into the new folder ``work``, and measure them where ``check`` says so.

    Where pictures miss the plan's limit, it is measured whether the bundle's own sampling lets any engine reach it; if
    not, the error of the components decides. Where the engine fails, and the plan allows it, the most sensitive layers
    of a quantised one are kept in higher precision, as few as pass.

    Raises:
        InputError, ExportError: see :func:`~dit_deploy.exporters.builders.recipe.lower`.
        BundleError, BackendError: the calibration failed.
    """
    settled, calibrations = _lowered(bundle, plan, work, threads, progress)
    if not check:
        return settled
    plain = plain_pictures(bundle, threads=threads, progress=progress)
    amplification = None
    if plan.allowed is not None:
        amplification = Amplification(bundle, plain, plan.precision, plan.allowed, threads=threads, progress=progress)

    def measure(kept: Mapping[str, Collection[str]]) -> EngineParity:
        runners = _runners(bundle, plan, settled, calibrations, kept, work, threads)
        found = compare_with_plain(
            bundle,
            plain,
            plan.precision,
            runners=runners,
            ran="the engine's graphs on the CPU, rounded as they say",
            limit=-math.inf if plan.limit is None else plan.limit,
            threads=threads,
            progress=progress,
        )
        return found if amplification is None else amplification.weigh(found, runners)

    kept: dict[str, tuple[str, ...]] = {}
    parity = measure(kept)
    for name, recipe in plan.recipes.items():  # where there are two denoisers, the first first
        if recipe.quantized and not parity.passed and plan.adjust and plan.limit is not None:
            adjusting = _Adjusting(bundle, plan, name, work, calibrations[name], threads, progress)
            parity = adjusting.settle(settled, kept, measure, parity)
    settled.parity = parity.to_dict()
    return settled


@contextmanager
def runners_here(
    bundle: Bundle, plan: Plan, *, threads: int | None = None, progress: Progress | None = None
) -> Iterator[dict[str, Runner]]:
    """Give what ``plan``'s engine would compute, for this machine's CPU: component → its graph, rounded as it says.

    For figures of an engine that does not run here. No layer is kept wider than the plan itself says.

    Raises:
        InputError, ExportError, BundleError, BackendError: see :func:`settle`.
    """
    with tempfile.TemporaryDirectory(prefix="dit-deploy-engine-") as name:
        work = Path(name) / "graphs"
        settled, calibrations = _lowered(bundle, plan, work, threads, progress or (lambda what, done, total: None))
        yield _runners(bundle, plan, settled, calibrations, {}, work, threads)


def _lowered(
    bundle: Bundle, plan: Plan, work: Path, threads: int | None, progress: Progress
) -> tuple[Settled, dict[str, Calibration]]:
    """Write the graphs of ``plan`` into the new folder ``work``; return what was written, and calibrations by name."""
    work.mkdir()
    settled = Settled()
    calibrations: dict[str, Calibration] = {}
    for name, recipe in plan.recipes.items():
        if recipe.calibrated:
            calibrations[name] = calibrate(
                bundle,
                component=name,
                smoothing=recipe.smoothing if recipe.quantized else None,
                threads=threads,
                progress=progress,
                **vars(plan.calibration),
            )
            settled.calibrations[name] = calibrations[name].digest
        started = time.perf_counter()
        progress(f"writing the graph of {name}", 0, 1)
        settled.lowered[name] = lower(
            bundle.component_path(name), work / f"{name}.onnx", recipe, calibrations.get(name)
        )
        settled.seconds[name] = time.perf_counter() - started
    return settled, calibrations


def _runners(
    bundle: Bundle,
    plan: Plan,
    settled: Settled,
    calibrations: Mapping[str, Calibration],
    kept: Mapping[str, Collection[str]],
    work: Path,
    threads: int | None,
) -> dict[str, Runner]:
    """Return runners of the engine's graphs for this CPU, with the layers ``kept`` wider."""
    runners: dict[str, Runner] = {}
    for name, recipe in plan.recipes.items():
        path = settled.lowered[name].path
        if kept.get(name) or _for_this_cpu(recipe) != recipe:
            path = _check_graph(bundle, name, recipe, calibrations.get(name), kept.get(name, ()), work)
        if recipe.compute != "fp32":
            path = _rounded(path, recipe.compute, work)
        library = cpu_ops.library_path() if recipe.integer == "fused" else None
        libraries = () if library is None else (library,)
        runners[name] = OnnxRuntimeRunner(path, bundle.component(name), threads=threads, libraries=libraries)
    return runners


def _check_graph(
    bundle: Bundle, name: str, recipe: Recipe, calibration: Calibration | None, kept: Collection[str], work: Path
) -> Path:
    """Write the graph that is drawn with where it is not the engine's own, and return its path."""
    path = work / "check" / f"{name}.onnx"
    lower(bundle.component_path(name), path, _for_this_cpu(recipe), calibration, kept)
    return path


def _rounded(path: Path, compute: str, work: Path) -> Path:
    """Write a half-precision graph so that ONNX Runtime rounds on a CPU where the graph says so; return its path."""
    model = load_graph(path)
    emulate_half(model, ir.DataType.FLOAT16 if compute == "fp16" else ir.DataType.BFLOAT16)
    target = work / "rounded" / path.stem / "model.onnx"
    shutil.rmtree(target.parent, ignore_errors=True)
    save_graph(model, target)
    return target


def _for_this_cpu(recipe: Recipe) -> Recipe:
    """Return the recipe whose graph can be rounded value by value: without an operator that only runs in half."""
    if recipe.compute != "fp32" and recipe.attention == "microsoft":
        return replace(recipe, attention="onnx")
    return recipe


@dataclass(frozen=True)
class _Adjusting:
    """Keeps the most sensitive layers of one denoiser wider."""

    bundle: Bundle
    plan: Plan
    name: str
    work: Path
    calibration: Calibration
    threads: int | None
    progress: Progress

    def settle(
        self,
        settled: Settled,
        kept: dict[str, tuple[str, ...]],
        measure: Callable[[Mapping[str, Collection[str]]], EngineParity],
        parity: EngineParity,
    ) -> EngineParity:
        """Keep as few layers as the limit needs, beside those that others keep; return the figures then."""
        recipe = self.plan.recipes[self.name]
        table = self._sensitivity()
        settled.sensitivity = [*(settled.sensitivity or []), *([group.name, group.error] for group in table)]
        measured: dict[tuple[str, ...], EngineParity] = {(): parity}

        def quality(layers: tuple[str, ...]) -> float:
            if layers not in measured:
                measured[layers] = measure({**kept, self.name: layers})
            return measured[layers].margin

        chosen = choose_kept(table, quality, 0.0)
        self.progress(f"keeping {len(chosen.layers)} layers of the {self.name} wider", 0, 1)
        source, target = self.bundle.component_path(self.name), settled.lowered[self.name].path
        settled.lowered[self.name] = lower(source, target, recipe, self.calibration, chosen.layers)
        kept[self.name] = chosen.layers
        return measured[chosen.layers]

    def _sensitivity(self) -> tuple[Group, ...]:
        """Return what each layer, or each block of a large model, costs; worst first."""
        recipe, path = self.plan.recipes[self.name], self.bundle.component_path(self.name)
        if recipe.smoothing is not None:
            model = load_graph(path)
            assert self.calibration.unsmoothed is not None
            smooth(model, self.calibration.unsmoothed.channel_maxima(), recipe.smoothing)
            path = self.work / "smoothed" / f"{self.name}.onnx"
            save_graph(model, path)
        feeds = self.calibration.feeds()
        every = max(1, len(feeds) // _EVALUATIONS)
        levels: Literal["int8", "fp8"] = "int8" if recipe.precision == "int8" else "fp8"
        found = sensitivity(
            path,
            self.calibration.scales(recipe.method, levels, recipe.percentile),
            feeds[::every],
            grid=INT8 if levels == "int8" else FP8,
            kept=recipe.keep,
            by="block" if is_large(self.bundle) else "layer",
            threads=self.threads,
            progress=lambda done, total: self.progress("measuring what each layer costs", done, total),
        )
        shutil.rmtree(self.work / "smoothed", ignore_errors=True)
        return found.table
