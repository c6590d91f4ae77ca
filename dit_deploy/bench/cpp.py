"""The C++ program beside the Python runtime and diffusers: ``python -m dit_deploy.bench.cpp BUNDLE --build DIR``.

Each draws the same picture in a fresh process: start, open, draw, write, exit. Measured are the time that this takes,
the peak of its resident memory, and the time of one step: that of a run with more steps, less that of one with fewer.
Rounds are interleaved (A B C A B C …), after one that is discarded, which fills the file cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table

from dit_deploy.bench.machine import describe, usable_cores
from dit_deploy.bench.timing import Timing
from dit_deploy.bundle import Bundle
from dit_deploy.cli._console import print_results, show_lines
from dit_deploy.errors import DitDeployError, InputError
from dit_deploy.text import one_line

__all__ = ["CPP", "DIFFUSERS", "PYTHON", "Measured", "measure", "table"]

CPP, PYTHON, DIFFUSERS = "dit-deploy-run", "the Python runtime", "diffusers"

#: A candidate's command for so many steps and a picture's path.
Command = Callable[[int, Path], list[str]]

# Linux counts the memory that a process had before it became another program, and that is its parent's: so a small one
# starts the candidates.
_LAUNCHER = """
import json, os, sys, time
out = os.open(os.devnull, os.O_WRONLY)
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, out, 1)])
_, status, usage = os.wait4(child, 0)
print(json.dumps([time.perf_counter() - started, usage.ru_maxrss * 1024, os.waitstatus_to_exitcode(status)]))
"""

_PYTHON_PROGRAM = """
import sys
from dit_deploy import Bundle, Pipeline
bundle, engine, threads, label, steps, out = sys.argv[1:]
pipe = Pipeline(Bundle.open(bundle), engine, threads=int(threads))
pipe(class_labels=int(label), num_inference_steps=int(steps), seed=0).images[0].save(out)
"""

# The pipeline's null class is always 1000; a model with another number of classes has its own.
_DIFFUSERS_PROGRAM = """
import sys
import torch
from diffusers import DiTPipeline
source, scale, threads, label, steps, out = sys.argv[1:]
torch.set_num_threads(int(threads))
pipe = DiTPipeline.from_pretrained(source, low_cpu_mem_usage=False)
pipe.set_progress_bar_config(disable=True)
null = pipe.transformer.config.num_embeds_ada_norm
def lead_null_class(module, args, kwargs):
    labels = kwargs["class_labels"]
    return args, {**kwargs, "class_labels": torch.where(labels == 1000, null, labels)}
pipe.transformer.register_forward_pre_hook(lead_null_class, with_kwargs=True)
generator = torch.Generator("cpu").manual_seed(0)
pipe([int(label)], guidance_scale=float(scale), generator=generator, num_inference_steps=int(steps)).images[0].save(out)
"""


@dataclass(frozen=True)
class Measured:
    """What one candidate took, a sample a round.

    Attributes:
        first_picture: from the start of the process to its end, in seconds.
        step: one more step, in seconds.
        memory: peak of resident memory, in bytes.
        difference: largest difference of its picture from the baseline's, of 255.
    """

    first_picture: Timing
    step: Timing
    memory: tuple[int, ...]
    difference: int

    def to_dict(self, baseline: Measured) -> dict[str, Any]:
        """Return everything as JSON values, with ratios to the baseline (below 1 is faster, or smaller)."""
        peak, base = statistics.median(self.memory), statistics.median(baseline.memory)
        return {
            "first_picture": {
                **self.first_picture.to_dict(),
                "ratio": self.first_picture.ratio(baseline.first_picture),
            },
            "step": {**self.step.to_dict(), "ratio": self.step.ratio(baseline.step)},
            "memory": {"median": peak, "samples": list(self.memory), "ratio": peak / base},
            "difference": self.difference,
        }


def measure(
    bundle: Bundle,
    program: Path,
    *,
    engine: str = "onnx",
    reference: str | Path | None = None,
    steps: int = 50,
    more_steps: int = 200,
    repeats: int = 5,
    threads: int | None = None,
    class_label: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Measured]:
    """Return what each candidate took, the baseline first: diffusers where there is a reference, else Python.

    Args:
        program: the built ``dit-deploy-run``.
        engine: of the bundle, for C++ and Python.
        reference: the diffusers ``DiTPipeline`` folder that the bundle was exported from.
        steps: of the first picture.
        more_steps: so many more are run to tell what one takes.
        repeats: rounds.
        threads: within an operator, the same for all; every usable core by default.
        class_label: what is drawn.

    Raises:
        InputError: a number is out of range, or the program or the reference is not there.
        DitDeployError: a candidate failed; the message holds its last words.
    """
    for name, value in (("steps", steps), ("more_steps", more_steps), ("repeats", repeats), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} came, at least 1 was expected")
    threads = threads or usable_cores()
    say = progress or (lambda line: None)
    commands = _commands(bundle, program, engine, reference, threads, class_label)
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="dit-deploy-bench-") as around:
        folder = Path(around)
        pictures = {name: folder / f"{index}.png" for index, name in enumerate(commands)}
        for number in range(repeats + 1):
            for name, command in commands.items():
                pictures[name].unlink(missing_ok=True)
                few, memory = _launch(name, command(steps, pictures[name]))
                many, _ = _launch(name, command(steps + more_steps, folder / f"{number}-{name.replace(' ', '-')}.png"))
                if number:
                    found[name].append((few, (many - few) / more_steps, memory))
            if number:
                texts = (f"{name} {samples[-1][0]:.3g} s" for name, samples in found.items())
                say(f"  round {number} of {repeats}: {', '.join(texts)}")
        baseline = pictures[next(iter(commands))]
        differences = {name: _difference(path, baseline) for name, path in pictures.items()}
    return {
        name: Measured(
            Timing(tuple(few for few, _, _ in samples)),
            Timing(tuple(step for _, step, _ in samples)),
            tuple(memory for _, _, memory in samples),
            differences[name],
        )
        for name, samples in found.items()
    }


def _commands(
    bundle: Bundle, program: Path, engine: str, reference: str | Path | None, threads: int, label: int
) -> dict[str, Command]:
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise InputError(f"{program} is no program; build it with cmake, and name the build's folder")
    commands: dict[str, Command] = {}
    if reference is not None:
        if not (Path(reference) / "model_index.json").is_file():
            raise InputError(f"reference: {reference} is no folder of a diffusers pipeline")
        scale = bundle.manifest.guidance.default_scale
        commands[DIFFUSERS] = lambda steps, out: [
            *(sys.executable, "-c", _DIFFUSERS_PROGRAM),
            *map(str, (reference, scale, threads, label, steps, out)),
        ]
    commands[PYTHON] = lambda steps, out: [
        *(sys.executable, "-c", _PYTHON_PROGRAM),
        *map(str, (bundle.path, engine, threads, label, steps, out)),
    ]
    commands[CPP] = lambda steps, out: [
        *(str(program), str(bundle.path), str(out), "--class-label", str(label), "--steps", str(steps), "--seed", "0"),
        *("--engine", engine, "--threads", str(threads)),
    ]
    return commands


def _launch(name: str, command: list[str]) -> tuple[float, int]:
    """Run a command; return its seconds and the peak of its resident memory in bytes."""
    words = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    seconds, memory, status = (0, 0, "none, it did not start") if done.returncode else json.loads(done.stdout)
    if status:
        last = one_line((done.stderr.strip().splitlines() or ["nothing"])[-1])
        raise DitDeployError(f"{name} ended with status {status}; its last words: {last}")
    return float(seconds), int(memory)


def _difference(picture: Path, other: Path) -> int:
    with Image.open(picture) as one, Image.open(other) as two:
        pixels = [np.asarray(image.convert("RGB"), np.int16) for image in (one, two)]
    if pixels[0].shape != pixels[1].shape:
        raise DitDeployError(f"pictures of sizes {pixels[0].shape} and {pixels[1].shape} were drawn")
    return int(np.abs(pixels[0] - pixels[1]).max())


def table(bundle: Bundle, measured: Mapping[str, Measured], settings: Mapping[str, Any]) -> RenderableType:
    """Return the table to print; ``settings`` are ``steps``, ``threads``, ``engine`` and ``machine``."""
    baseline, machine = next(iter(measured)), settings["machine"]
    rows = Table(title=f"a picture in {settings['steps']} steps, from start to exit of a process", title_justify="left")
    for index, column in enumerate(("", "ratio", "time", "ratio", "peak memory", "ratio", "one step", "differs by")):
        rows.add_column(column, justify="right" if index else "left")
    for name, one in measured.items():
        found = one.to_dict(measured[baseline])
        rows.add_row(
            name,
            f"{found['first_picture']['ratio']:.2f}",
            f"{one.first_picture.median:.2f} s",
            f"{found['memory']['ratio']:.2f}",
            f"{found['memory']['median'] / 1e6:.0f} MB",
            f"{found['step']['ratio']:.2f}",
            f"{one.step.median * 1000:.2f} ms",
            f"{one.difference}/255",
        )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = (
        f"{bundle.manifest.source.name}, engine {settings['engine']}, {settings['threads']} threads on "
        f"{machine['cpu']['model']} (load before {machine['load']}), medians of {len(measured[baseline].memory)} rounds"
    )
    return Group(head, rows, f"ratio: to {baseline}; below 1 is faster, or smaller", versions)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--build", type=Path, required=True, metavar="DIR", help="where cmake built dit-deploy-run")
    parser.add_argument("--engine", default="onnx", help="of the bundle (%(default)s)")
    parser.add_argument("--reference", type=Path, metavar="SOURCE", help="adds diffusers' DiTPipeline")
    parser.add_argument("--steps", type=int, default=50, help="of the picture (%(default)s)")
    parser.add_argument("--more-steps", type=int, default=200, help="to measure one step by (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (%(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="(every usable core)")
    parser.add_argument("--class-label", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    machine = describe()  # before our own work shows in the load
    try:
        bundle = Bundle.open(args.bundle)
        programs = [path for path in sorted(args.build.rglob("dit-deploy-run")) if path.is_file()]
        if not programs:
            raise InputError(f"--build {args.build}: there is no dit-deploy-run; build it with cmake first")
        measured = measure(
            bundle,
            programs[0],
            engine=args.engine,
            reference=args.reference,
            steps=args.steps,
            more_steps=args.more_steps,
            repeats=args.repeats,
            threads=args.threads,
            class_label=args.class_label,
            progress=show_lines(),
        )
    except DitDeployError as error:
        sys.exit(str(error))
    settings = {"engine": args.engine, "steps": args.steps, "threads": args.threads, "machine": machine}
    if args.json:
        baseline = next(iter(measured.values()))
        candidates = {name: one.to_dict(baseline) for name, one in measured.items()}
        print(json.dumps({"settings": settings, "candidates": candidates}, indent=1))
    else:
        print_results(table(bundle, measured, settings))


if __name__ == "__main__":
    main()
