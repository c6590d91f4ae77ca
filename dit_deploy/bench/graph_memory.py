"""What one run of an ONNX graph on the CPU takes in memory and time, in a process of its own.

    python -m dit_deploy.bench.graph_memory GRAPH FEW FULL REPEATS THREADS

The process opens the graph, runs it on a handful of tokens (``FEW``, an ``.npz`` of its inputs), and notes what is
resident; then it runs the full size, and the highest point less that is the figure. Everything is in it that a run
allocates: activations, scores, and what the allocator holds in reserve.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["available_bytes", "has_proc", "run_graph"]


def has_proc() -> bool:
    """Return whether memory can be measured here."""
    return Path("/proc/self/clear_refs").exists()


def run_graph(
    graph: Path, few: Mapping[str, Any], full: Mapping[str, Any], *, repeats: int = 1, threads: int = 0
) -> dict[str, Any]:
    """Run the graph in a new process.

    Args:
        few, full: numpy arrays of its inputs, for the baseline and for what is measured.
        repeats: runs of the full size; memory is the first one's, times are medians.
        threads: of one operator; 0: as many as ONNX Runtime takes.

    Returns ``bytes`` beyond the baseline, ``seconds`` of the clock, and ``cpu_seconds`` of all threads together, which
    other work on the machine hardly changes.

    Raises ``RuntimeError`` where the process fails.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="dit-deploy-memory-") as name:
        files = []
        for which, inputs in (("few", few), ("full", full)):
            files.append(Path(name) / f"{which}.npz")
            np.savez(files[-1], **inputs)
        command = [sys.executable, "-m", "dit_deploy.bench.graph_memory", graph, *files, repeats, threads]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise RuntimeError(f"{graph.stem} did not run: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def available_bytes() -> int:
    """Return the memory that a new process may take, as the system estimates it."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(encoding="utf-8"), re.M)
    assert match is not None
    return int(match[1]) * 1024


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.M)
    assert match is not None
    return int(match[1]) * 1024


def main() -> None:
    """Measure in this process, and print what was found as JSON."""
    import numpy as np
    import onnxruntime as ort

    graph, few, full, repeats, threads = sys.argv[1:]
    inputs = dict(np.load(full))
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session.run(None, dict(np.load(few)))
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM back to VmRSS
    before = _status("VmRSS")
    peak, clock, cpu = 0, [], []
    for number in range(int(repeats)):
        start, cpu_start = time.perf_counter(), time.process_time()
        session.run(None, inputs)
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        if number == 0:
            peak = _status("VmHWM")
    print(
        json.dumps({"bytes": peak - before, "seconds": statistics.median(clock), "cpu_seconds": statistics.median(cpu)})
    )


if __name__ == "__main__":
    main()
