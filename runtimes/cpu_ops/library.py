"""Build the operators' library with the machine's compiler, and find it again.

It lies in a per-user cache, never in a bundle: a bundle must not bring native code. A folder is named after the sources
and the compiler, so neither an older version of this package nor another compiler's result is ever loaded.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dit_deploy.errors import BackendError

__all__ = ["DOMAIN", "build", "cache_folder", "cannot_build", "compiler", "library_path", "sources", "why_not"]

#: Of the operators' names in a graph.
DOMAIN = "dit_deploy"

_NAME = "libdit_deploy_cpu_ops.so"
_OLDEST_COMPILER = 11  # the first g++ with all instruction sets
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fwrapv",  # integers of the kernels wrap, as the processor's do
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # vectors are passed between inlined functions only
    "-Wno-maybe-uninitialized",  # of the compiler's own headers
)


def library_path() -> Path | None:
    """Return the built library of this version and compiler, to be given to ``register_custom_ops_library``.

    ``None`` where it is not built yet, or cannot be: :func:`why_not` says which.
    """
    return None if why_not() else _target()


def why_not() -> str:
    """Say in one line why there is no library, and how to get it; nothing where there is one."""
    missing = cannot_build()
    if missing:
        return missing
    target = _target()
    if not target.is_file():
        return "the INT8 operators for CPUs are not built; run python -m dit_deploy.runtimes.cpu_ops"
    state = target.parent.stat()
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{target.parent} may be written by others, so its library is not loaded; remove the folder, then build"
    return ""


def build() -> Path:
    """Build the library if it is not built yet, which takes about half a minute, and return its path.

    Two builds at once do not disturb each other: the library appears under its name when it is complete.

    Raises:
        BackendError: there is no compiler, or it failed, or the cache folder cannot be written.
    """
    missing = cannot_build()
    if missing:
        raise BackendError(missing)
    if not why_not():
        return _target()
    target = _target()
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.parent.chmod(0o700)
        descriptor, name = tempfile.mkstemp(".so", ".building-", target.parent)
        os.close(descriptor)
    except OSError as error:
        raise BackendError(f"{target.parent}: cannot be written: {error.strerror}; set XDG_CACHE_HOME") from error
    try:
        compile_sources(sources(".cpp"), Path(name), [*_FLAGS, "-shared"])
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    return target


def compile_sources(files: list[Path], output: Path, flags: Sequence[str]) -> None:
    """Compile ``files``, several at a time, and link them. Raises :class:`BackendError` with the first error."""
    with tempfile.TemporaryDirectory(prefix="dit-deploy-") as folder:
        objects = [Path(folder) / f"{number}-{file.name}.o" for number, file in enumerate(files)]
        commands = [["-c", str(file), "-o", str(made)] for file, made in zip(files, objects, strict=True)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda arguments: _run_compiler(flags, arguments), commands))
        _run_compiler(flags, [*map(str, objects), "-o", str(output)])


def _run_compiler(flags: Sequence[str], arguments: Sequence[str]) -> None:
    done = subprocess.run([compiler()[0], *flags, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()
        raise BackendError(f"the INT8 operators for CPUs do not compile: {lines[0] if lines else done.returncode}")


def sources(suffix: str | tuple[str, ...] = (".cpp", ".h")) -> list[Path]:
    """Return the C++ files, sorted by name."""
    return sorted(file for file in (Path(__file__).parent / "src").iterdir() if file.name.endswith(suffix))


def cache_folder() -> Path:
    """Return where built libraries are kept: ``$XDG_CACHE_HOME/dit-deploy/cpu_ops``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dit-deploy" / "cpu_ops"


@functools.cache
def compiler() -> tuple[str, str]:
    """Return the compiler, ``$CXX`` or g++, and its version: ``"12.2.0 x86_64-linux-gnu"``; empty without one."""
    path = shutil.which(os.environ.get("CXX") or "g++")
    if path is None:
        return "", ""
    try:
        done = subprocess.run([path, "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "", ""
    return path, " ".join(done.stdout.split())


def cannot_build() -> str:
    """Say in one line why the library cannot be built here; nothing where it can."""
    if platform.system() != "Linux":
        return f"the INT8 operators for CPUs are built on Linux, and this is {platform.system()}"
    path, version = compiler()
    major = version.partition(".")[0]
    if not path or not major.isdigit() or int(major) < _OLDEST_COMPILER:
        found = f"found {path} {version}" if path else "found none"
        return f"the INT8 operators for CPUs need g++ {_OLDEST_COMPILER} or newer, {found}; install it or set CXX"
    return ""


def _target() -> Path:
    return cache_folder() / _key(compiler()[1]) / _NAME


@functools.cache
def _key(version: str) -> str:
    # The version of ONNX Runtime's interface is a number in the sources; the compiler's says the architecture too.
    digest = hashlib.sha256("\0".join((version, *_FLAGS)).encode())
    for file in sources():
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:32]
