"""ONNX → engine: one module per backend, and :func:`build_engine` over them."""

from dit_deploy.exporters.builders.build import build_engine, explain_engine
from dit_deploy.exporters.builders.plan import CalibrationOptions, TensorRTOptions

__all__ = ["CalibrationOptions", "TensorRTOptions", "build_engine", "explain_engine"]
