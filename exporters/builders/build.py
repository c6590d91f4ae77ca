"""Build an engine of a bundle: write its graphs, hold them against the plain ones, make artefacts, put them in place.

The order is chosen so that what is cheap fails first: arguments, then graphs and their pictures, and only then a
backend's build, which may take minutes. A killed build leaves nothing that loads.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dit_deploy.bundle import Bundle, Component, Engine, EngineWriter, engine_lock
from dit_deploy.bundle.engine import EngineComponent, engine_key, explain_key, graph_digest
from dit_deploy.bundle.solver import SOLVER, solver_component
from dit_deploy.errors import BundleError, Cancelled
from dit_deploy.exporters.builders import tensorrt
from dit_deploy.exporters.builders.ep_context import write_ep_context
from dit_deploy.exporters.builders.plan import Plan
from dit_deploy.exporters.builders.planning import make_plan
from dit_deploy.exporters.builders.quality import Settled, settle
from dit_deploy.exporters.builders.recipe import Lowered
from dit_deploy.exporters.solver_graph import write_solver
from dit_deploy.runtimes import cpu_ops
from dit_deploy.runtimes.fit import this_machine

__all__ = ["build_engine", "explain_engine"]

#: Called with what is being done, how far, and of how much.
Progress = Callable[[str, int, int], None]


def build_engine(
    bundle: Bundle,
    *,
    force: bool = False,
    check: bool = True,
    threads: int | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    **options: Any,
) -> Engine:
    """Return the engine that ``options`` describe: the one in the bundle where its key says it is that, else a new one.

    The engine's key covers graphs, weights, precision, sizes, backend, its version and the target, so an engine is
    never stale, and never built twice. A second build of a name waits for the first.

    Args:
        force: build even where the engine is there.
        check: draw with the engine's graphs, on this machine's CPU, and hold the pictures against the plain graphs';
            an engine that fails is built and says so, and ``engine="auto"`` passes it by.
        threads: threads within an operator while graphs run here; ``None`` is one a core.
        progress: called with what is being done, how far, and of how much.
        stop: asked now and then; the build ends where it is true.
        options: arguments of :func:`~dit_deploy.exporters.builders.planning.make_plan`: ``backend``, ``precision``, ….

    Raises:
        InputError: an option is out of range, or two do not go together.
        BackendError: the backend is missing, or refuses a graph: the message names the node, and what to try.
        BundleError: the bundle's folder cannot be written, or a file of it was altered.
        Cancelled: ``stop`` said so.
    """
    tell = progress or (lambda _text, _done, _total: None)
    plan = make_plan(bundle, **options)
    if plan.target.operators is not None:
        tell("compiling the fused INT8 operators for this CPU", 0, 1)
        cpu_ops.build()
        this_machine.cache_clear()
    with engine_lock(bundle, plan.name, lambda line: tell(line, 0, 1)):
        found = None if force else _existing(bundle, plan.name)
        if found is not None and found.record.key == engine_key(plan.key_parts):
            tell(f"{plan.name} is there already, and the same", 1, 1)
            return found
        return _build(bundle, plan, check, threads, tell, stop or (lambda: False))


def explain_engine(bundle: Bundle, **options: Any) -> list[str]:
    """Return one line for each part of the key that :func:`build_engine` would change; empty where it builds nothing.

    Raises:
        InputError, BackendError: as :func:`build_engine`.
    """
    plan = make_plan(bundle, **options)
    found = _existing(bundle, plan.name)
    return explain_key(None if found is None else found.record.key_parts, plan.key_parts)


def _existing(bundle: Bundle, name: str) -> Engine | None:
    """Return the engine of that name; ``None`` where there is none, or none that opens: it is built again then."""
    try:
        return bundle.engine(name)
    except BundleError:
        return None


def _build(
    bundle: Bundle,
    plan: Plan,
    check: bool,
    threads: int | None,
    tell: Progress,
    stop: Callable[[], bool],
) -> Engine:
    started = time.perf_counter()

    def watched(text: str, done: int, total: int) -> None:
        if stop():
            raise Cancelled("the build was stopped; nothing was written")
        tell(text, done, total)

    with EngineWriter(bundle, plan.name, expected_size=_expected_size(bundle, plan)) as writer:
        work = writer.folder / "work"
        settled = settle(bundle, plan, work, check=check, threads=threads, progress=watched)
        components = {}
        for name, lowered in settled.lowered.items():
            watched(f"building {name}", 0, 1)
            components[name] = _artefact(bundle, plan, name, lowered, settled, writer, watched, stop)
        if plan.target.device == "cuda" and "denoiser" in components:
            components[SOLVER] = _solver(bundle, plan, work, writer, stop)
        shutil.rmtree(work)
        return writer.finish(
            backend=plan.backend,
            backend_version=plan.version,
            precision=plan.precision,
            target=plan.target,
            components=components,
            key_parts=plan.key_parts,
            seconds=round(time.perf_counter() - started, 3),
            options={
                "recipes": {name: recipe.decisive() for name, recipe in plan.recipes.items()},
                "calibration": settled.calibrations,
                "sensitivity": settled.sensitivity,
                **plan.tensorrt.decisive(),
            },
            parity=settled.parity,
        )


def _artefact(
    bundle: Bundle,
    plan: Plan,
    name: str,
    lowered: Lowered,
    settled: Settled,
    writer: EngineWriter,
    tell: Progress,
    stop: Callable[[], bool],
) -> EngineComponent:
    """Make one component's artefact of its graph, and return its record."""
    started = time.perf_counter()
    digest = graph_digest(bundle.manifest, name)
    if plan.flavour is None:
        target = writer.file(f"{name}.onnx")
        _move_graph(lowered.path, target)
        path = target.name
    else:
        recipe = plan.recipes[name]
        path = _tensorrt(
            plan, name, lowered.path, bundle.component(name), writer, tell, stop, recipe.precision, lowered
        )
    seconds = settled.seconds[name] + time.perf_counter() - started
    return EngineComponent(
        path=path,
        kind="onnx" if path.endswith(".onnx") else "tensorrt",
        graph=digest,
        profiles=plan.profiles.get(name, ()),
        kept=lowered.kept,
        seconds=round(seconds, 3),
    )


def _move_graph(source: Path, target: Path) -> None:
    """Move an ONNX file with the data file beside it; a graph with small weights only has none."""
    for suffix in ("", ".data"):
        part = source.with_name(source.name + suffix)
        if part.exists():
            shutil.move(part, target.with_name(target.name + suffix))


def _tensorrt(
    plan: Plan,
    name: str,
    graph: Path,
    component: Component,
    writer: EngineWriter,
    tell: Progress,
    stop: Callable[[], bool],
    precision: Any,
    lowered: Lowered | None = None,
) -> str:
    """Build a TensorRT engine of one graph; return the file that a runner opens."""
    assert plan.flavour is not None
    engine = writer.file(f"{name}.engine")
    only_rtx = plan.target.compute_capabilities if plan.flavour == "tensorrt-rtx" else ()
    report = tensorrt.build(
        graph,
        engine,
        flavour=plan.flavour,
        component=component,
        profiles=plan.profiles[name],
        precision=precision,
        kept=tuple(lowered.kept) if lowered is not None else (),
        # a head that no kernel is fused for, as some text encoders have it, is no reason to have no engine
        attention="auto" if precision != "fp32" else "decomposed",
        compute_capabilities=only_rtx,
        progress=lambda phase, done, total: tell(f"building {name}: {phase}", done, total),
        stop=stop,
        **vars(plan.tensorrt),
    )
    for note in report.warnings:
        if note.startswith("attention is decomposed"):
            tell(f"{name}: {note}", 1, 1)
    if plan.backend != "onnxruntime":
        if plan.tensorrt.strip_weights:
            _move_graph(graph, engine.with_suffix(".onnx"))  # what the runner fills the engine from
        return engine.name
    model = writer.file(f"{name}.onnx")
    write_ep_context(
        model,
        component,
        engine.name,
        flavour=plan.flavour,
        version=plan.version,
        compute_capabilities=plan.target.compute_capabilities,
    )
    return model.name


def _solver(bundle: Bundle, plan: Plan, work: Path, writer: EngineWriter, stop: Callable[[], bool]) -> EngineComponent:
    """Make the solver graph's artefact: the sampler's update, to be run where the denoiser's tensors are."""
    started = time.perf_counter()
    component = solver_component(bundle.manifest)
    if plan.flavour is None:
        path = write_solver(bundle.manifest, writer.file("solver.onnx")).name
    else:
        graph = write_solver(bundle.manifest, work / "solver.onnx")
        path = _tensorrt(plan, SOLVER, graph, component, writer, lambda *_: None, stop, "fp32")
    return EngineComponent(
        path=path,
        kind="onnx" if path.endswith(".onnx") else "tensorrt",
        graph=graph_digest(bundle.manifest, SOLVER),
        profiles=plan.profiles.get(SOLVER, ()),
        seconds=round(time.perf_counter() - started, 3),
    )


def _expected_size(bundle: Bundle, plan: Plan) -> int:
    """Return about how many bytes a build takes at once: the lowered graphs, and artefacts beside them."""
    folders = tuple(f"{bundle.component(name).path.rpartition('/')[0]}/" for name in plan.recipes)
    size = sum(record.size for path, record in bundle.manifest.files.items() if path.startswith(folders))
    return size if plan.flavour is None else size * 3 // 2
