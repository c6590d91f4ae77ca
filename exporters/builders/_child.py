"""Run TensorRT in a process of its own.

Three things ask for it. Polygraphy is bound to one of the two libraries for the life of a process, by an environment
variable that it reads when it is imported. The libraries are native: a graph that they do not expect can end the
process, and one that is too large can have it killed. And a build that is stopped must stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Literal

from dit_deploy.errors import BackendError, Cancelled
from dit_deploy.text import one_line

__all__ = ["Ended", "Flavour", "run"]

Flavour = Literal["tensorrt", "tensorrt-rtx"]

#: Starts the worker with none of the packages' own ``__init__`` run: those of the exporters import torch, which takes
#: seconds and gigabytes that a build has no use for.
_START = """
import importlib.util, sys
for name in ("dit_deploy", "dit_deploy.exporters", "dit_deploy.exporters.builders"):
    sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))
from dit_deploy.exporters.builders._worker import main
main()
"""

#: Seconds that a child has to end by itself once it was told to.
_PATIENCE = 5.0


class Ended(BackendError):
    """The child ended without an answer: it crashed, or was killed."""


def run(
    flavour: Flavour,
    request: Mapping[str, Any],
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Send ``request`` to a worker for ``flavour`` and return its answer.

    Args:
        on_progress: called with (phase, step, steps) in this thread.
        stop: asked a few times a second; where it is true, the worker is ended.

    Raises:
        Cancelled: ``stop`` said so.
        Ended: the worker ended without an answer; the message says how, and what it said last.
        KeyboardInterrupt: and whatever else is raised here meanwhile, once the worker has ended.
    """
    environment = dict(os.environ)
    environment["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if flavour == "tensorrt-rtx" else "0"
    environment["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        # -P: a folder that happens to hold a tensorrt.py must not be searched first. A session of its own: Ctrl-C is
        # for this process, which then ends the worker in order.
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,
        )
        phases: list[str] = []

        def note(phase: str, step: int, steps: int) -> None:
            phases[:] = [phase]
            if on_progress is not None:
                on_progress(phase, step, steps)

        try:
            answer = _listen(child, {**request, "flavour": flavour}, note, stop)
        except BaseException:
            _end(child)
            raise
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()
        if answer is None:
            raise Ended(_how_it_ended(child.returncode, phases, said))
        return answer


def _listen(
    child: subprocess.Popen[str],
    request: Mapping[str, Any],
    on_progress: Callable[[str, int, int], None],
    stop: Callable[[], bool] | None,
) -> dict[str, Any] | None:
    assert child.stdin is not None and child.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        # It stays open: its end tells the worker that this process is gone.
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
    answer = None
    for event in _events(child.stdout):
        if stop is not None and stop():
            raise Cancelled("the build was stopped; nothing was written")
        if event is None:
            continue
        if event["event"] == "progress":
            on_progress(event["phase"], event["step"], event["steps"])
        else:
            answer = event
    return answer


def _events(stream: IO[str]) -> Iterator[dict[str, Any] | None]:
    """Yield what the worker reports, and ``None`` five times a second while it reports nothing."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        with contextlib.suppress(ValueError):  # closed, as the worker was ended
            for line in stream:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        with contextlib.suppress(json.JSONDecodeError):  # half a line, of a worker that was killed
            yield json.loads(line)


def _end(child: subprocess.Popen[str]) -> None:
    """Ask the worker to end; kill it where it does not."""
    if child.stdin is not None:
        with contextlib.suppress(OSError):
            child.stdin.close()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _how_it_ended(status: int, phases: list[str], said: IO[str]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    last = f" (phase {phases[0]!r})" if phases else ""
    if lines:
        last += f", saying: {one_line(lines[-1])}"
    if status >= 0:
        return f"ended with status {status}{last}"
    if -status == getattr(signal, "SIGKILL", 9):
        return f"was killed, as happens where memory runs out{last}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"crashed ({name}){last}"
