"""How memory and time of SpacetimeDiT on the CPU grow with tokens, with and without a window.

    python -m dit_deploy.bench.spacetime_memory --plot dit_deploy/bench/spacetime_memory.svg

A :class:`~dit_deploy.exporters.spacetime_dit.SpacetimeDiT` of a few random layers is exported twice, once with every
patch seeing all and once in windows, and lowered to the attention that CPU engines have. Each measurement is a process
of its own, see :mod:`dit_deploy.bench.graph_memory`. Times are those of the processor, of all threads together, so that
other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from dit_deploy.bench._plot import Panel, draw
from dit_deploy.bench.graph_memory import has_proc, run_graph

__all__ = ["FORMS", "SLACK", "grid_of", "measure", "plot"]

FORMS = ("all patches", "window")
TOKENS = (1024, 4096, 16384)

#: Linear is: what a token costs at the most tokens is at most this many times what it costs at the fewest.
SLACK = 1.25

_FEW = 16  # tokens of the run that belongs to the baseline
_PATCH = (1, 2, 2)
_CHANNELS, _TEXT_WIDTH, _TEXT_TOKENS = 16, 64, 16


def grid_of(tokens: int) -> tuple[int, int, int]:
    """Return frames, rows and columns of patches of a square video: 16 frames at 1,024, 4,096 and 16,384 patches.

    Raises ``ValueError`` where ``tokens`` is no power of 2 of at least 16.
    """
    bits = tokens.bit_length() - 1
    if tokens < _FEW or tokens != 1 << bits:
        raise ValueError(f"{tokens} tokens came, expected a power of 2 of at least {_FEW}")
    side = 1 << (bits + 1) // 3
    return tokens // (side * side), side, side


def measure(
    *,
    tokens: tuple[int, ...] = TOKENS,
    hidden_size: int = 384,
    num_heads: int = 6,
    depth: int = 2,
    window: tuple[int, int, int] = (4, 8, 8),
    repeats: int = 1,
    threads: int = 0,
) -> dict[str, Any]:
    """Measure both forms at every number of tokens.

    Args:
        tokens: powers of 2, ascending.
        hidden_size: DiT-S's by default, as ``num_heads`` is.
        depth: layers. Their buffers are reused, so more of them take more time and no more memory.
        window: patches that each patch sees along frames, rows and columns.
        repeats, threads: see :func:`~dit_deploy.bench.graph_memory.run_graph`.

    Returns ``rows``: one for each form and number of tokens, with ``bytes``, ``seconds``, ``cpu_seconds``, and
    ``memory`` and ``time`` a token relative to the form's first row; and the arguments.

    Raises ``RuntimeError`` where a process fails, or the system has no ``/proc``.
    """
    if not has_proc():
        raise RuntimeError("memory is measured through /proc, which this system lacks")
    rows = []
    with tempfile.TemporaryDirectory(prefix="dit-deploy-spacetime-") as name:
        for form in FORMS:
            graph = _graph(Path(name), form, hidden_size, num_heads, depth, window if form == "window" else None)
            first: dict[str, Any] = {}
            for count in tokens:
                found = run_graph(graph, _feeds(_FEW), _feeds(count), repeats=repeats, threads=threads)
                row = {"form": form, "tokens": count, "grid": grid_of(count), **found}
                first = first or row
                rows.append(
                    row
                    | {
                        "memory": row["bytes"] / count / (first["bytes"] / first["tokens"]),
                        "time": row["cpu_seconds"] / count / (first["cpu_seconds"] / first["tokens"]),
                    }
                )
    size = {"hidden_size": hidden_size, "num_heads": num_heads, "depth": depth, "window": window}
    return {"rows": rows, **size, "repeats": repeats, "threads": threads}


def _graph(
    folder: Path, form: str, hidden_size: int, num_heads: int, depth: int, window: tuple[int, int, int] | None
) -> Path:
    """Export a random network and lower its attention."""
    import torch

    from dit_deploy.exporters.families._parts import mask_feeds
    from dit_deploy.exporters.families.spacetime_dit import denoiser_component
    from dit_deploy.exporters.passes.attention import lower_attention
    from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
    from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig
    from dit_deploy.exporters.tracing import trace

    torch.manual_seed(0)
    config = SpacetimeDiTConfig(
        hidden_size, depth, num_heads, _CHANNELS, _TEXT_WIDTH, _PATCH, window=window, attention="joint"
    )
    component = denoiser_component(config, {"num_train_timesteps": 1000})
    made = folder / form.replace(" ", "_")
    made.mkdir()
    trace(SpacetimeDiT(config).eval(), component, made, mask_feeds())
    model = load_graph(made / component.path)
    lower_attention(model, "microsoft")
    save_graph(model, made / "lowered.onnx")
    return made / "lowered.onnx"


def _feeds(tokens: int) -> dict[str, Any]:
    """Return the network's inputs for one sample of so many patches."""
    import numpy as np

    dice = np.random.default_rng(0)
    size = [side * patch for side, patch in zip(grid_of(tokens), _PATCH, strict=True)]
    return {
        "latents": dice.standard_normal((1, _CHANNELS, *size), np.float32),
        "timestep": np.full(1, 500, np.float32),
        "encoder_hidden_states": dice.standard_normal((1, _TEXT_TOKENS, _TEXT_WIDTH), np.float32),
        "encoder_attention_mask": np.ones((1, _TEXT_TOKENS), np.int64),
    }


def plot(found: dict[str, Any]) -> str:
    """Return the SVG of a measurement: memory and time over tokens."""

    def curves(field: str, unit: float) -> dict[str, list[tuple[float, float]]]:
        return {
            form: [(row["tokens"], row[field] / unit) for row in found["rows"] if row["form"] == form] for form in FORMS
        }

    panels = [Panel("memory of a run, MB", curves("bytes", 1e6)), Panel("processor time, s", curves("cpu_seconds", 1))]
    last = {row["form"]: row for row in found["rows"]}
    summary = "; ".join(
        f"{form}: {row['memory']:.2f} times the memory and {row['time']:.2f} times the time a token"
        for form, row in last.items()
    )
    return draw(panels, "tokens (thin line: linear)", f"SpacetimeDiT on the CPU, from fewest to most tokens. {summary}")


def text(found: dict[str, Any]) -> str:
    """Return a measurement as lines for people."""
    seen = math.prod(found["window"])
    lines = [
        f"SpacetimeDiT of width {found['hidden_size']}, {found['num_heads']} heads, {found['depth']} layers, "
        f"one sample, float32; a window of {' x '.join(map(str, found['window']))} = {seen} patches",
        f"{'':<14}{'tokens':>8}{'grid':>14}{'MB':>9}{'per token':>11}{'CPU s':>9}{'per token':>11}",
    ]
    for row in found["rows"]:
        grid = " x ".join(map(str, row["grid"]))
        lines.append(
            f"{row['form']:<14}{row['tokens']:>8}{grid:>14}{row['bytes'] / 1e6:>9,.0f}{row['memory']:>11.2f}"
            f"{row['cpu_seconds']:>9.2f}{row['time']:>11.2f}"
        )
    return "\n".join([*lines, "per token: relative to the form's first row; 1 is linear"])


def main() -> None:
    """Run from the command line. Exits with 1 where memory, or the time in windows, is not linear."""
    parser = argparse.ArgumentParser(
        prog="python -m dit_deploy.bench.spacetime_memory", description=__doc__.split("\n")[0]
    )
    option = parser.add_argument
    option("--tokens", type=int, nargs="+", default=TOKENS, help="powers of 2; default: %(default)s")
    option("--hidden-size", type=int, default=384, help="default: %(default)s")
    option("--num-heads", type=int, default=6, help="default: %(default)s")
    option("--depth", type=int, default=2, help="layers; default: %(default)s")
    option("--window", type=int, nargs=3, default=(4, 8, 8), help="frames, rows, columns; default: %(default)s")
    option(
        "--repeats", type=int, default=3, help="runs of each, of whose times the median counts; default: %(default)s"
    )
    option("--threads", type=int, default=0, help="0: as ONNX Runtime chooses; default: %(default)s")
    option("--json", type=Path, help="file to write the figures to")
    option("--plot", type=Path, help="SVG file to write the plot to")
    arguments = parser.parse_args()
    try:
        for count in arguments.tokens:
            grid_of(count)
    except ValueError as error:
        parser.error(f"--tokens: {error}")
    found = measure(
        tokens=tuple(sorted(arguments.tokens)),
        hidden_size=arguments.hidden_size,
        num_heads=arguments.num_heads,
        depth=arguments.depth,
        window=tuple(arguments.window),
        repeats=arguments.repeats,
        threads=arguments.threads,
    )
    print(text(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        arguments.plot.write_text(plot(found), encoding="utf-8")
    last = {row["form"]: row for row in found["rows"]}
    linear = [*(row["memory"] for row in last.values()), last["window"]["time"]]
    sys.exit(0 if max(linear) <= SLACK else 1)


if __name__ == "__main__":
    main()
