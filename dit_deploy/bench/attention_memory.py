"""How a denoiser's memory on the CPU grows with tokens, with attention as ONNX's operator and as MultiHeadAttention.

    python -m dit_deploy.bench.attention_memory

A DiT of a few random layers is exported once and lowered to each form (see
:mod:`dit_deploy.exporters.passes.attention`). Each measurement is a process of its own, see
:mod:`dit_deploy.bench.graph_memory`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

from dit_deploy.bench.graph_memory import available_bytes, has_proc, run_graph

__all__ = ["FORMS", "SLACK", "measure"]

FORMS = ("onnx", "microsoft")
TOKENS = (1024, 4096, 16384)

#: Linear is: memory per token at the most tokens is at most this many times that at the fewest.
SLACK = 1.25

_FEW = 16  # tokens of the run that belongs to the baseline
_PATCH = 2


def measure(
    *,
    tokens: tuple[int, ...] = TOKENS,
    hidden_size: int = 768,
    num_heads: int = 12,
    depth: int = 2,
    batch: int = 1,
    forms: tuple[str, ...] = FORMS,
) -> dict[str, Any]:
    """Measure every form at every number of tokens.

    Args:
        tokens: square numbers, ascending.
        hidden_size: DiT-B's by default, as ``num_heads`` is.
        depth: layers. Their buffers are reused, so more of them take more time and no more memory.
        batch: samples in one call.
        forms: of :func:`~dit_deploy.exporters.passes.attention.lower_attention`.

    Returns ``rows``: one for each form and number of tokens, with ``bytes``, ``seconds`` and ``linear`` (memory per
    token relative to the form's first row), or with ``estimate`` (bytes) where the scores would take more
    than half of the free memory, which is then not tried; and the arguments.

    Raises ``RuntimeError`` where a process fails, or the system has no ``/proc``.
    """
    if not has_proc():
        raise RuntimeError("memory is measured through /proc, which this system lacks")
    with tempfile.TemporaryDirectory(prefix="dit-deploy-attention-") as name:
        graphs = _graphs(Path(name), hidden_size, num_heads, depth, max(tokens), forms)
        rows = []
        for form in forms:
            first: float | None = None
            for count in tokens:
                row: dict[str, Any] = {"form": form, "tokens": count}
                scores = 4 * batch * num_heads * count * count
                if form == "onnx" and scores > available_bytes() / 2:
                    rows.append(row | {"estimate": scores})
                    continue
                row |= run_graph(graphs[form], _feeds(_FEW, batch), _feeds(count, batch))
                first = row["bytes"] / count if first is None else first
                rows.append(row | {"linear": row["bytes"] / count / first})
    size = {"hidden_size": hidden_size, "num_heads": num_heads, "depth": depth, "batch": batch}
    return {"rows": rows, **size}


def _graphs(
    folder: Path, hidden_size: int, num_heads: int, depth: int, tokens: int, forms: tuple[str, ...]
) -> dict[str, Path]:
    """Export a random DiT and write each form of it."""
    import torch

    from dit_deploy.exporters.families.dit import DiT, DiTConfig, denoiser_component
    from dit_deploy.exporters.passes.attention import lower_attention
    from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
    from dit_deploy.exporters.tracing import trace

    torch.manual_seed(0)
    side = _PATCH * math.isqrt(tokens)
    config = DiTConfig(hidden_size=hidden_size, depth=depth, num_heads=num_heads, sample_size=side)
    component = denoiser_component(config, num_train_timesteps=1000)
    trace(DiT(config).eval(), component, folder)
    written = {}
    for form in forms:
        model = load_graph(folder / component.path)
        lower_attention(model, form)  # type: ignore[arg-type]
        written[form] = folder / f"{form}.onnx"
        save_graph(model, written[form])
    return written


def _feeds(tokens: int, batch: int) -> dict[str, Any]:
    """Return the DiT's inputs for a square picture of ``tokens`` patches."""
    import numpy as np

    side = _PATCH * math.isqrt(tokens)
    latents = np.random.default_rng(0).standard_normal((batch, 4, side, side), np.float32)
    return {"latents": latents, "timestep": np.full(batch, 500, np.float32), "class_labels": np.zeros(batch, int)}


def text(found: dict[str, Any]) -> str:
    """Return a measurement as lines for people."""
    lines = [
        f"DiT of width {found['hidden_size']}, {found['num_heads']} heads, {found['depth']} layers, "
        f"batch {found['batch']}, float32",
        f"{'form':<12}{'tokens':>8}{'MB':>10}{'per token':>12}{'seconds':>10}",
    ]
    for row in found["rows"]:
        start = f"{row['form']:<12}{row['tokens']:>8}"
        if "estimate" in row:
            lines.append(f"{start}   not run: the scores alone would take {row['estimate'] / 1e6:,.0f} MB")
        else:
            lines.append(f"{start}{row['bytes'] / 1e6:>10,.0f}{row['linear']:>12.2f}{row['seconds']:>10.1f}")
    return "\n".join([*lines, "per token: relative to the form's first row; 1 is linear"])


def main() -> None:
    """Run from the command line. Exits with 1 where MultiHeadAttention's memory is not linear."""
    parser = argparse.ArgumentParser(
        prog="python -m dit_deploy.bench.attention_memory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="square numbers; default: %(default)s")
    parser.add_argument("--hidden-size", type=int, default=768, help="default: %(default)s")
    parser.add_argument("--num-heads", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=2, help="layers; default: %(default)s")
    parser.add_argument("--batch", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if any(count < _FEW or math.isqrt(count) ** 2 != count for count in arguments.tokens):
        parser.error(f"--tokens: {arguments.tokens} came, expected square numbers of at least {_FEW}")
    found = measure(
        tokens=tuple(sorted(arguments.tokens)),
        hidden_size=arguments.hidden_size,
        num_heads=arguments.num_heads,
        depth=arguments.depth,
        batch=arguments.batch,
    )
    print(json.dumps(found, indent=1) if arguments.json else text(found))
    linear = [row["linear"] for row in found["rows"] if row["form"] == "microsoft"]
    sys.exit(0 if max(linear) <= SLACK else 1)


if __name__ == "__main__":
    main()
