"""ONNX → ONNX, one concern a file."""
