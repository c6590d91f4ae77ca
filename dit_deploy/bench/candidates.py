"""What is compared: a bundle's engines, and its source in PyTorch, eager and compiled, behind one pipeline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dit_deploy.bundle import Bundle
from dit_deploy.errors import BackendError, InputError
from dit_deploy.runtimes import Pipeline

__all__ = ["COMPILED", "EAGER", "engine_candidates", "torch_candidates"]

EAGER, COMPILED = "PyTorch eager", "torch.compile"

#: Components that are worth compiling: what a run spends its time in.
_COMPILED = ("denoiser", "denoiser_2", "vae_decoder")

#: A candidate is opened when it is called, so that one that fails can be left out.
Open = Callable[[], Pipeline]


def engine_candidates(bundle: Bundle, engines: Sequence[str], threads: int) -> dict[str, Open]:
    """Return engine's name → what opens a pipeline with it."""

    def opener(engine: str) -> Open:
        return lambda: Pipeline(bundle, engine, threads=threads)

    if len(set(engines)) != len(engines):
        raise InputError(f"engine: one came twice: {', '.join(engines)}")
    return {engine: opener(engine) for engine in engines}


def torch_candidates(
    bundle: Bundle,
    reference: str | Path,
    threads: int,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    vae: str | Path | None = None,
) -> dict[str, Open]:
    """Return ``"PyTorch eager"`` and ``"torch.compile"`` → what opens the same sampling loop around the source.

    The loop, the solver and the guidance are the bundle's pipeline's in every candidate, so that a difference is the
    networks' alone. Sets torch's number of threads for the whole process.
    """
    import torch

    from dit_deploy.runtimes.torch import TorchReference, TorchRunner

    torch.set_num_threads(threads)
    eager = TorchReference.open(reference, arch=arch, image_size=image_size, vae=vae)
    if eager.sha256 != bundle.manifest.source.sha256:
        raise InputError(
            f"reference: {reference} is not what this bundle was exported from ({bundle.manifest.source.name}): "
            "their weights have other hashes"
        )

    def pipeline(source: TorchReference) -> Pipeline:
        components = bundle.manifest.components
        runners = {name: TorchRunner(source, name, component) for name, component in components.items()}
        return Pipeline(bundle, "onnx", runners=runners)

    def compiled() -> Pipeline:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise BackendError(
                f"torch.compile needs a C++ compiler, and there is no {compiler}; install g++, or set CXX"
            )
        source = TorchReference(eager.source)
        for name in bundle.manifest.components:
            network = eager.network(name)
            source.networks[name] = _compile(network) if name in _COMPILED else network
        return pipeline(source)

    return {EAGER: lambda: pipeline(eager), COMPILED: compiled}


def _compile(module: Any) -> Any:
    """Compile for inference: weights are constants ("freezing") and sizes are fixed, torch's fastest form on a CPU."""
    import torch

    return torch.compile(module, dynamic=False, options={"freezing": True})
