"""The two TensorRT libraries: what is installed of them, what each can be asked for, and what it lacks."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from dit_deploy import extras
from dit_deploy.errors import BackendError, InputError
from dit_deploy.exporters.builders._child import Ended, Flavour, run

__all__ = ["Flavour", "Gpu", "Library", "check_option", "check_targets", "library", "title"]

_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

#: Options that a library does not have although its interface may, and why. The others are asked of the library.
_LACKING: dict[Flavour, dict[str, str]] = {
    "tensorrt": {"compute_capabilities": "it builds for the GPU of this machine; tensorrt-rtx builds for chosen ones"},
    "tensorrt-rtx": {
        # Measured with 1.7.1: the same bytes for every level, no lean runtime to load, no timing.
        "timing_cache": "it times nothing while it builds; what it compiles on the GPU is kept in the runtime cache",
        "optimization_level": "it compiles on the GPU where the engine runs, whatever level it was built with",
        "version_compatible": "its engines run with the version that built them",
        "hardware_compatibility": "name the GPUs by compute capability instead",
    },
}


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as the driver describes it: ``Gpu("NVIDIA H100", "9.0")``."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Library:
    """What a worker found of a library.

    Args:
        version: its version.
        compute_capabilities: those that it builds for by name; empty where it builds for this machine's GPU.
        options: what its interface has of ``strip_weights``, ``refittable``, ``version_compatible``, ….
        gpu: this machine's first GPU, or ``None``.
        gpu_note: why there is none.
    """

    version: str
    compute_capabilities: tuple[str, ...]
    options: frozenset[str]
    gpu: Gpu | None
    gpu_note: str


def title(flavour: Flavour) -> str:
    """Return the library's name as its maker writes it."""
    return _TITLES[flavour]


@functools.cache
def library(flavour: Flavour) -> Library:
    """Ask a library what it is; asked once in a process, in half a second.

    Raises:
        BackendError: it is not installed, or does not load; the message says what is missing, a GPU too where the
            library needs one to build.
    """
    missing = [name for name in _packages(flavour) if not extras.importable(_module(name))]
    try:
        answer = run(flavour, {"task": "describe"})
    except Ended as error:
        raise BackendError(f"{title(flavour)} does not load: its process {error}") from error
    gpu = Gpu(**answer["gpu"]) if answer["gpu"] else None
    faults = []
    if missing:
        faults.append(f"not installed: {', '.join(missing)} ({extras.install_command(flavour)})")
    elif answer["error"]:
        faults.append(f"it does not load: {answer['error']}")
    if flavour == "tensorrt" and gpu is None:
        faults.append(
            f"it builds on the GPU that the engine is for, and here is none: {answer['gpu_note']} "
            "(tensorrt-rtx builds without a GPU)"
        )
    if faults:
        raise BackendError(f"{title(flavour)} cannot build here: {'; '.join(faults)}")
    return Library(
        version=answer["version"],
        compute_capabilities=tuple(answer["compute_capabilities"]),
        options=frozenset(answer["options"]),
        gpu=gpu,
        gpu_note=answer["gpu_note"],
    )


def check_option(flavour: Flavour, option: str, value: object) -> None:
    """Raise :class:`InputError` where an option that is set is none of this library's."""
    if value is None or value is False or value == ():
        return
    reason = _LACKING[flavour].get(option)
    found = library(flavour)
    if reason is None and option not in found.options:
        reason = f"version {found.version} does not have it"
    if reason is not None:
        raise InputError(f"{option}: {title(flavour)} has no such option: {reason}")


def check_targets(flavour: Flavour, compute_capabilities: tuple[str, ...]) -> None:
    """Raise :class:`InputError` for a compute capability that the library does not know, naming those that it does."""
    check_option(flavour, "compute_capabilities", compute_capabilities)
    known = library(flavour).compute_capabilities
    for one in compute_capabilities:
        if one not in known:
            raise InputError(
                f"compute capability: {one!r} came, {title(flavour)} {library(flavour).version} builds for "
                f"{', '.join(known)}"
            )
    if len(set(compute_capabilities)) != len(compute_capabilities):
        raise InputError(f"compute capabilities: {', '.join(compute_capabilities)} came, one of them twice")


def _packages(flavour: Flavour) -> list[str]:
    """Return the distributions that an extra brings, also where dit-deploy runs from a folder."""
    return [package.name for package in extras.packages() if package.extra == flavour] or ["polygraphy", flavour]


def _module(name: str) -> str:
    """Return the name that one of these distributions is imported by."""
    return name.replace("-", "_")
