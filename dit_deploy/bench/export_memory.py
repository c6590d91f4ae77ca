"""How much memory an export takes beyond the interpreter's and the libraries' own, relative to the model's weights.

    python -m dit_deploy.bench.export_memory --arch DiT-XL/2
    python -m dit_deploy.bench.export_memory --source FOLDER        # any pipeline, against its denoiser's weights

A random checkpoint, or the one given, is exported in a fresh process. That process first imports everything and
exports a tiny model, so that what the libraries keep for themselves is in the baseline; then this one samples its
``/proc/PID/status`` until it is done.

Two peaks are reported. *Anonymous* memory is what the export allocated. *Resident* memory also counts
pages of mapped files, the checkpoint and the written weights among them, which the kernel drops when memory
is short: they hurt nobody, but tools such as ``top`` show them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["GOAL", "measure", "measure_source"]

#: At most this many times the weights' size.
GOAL = 1.6

_FIELDS = ("VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem")
_INTERVAL = 0.02  # seconds between two looks
_WARM_UP_CLASSES = 3


def measure(arch: str, image_size: int = 256, work: Path | None = None) -> dict[str, Any]:
    """Export a random ``arch`` in a process of its own and return what it took.

    Args:
        arch: ``"DiT-XL/2"`` and so on.
        image_size: pixels.
        work: folder for checkpoint and bundle, which need twice the weights' size; the system's own by default.

    Returns ``weights`` (bytes), ``baseline`` and ``peak`` (bytes, ``anonymous`` and ``resident`` each), ``ratio`` (of
    peak less baseline to the weights, likewise), ``stages`` (seconds and both peaks less baseline, by what the
    export said it was doing), ``seconds`` and ``goal``.

    Raises ``RuntimeError`` where the export fails, or the system has no ``/proc``.
    """
    if not Path("/proc/self/status").exists():
        raise RuntimeError("memory is measured through /proc, which this system lacks")
    from dit_deploy.bench.random_checkpoint import write_random_autoencoder, write_random_checkpoint

    with tempfile.TemporaryDirectory(prefix="dit-deploy-memory-", dir=work) as name:
        folder = Path(name)
        checkpoint = write_random_checkpoint(folder, arch, image_size)
        write_random_autoencoder(folder / "vae")
        return _related(arch, checkpoint.stat().st_size, _watch(checkpoint, folder / "bundle"))


def measure_source(source: Path, work: Path | None = None) -> dict[str, Any]:
    """Export ``source``, a checkpoint of any family, in a process of its own; see :func:`measure` for the rest.

    ``weights`` are the bytes of the denoiser's: graphs are exported one after the other, and it is the largest.
    """
    from dit_deploy.exporters import open_source

    weights = sum(path.stat().st_size for path in open_source(source).digest_files)
    with tempfile.TemporaryDirectory(prefix="dit-deploy-memory-", dir=work) as name:
        return _related(source.name, weights, _watch(source, Path(name) / "bundle"))


def _related(what: str, weights: int, found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found, and its peaks in sizes of the weights."""
    baseline, peak = found["baseline"], found["peak"]
    return {
        "arch": what,
        "weights": weights,
        **found,
        "ratio": {kind: (peak[kind] - baseline[kind]) / weights for kind in baseline},
        "goal": GOAL,
    }


def _watch(checkpoint: Path, bundle: Path) -> dict[str, Any]:
    """Run the child on ``checkpoint`` and sample its memory from its baseline to its end."""
    command = [sys.executable, "-m", "dit_deploy.bench.export_memory", "--child", str(checkpoint), str(bundle)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    said: list[dict[str, Any]] = []

    def listen() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            # A line that only repeats how long a step took begins no stage of its own.
            if line.startswith("{") and not re.search(r": [0-9.]+ s$", (stage := json.loads(line))["stage"]):
                said.append(stage)

    ready = child.stdout.readline()
    if "ready" not in ready:
        child.wait()
        raise RuntimeError("the export did not start; its own message is above")
    baseline = _kinds(_status(child.pid))
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    samples: list[tuple[float, dict[str, int]]] = []
    child.stdin.write("go\n")
    child.stdin.flush()
    while child.poll() is None:
        if status := _status(child.pid):
            samples.append((time.time(), status))
        time.sleep(_INTERVAL)
    listener.join(timeout=10)
    if child.returncode or not samples:
        raise RuntimeError(f"the export ended with status {child.returncode}; its own message is above")
    peak = {
        "anonymous": max(status["RssAnon"] for _, status in samples),
        # The kernel's own record of the highest point, which sampling may miss.
        "resident": max(max(status["VmHWM"], status["VmRSS"]) for _, status in samples),
    }
    stages = []
    for number, stage in enumerate(said):
        end = said[number + 1]["time"] if number + 1 < len(said) else samples[-1][0]
        within = [_kinds(status) for when, status in samples if stage["time"] <= when <= end]
        highest = {
            kind: max((one[kind] for one in within), default=baseline[kind]) - baseline[kind] for kind in baseline
        }
        stages.append({"stage": stage["stage"], "seconds": end - stage["time"], "beyond_baseline": highest})
    return {"baseline": baseline, "peak": peak, "stages": stages, "seconds": sum(one["seconds"] for one in stages)}


def _status(pid: int) -> dict[str, int]:
    """Return the memory fields of ``/proc/PID/status`` in bytes, empty where the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    found = {match[1]: int(match[2]) * 1024 for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.M)}
    return found if all(field in found for field in _FIELDS) else {}


def _kinds(status: dict[str, int]) -> dict[str, int]:
    return {"anonymous": status["RssAnon"], "resident": status["VmRSS"]}


def _child(checkpoint: Path, bundle: Path) -> None:
    """Warm up, wait for a word, export; one line of JSON for each stage."""
    from dit_deploy.exporters import export

    with tempfile.TemporaryDirectory() as name:
        export(_tiny_model(Path(name)), Path(name) / "bundle")
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # sets VmHWM back to VmRSS
    except (OSError, AttributeError):
        pass
    print('{"ready": true}', flush=True)
    sys.stdin.readline()

    def say(line: str) -> None:
        print(json.dumps({"time": time.time(), "stage": line}), flush=True)

    export(checkpoint, bundle, progress=say)


def _tiny_model(folder: Path) -> Path:
    """Save a DiT of some thousand parameters with the random autoencoder, as a source for the warm-up."""
    import torch
    from diffusers import DiTTransformer2DModel

    from dit_deploy.bench.random_checkpoint import write_random_autoencoder

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=1,
        sample_size=8, patch_size=2, num_embeds_ada_norm=_WARM_UP_CLASSES, norm_num_groups=1,
    )  # fmt: skip
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder / "transformer")
    write_random_autoencoder(folder / "vae")
    return folder / "transformer"


def text(found: dict[str, Any]) -> str:
    """Return a measurement as lines for people."""
    ratio = found["ratio"]
    baseline = found["baseline"]
    lines = [
        f"{found['arch']}: weights {found['weights'] / 1e6:.0f} MB, exported in {found['seconds']:.0f} s",
        f"peak beyond the baseline: anonymous {ratio['anonymous']:.2f} times the weights, "
        f"resident, mapped files included, {ratio['resident']:.2f} times (goal: at most {found['goal']})",
        f"baseline: anonymous {baseline['anonymous'] / 1e6:.0f} MB, resident {baseline['resident'] / 1e6:.0f} MB",
        f"{'stage':<60}{'s':>8}{'anon MB':>10}{'resident MB':>13}",
    ]
    for stage in found["stages"]:
        anonymous, resident = (stage["beyond_baseline"][kind] / 1e6 for kind in ("anonymous", "resident"))
        lines.append(f"{stage['stage'][:58]:<60}{stage['seconds']:>8.1f}{anonymous:>10.0f}{resident:>13.0f}")
    return "\n".join(lines)


def main() -> None:
    """Run from the command line. Exits with 1 where the resident peak is past the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m dit_deploy.bench.export_memory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--arch", default="DiT-B/2", help="default: %(default)s")
    parser.add_argument("--source", type=Path, help="a checkpoint that is there, instead of a random one of --arch")
    parser.add_argument("--image-size", type=int, default=256, help="pixels; default: %(default)s")
    parser.add_argument(
        "--work", type=Path, help="folder for checkpoint and bundle; default: the system's temporary one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(*arguments.child)
        return
    if shutil.disk_usage(arguments.work or tempfile.gettempdir()).free < 1 << 30:
        sys.exit("less than 1 GB of disk is free; name another folder with --work")
    if arguments.source is not None:
        found = measure_source(arguments.source.resolve(), arguments.work)
    else:
        found = measure(arguments.arch, arguments.image_size, arguments.work)
    print(json.dumps(found, indent=1) if arguments.json else text(found))
    sys.exit(0 if found["ratio"]["resident"] <= GOAL else 1)


if __name__ == "__main__":
    main()
