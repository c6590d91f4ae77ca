"""Build time: from a PyTorch checkpoint to a bundle. May import torch, diffusers and onnx."""

from dit_deploy.exporters.export import export
from dit_deploy.exporters.sources import Source, open_source

__all__ = ["Source", "export", "open_source"]
