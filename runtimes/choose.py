"""Which of a bundle's engines a pipeline runs."""

from __future__ import annotations

from dataclasses import dataclass

from dit_deploy.bundle import Bundle, Engine, EngineRecord
from dit_deploy.errors import BundleError, InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.fit import Machine, lacks, unfit
from dit_deploy.text import one_line

__all__ = ["Choice", "choose_engine"]

#: Engines on a GPU come before those on a CPU, and what was compiled for the GPU before what runs kernels one by one.
_BACKENDS = ("tensorrt", "tensorrt-rtx", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")
_PRECISIONS = ("int8", "fp8", "fp16", "bf16", "fp32")
_NAMED = 3


@dataclass(frozen=True)
class Choice:
    """The engine to run: its name, ``"onnx"`` for the plain graphs; why, in one line; and the engine itself."""

    name: str
    reason: str
    engine: Engine | None = None


def choose_engine(bundle: Bundle, engine: str, machine: Machine | None = None) -> Choice:
    """Return the engine that ``engine`` means in this bundle.

    ``"onnx"`` is the plain graphs, a name that engine. ``"auto"`` is the best that fits the machine: on a GPU before on
    a CPU, TensorRT before ONNX Runtime, the lower precision first; never one that is damaged or whose recorded parity
    failed, and the plain graphs where none is left.

    Args:
        machine: what to choose for; by default this one.

    Raises:
        InputError: there is no such engine, or it does not fit this machine.
        BundleError: the engine is damaged, or was built from other graphs.
    """
    names = bundle.engine_names()
    if engine == "auto":
        return _best(bundle, names, machine)
    if engine == "onnx":
        return Choice("onnx", "onnx: the plain graphs, as asked")
    if engine not in names:
        others = f", and {', '.join(names)}" if names else ""
        raise InputError(f"engine: {shown(engine)} came; this bundle has onnx, the plain graphs{others}")
    opened = bundle.engine(engine)
    if why := unfit(opened.record, machine):
        raise InputError(f'engine: {engine} does not fit this machine: {why}; use another, or engine="auto"')
    failed = ", though its parity check failed" if _failed(opened.record) else ""
    return Choice(engine, f"{engine}: as asked{failed}", opened)


def _best(bundle: Bundle, names: list[str], machine: Machine | None) -> Choice:
    if not names:
        return Choice("onnx", "onnx: the plain graphs, as this bundle has no engines")
    fitting: list[Engine] = []
    left: list[str] = []
    for name in names:
        try:
            opened = bundle.engine(name)
        except BundleError as error:
            left.append(f"{name} cannot be used: {one_line(error, 200)}")
            continue
        if lacking := lacks(opened.record, machine):
            left.append(f"{name} does not fit: {lacking}")
        elif _failed(opened.record):
            left.append(f"{name} failed its parity check")
        else:
            fitting.append(opened)
    faster = sorted((one for one in fitting if not _slow(one.record)), key=lambda one: _rank(one.record))
    slow = [one.name for one in fitting if _slow(one.record)]
    if slow:
        left.append(f"{', '.join(slow)}: slower than the plain graphs on a CPU")
    if faster:
        count = "the one that fits" if len(faster) == 1 else f"the best of {len(faster)} that fit"
        return Choice(faster[0].name, "; ".join([f"{faster[0].name}: {count}", *_few(left)]), faster[0])
    return Choice("onnx", "; ".join(["onnx: the plain graphs", *_few(left)]))


def _rank(record: EngineRecord) -> tuple[bool, bool, int, int, str]:
    """Return a key by which engines are sorted, the best first."""
    kind = record.target.provider if record.backend == "onnxruntime" else record.backend
    return (
        "denoiser" not in record.components,  # nearly all the time is spent there
        record.target.device == "cpu",
        _BACKENDS.index(kind) if kind in _BACKENDS else len(_BACKENDS),
        _PRECISIONS.index(record.precision),
        record.name,
    )


def _slow(record: EngineRecord) -> bool:
    """Whether the plain graphs are faster: ONNX Runtime converts to single precision around each node on a CPU."""
    return record.target.device == "cpu" and record.precision in ("fp16", "bf16")


def _failed(record: EngineRecord) -> bool:
    return record.parity is not None and record.parity.get("passed") is False


def _few(texts: list[str]) -> list[str]:
    more = len(texts) - _NAMED
    return texts[:_NAMED] + ([f"and {more} more do not"] if more > 0 else [])
