"""ONNX → engine: one module per backend."""
