"""Devices by name, with the peaks that their makers state: dense, without sparsity."""

from __future__ import annotations

from dataclasses import dataclass, field

from dit_deploy.errors import InputError

__all__ = ["DEVICES", "Device", "device_of"]


@dataclass(frozen=True)
class Device:
    """What bounds a run from below.

    Attributes:
        name: as people call it.
        tera: 10¹² operations (a multiplication and an addition are two) a second, by precision.
        memory: bytes.
        bandwidth: bytes a second between memory and the processor.
    """

    name: str
    tera: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0
    bandwidth: float = 0.0

    def peak(self, precision: str) -> float:
        """Return operations a second at ``precision``; that of the next wider one where the device has none of it."""
        for wider in _WIDER[_WIDER.index(precision) :]:
            if wider in self.tera:
                return self.tera[wider] * 1e12
        raise InputError(f"device: {self.name} states no peak for {precision}; it has {', '.join(self.tera) or 'none'}")


_WIDER = ["fp8", "int8", "fp16", "bf16", "fp32"]


def _nvidia(
    name: str, fp32: float, half: float, int8: float, fp8: float, gigabytes: float, per_second: float
) -> Device:
    tera = {"fp32": fp32, "bf16": half, "fp16": half, "int8": int8}
    if fp8:
        tera["fp8"] = fp8
    return Device(name, tera, gigabytes * 1e9, per_second * 1e9)


#: From the data sheets: tensor cores with 32-bit sums; fp32 without tensor cores.
DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _nvidia("A100-80GB", 19.5, 312, 624, 0, 80, 2039),
        _nvidia("A10", 31.2, 125, 250, 0, 24, 600),
        _nvidia("L4", 30.3, 121, 242, 242, 24, 300),
        _nvidia("L40S", 91.6, 362, 733, 733, 48, 864),
        _nvidia("H100", 67, 989, 1979, 1979, 80, 3350),
        _nvidia("H200", 67, 989, 1979, 1979, 141, 4800),
        _nvidia("RTX-3090", 35.6, 71, 284, 0, 24, 936),
        _nvidia("RTX-4090", 82.6, 165, 661, 330, 24, 1008),
        _nvidia("RTX-5090", 104.8, 209.5, 838, 419, 32, 1792),
    )
}


def device_of(
    name: str | None, *, tflops: float | None = None, memory: float | None = None, bandwidth: float | None = None
) -> Device | None:
    """Return the device called ``name``, or the one that the numbers describe; ``None`` where nothing is said.

    Args:
        tflops: 10¹² operations a second, for whatever precision is planned.
        memory: gigabytes (10⁹ bytes).
        bandwidth: gigabytes a second.

    Raises:
        InputError: the name is not known, a number is not above 0, or both came.
    """
    numbers = {"tflops": tflops, "memory": memory, "bandwidth": bandwidth}
    for option, value in numbers.items():
        if value is not None and not value > 0:
            raise InputError(f"{option}: {value} came, a number above 0 was expected")
    if name is None:
        if all(value is None for value in numbers.values()):
            return None
        tera = {} if tflops is None else {"fp32": tflops, "bf16": tflops, "fp16": tflops, "int8": tflops, "fp8": tflops}
        return Device("the given device", tera, (memory or 0.0) * 1e9, (bandwidth or 0.0) * 1e9)
    if given := [option for option, value in numbers.items() if value is not None]:
        raise InputError(f"{given[0]}: came beside the device {name!r}, which has its own; give one or the other")
    found = {known.casefold(): device for known, device in DEVICES.items()}.get(name.casefold())
    if found is None:
        raise InputError(f"device: {name!r} is not known; give one of {', '.join(DEVICES)}, or its numbers")
    return found
