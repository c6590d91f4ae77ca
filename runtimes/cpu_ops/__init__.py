"""Fused INT8 operators for ONNX Runtime on a CPU: a small C++ library, built on the machine that runs it."""

from dit_deploy.runtimes.cpu_ops.library import DOMAIN, build, cannot_build, library_path, why_not

__all__ = ["DOMAIN", "build", "cannot_build", "library_path", "why_not"]
