"""The components of a bundle, each checked and loaded when it is first used: from an engine, or as a plain graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from dit_deploy.bundle import Bundle, Component, Engine
from dit_deploy.bundle.solver import SOLVER, solver_component
from dit_deploy.runtimes import cpu_ops
from dit_deploy.runtimes.choose import choose_engine
from dit_deploy.runtimes.fit import this_machine
from dit_deploy.runtimes.integrity import check_component, check_engine, check_recorded
from dit_deploy.runtimes.runner import BindingPool, Runner

__all__ = ["Components", "choose_engine"]

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Components:
    """Bindings of a bundle's components by name. Several threads may ask at once: each is loaded once.

    Args:
        bundle: an opened bundle.
        threads: threads within an operator; ``None`` is one a core.
        runners: components to run instead of the bundle's own, by name; ``"solver"`` may be among them.
        engine: runs the components that it has; the others run as plain graphs, as all do without one.
    """

    def __init__(
        self, bundle: Bundle, threads: int | None, runners: Mapping[str, Runner], engine: Engine | None = None
    ) -> None:
        self._bundle = bundle
        self._threads = threads
        self._runners = dict(runners)
        self._engine = engine
        self._pools: dict[str, BindingPool] = {}
        self._locks = {name: threading.Lock() for name in bundle.manifest.components}
        self._solver_lock = threading.Lock()

    def __contains__(self, name: object) -> bool:
        return name in self._locks

    def pool(self, name: str) -> BindingPool:
        """Return the bindings of the component ``name``, which is loaded now where it was not used before.

        Raises:
            BundleError: the bundle has none of that name, or (``IntegrityError``) one of its files was altered.
            BackendError: the backend is not installed, or refuses the graph.
        """
        self._bundle.component(name)
        with self._locks[name]:
            if name not in self._pools:
                self._pools[name] = BindingPool(self._runners.get(name) or self._load(name))
            return self._pools[name]

    def release(self, name: str) -> None:
        """Forget what :meth:`pool` loaded for ``name``; its memory is free once no run uses it."""
        with self._locks[name]:
            self._pools.pop(name, None)

    def solver(self) -> BindingPool | None:
        """Return the bindings of the solver graph, or ``None`` where there is none: the plain graphs have none."""
        with self._solver_lock:
            if SOLVER not in self._pools:
                runner = self._runners.get(SOLVER) or self._load_solver()
                if runner is None:
                    return None
                self._pools[SOLVER] = BindingPool(runner)
            return self._pools[SOLVER]

    def _load(self, name: str) -> Runner:
        engine, component = self._engine, self._bundle.component(name)
        if engine is not None and name in engine.record.components:
            return self._load_from(engine, name, component)
        from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

        check_component(self._bundle, name)
        path = self._bundle.component_path(name)
        return OnnxRuntimeRunner(path, component, threads=self._threads, providers=_plain_providers(engine))

    def _load_solver(self) -> Runner | None:
        """Load the engine's solver graph, where the denoiser beside it is on a device: only there is it of use."""
        engine = self._engine
        if engine is None or SOLVER not in engine.record.components or engine.record.target.device == "cpu":
            return None
        return self._load_from(engine, SOLVER, solver_component(self._bundle.manifest), cuda_graphs=False)

    def _load_from(self, engine: Engine, name: str, component: Component, *, cuda_graphs: bool = True) -> Runner:
        check_engine(engine, name)
        built, path = engine.record.components[name], engine.file(name)
        if built.kind == "onnx":
            from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

            return OnnxRuntimeRunner(
                path,
                component,
                threads=self._threads,
                providers=_providers(engine),
                libraries=_libraries(engine),
                config=_config(engine),
                cuda_graphs=cuda_graphs,
            )
        from dit_deploy.runtimes.tensorrt import TensorRTRunner

        return TensorRTRunner(
            path,
            component,
            flavour="tensorrt" if engine.record.backend == "tensorrt" else "tensorrt-rtx",
            profiles=built.profiles,
            cache=self._bundle.cache_folder(),
            cuda_graphs=cuda_graphs,
            weights=_weights(engine, name),
        )


def _weights(engine: Engine, name: str) -> Path | None:
    """Return the graph that an engine without weights is filled from, its files checked; it lies beside the engine."""
    graph = f"{name}.onnx"
    if not engine.record.options.get("strip_weights") or graph not in engine.record.files:
        return None
    check_recorded(engine, [file for file in engine.record.files if file in (graph, f"{graph}.data")])
    return engine.recorded(graph)


def _providers(engine: Engine) -> tuple[str, ...]:
    """Return the providers of an engine of ONNX Runtime's: its own, and the CPU's for what that leaves."""
    return tuple(dict.fromkeys([engine.record.target.provider or _CPU, _CPU]))


def _libraries(engine: Engine) -> tuple[Path, ...]:
    """Return the libraries of operators that an engine needs; that they are here was part of choosing it."""
    library = cpu_ops.library_path() if engine.record.target.operators is not None else None
    return () if library is None else (library,)


def _config(engine: Engine) -> dict[str, str]:
    """Return ONNX Runtime's session configuration for an engine."""
    from dit_deploy.bench.machine import cpu  # the whole of bench needs the runtimes

    target = engine.record.target
    if engine.record.precision == "int8" and target.device == "cpu" and "VNNI" not in cpu()["features"]:
        # Sums of U8 × S8 products saturate on such CPUs: the slower kernels that do not. With VNNI they only cost time.
        return {"session.x64quantprecision": "1"}
    return {}


def _plain_providers(engine: Engine | None) -> tuple[str, ...]:
    """Return the providers of a plain graph: CUDA's beside an engine that runs on a GPU, where there is one."""
    if engine is not None and engine.record.target.device == "cuda" and _CUDA in this_machine().providers:
        return (_CUDA, _CPU)
    return (_CPU,)
