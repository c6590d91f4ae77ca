"""Build time: from a PyTorch checkpoint to a bundle. May import torch, diffusers and onnx."""

from typing import Any

__all__ = ["Graph", "Source", "export", "open_source"]

try:
    from dit_deploy.exporters.export import export
    from dit_deploy.exporters.sources import Graph, Source, open_source
except ModuleNotFoundError as error:
    if (error.name or "").startswith("dit_deploy"):
        raise
    # Modules of this package that do not need what is missing are of use even so, to the benchmark on a GPU for one.
    _missing = error

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise _missing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
