"""The components of a bundle, each checked and loaded when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from dit_deploy.bundle import Bundle
from dit_deploy.bundle.solver import SOLVER
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.integrity import check_component
from dit_deploy.runtimes.runner import BindingPool, Runner

__all__ = ["Components", "choose_engine"]


class Components:
    """Bindings of a bundle's components by name. Several threads may ask at once: each is loaded once.

    Args:
        bundle: an opened bundle.
        threads: threads within an operator; ``None`` is one a core.
        runners: components to run instead of the bundle's own, by name; ``"solver"`` may be among them.
    """

    def __init__(self, bundle: Bundle, threads: int | None, runners: Mapping[str, Runner]) -> None:
        self._bundle = bundle
        self._threads = threads
        self._runners = dict(runners)
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

    def solver(self) -> BindingPool | None:
        """Return the bindings of the solver graph, or ``None`` where there is none: the plain graphs have none."""
        with self._solver_lock:
            if SOLVER not in self._pools and SOLVER in self._runners:
                self._pools[SOLVER] = BindingPool(self._runners[SOLVER])
            return self._pools.get(SOLVER)

    def _load(self, name: str) -> Runner:
        from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

        check_component(self._bundle, name)
        return OnnxRuntimeRunner(self._bundle.component_path(name), self._bundle.component(name), threads=self._threads)


def choose_engine(bundle: Bundle, engine: str) -> str:
    """Return the engine that ``engine`` means in this bundle: for now the plain graphs are the only one there is."""
    if engine in ("auto", "onnx"):
        return "onnx"
    if engine in bundle.engine_names():
        raise InputError(
            f'engine: {engine!r} is in this bundle, but this version runs the plain graphs only; use engine="onnx"'
        )
    raise InputError(f"engine: {shown(engine)} came; this bundle has onnx, the plain graphs")
