"""Trace a graph once in a session: of networks that are equal, the file of the first is copied.

Families share parts, and a family's pipelines most of them; a trace takes seconds of CPU time. Each copy is proved at
three sizes against the network it stands for, like a traced file, so that a copy of another network's fails the export.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dit_deploy.bundle import Component
from dit_deploy.exporters.tracing import Feeds

__all__ = ["traced_once"]


@contextmanager
def traced_once(kept: Path) -> Iterator[None]:
    """Let exports meanwhile copy traced files from ``kept``, and leave theirs there; several processes may at once."""
    module: Any = importlib.import_module("dit_deploy.exporters.export")
    trace = module.trace

    def trace_or_copy(network: nn.Module, component: Component, folder: Path, feeds: Feeds | None = None) -> None:
        known, target = kept / _digest(network, component), (folder / component.path).parent
        if known.is_dir():
            shutil.copytree(known, target)
            return
        trace(network, component, folder, feeds)
        partial = kept / f"{known.name}.{os.getpid()}"
        shutil.copytree(target, partial)
        try:
            partial.rename(known)
        except OSError:  # another process was first
            shutil.rmtree(partial)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "trace", trace_or_copy)
        yield


def _digest(network: nn.Module, component: Component) -> str:
    settings = {name: value for name, value in vars(network).items() if isinstance(value, (int, float, str, tuple))}
    digest = hashlib.sha256(f"{component.model_dump_json()} {network} {settings}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
