"""The NVIDIA GPUs that this process may use, asked of the driver itself; no package is needed for it."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["gpu_compute_capabilities"]

#: ``CUdevice_attribute`` of cuda.h
_MAJOR, _MINOR = 75, 76
_NO_DEVICE = 100


@cache
def gpu_compute_capabilities() -> tuple[tuple[str, ...], str]:
    """Return each GPU's compute capability, such as ``8.9``, in CUDA's order; and why there are none.

    Unlike nvidia-smi, the driver's library heeds ``CUDA_VISIBLE_DEVICES``, and so do the backends.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return (), "no NVIDIA driver is installed"
    status = driver.cuInit(0)
    count = ctypes.c_int(0)
    if status == 0:
        status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status not in (0, _NO_DEVICE):
        return (), f"the NVIDIA driver does not start: CUDA error {status}"
    found = []
    for index in range(count.value):
        device, major, minor = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0)
        if (
            driver.cuDeviceGet(ctypes.byref(device), index)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        ):
            return (), f"the NVIDIA driver does not tell about GPU {index}"
        found.append(f"{major.value}.{minor.value}")
    return tuple(found), "" if found else "the NVIDIA driver finds no GPU"
