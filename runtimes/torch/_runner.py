"""A component of the reference where a backend's would be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dit_deploy.bundle import Component, shape_of

if TYPE_CHECKING:
    from dit_deploy.runtimes.torch._reference import TorchReference

__all__ = ["TorchRunner"]


class TorchRunner:
    """A component of the reference behind the interface of :class:`~dit_deploy.runtimes.runner.Runner`.

    With it, ``Pipeline(bundle, runners={"denoiser": TorchRunner(...)})`` tells what the solver differs in from what
    the network does.
    """

    def __init__(self, reference: TorchReference, name: str, component: Component) -> None:
        self.reference, self.name, self.component = reference, name, component

    def bind(self, sizes: Mapping[str, int]) -> _TorchBinding:
        """Allocate buffers for ``sizes``."""
        return _TorchBinding(self, sizes)


class _TorchBinding:
    def __init__(self, runner: TorchRunner, sizes: Mapping[str, int]) -> None:
        self._runner = runner
        self.inputs = {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in runner.component.inputs}
        self.outputs = {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in runner.component.outputs}

    def run(self) -> None:
        outputs = self._runner.reference.run(self._runner.name, self.inputs)
        for name, array in self.outputs.items():
            np.copyto(array, outputs[name])
