"""GPUs that engines are built for, by compute capability."""

from __future__ import annotations

__all__ = ["TENSORRT_RTX_TARGETS"]

#: Compute capabilities that TensorRT-RTX builds for, where the library cannot be asked. H100 and H200 (9.0) want
#: full TensorRT.
TENSORRT_RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
