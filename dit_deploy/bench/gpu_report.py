"""What the GPU benchmark found, as a table in Markdown and as JSON values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dit_deploy.bench.timing import Timing

__all__ = ["GpuReport", "Row"]

_FORMAT = "dit-deploy-bench-gpu"


@dataclass(frozen=True)
class Row:
    """One candidate at one size and batch.

    ``ratio`` is to PyTorch eager, below 1 is faster; ``difference`` is that of the latents from PyTorch eager's, which
    tells something where both have the same weights (``--build``).
    """

    size: int
    batch: int
    candidate: str
    timing: Timing
    ratio: float
    difference: float | None
    flops: float
    steps: int

    @property
    def tera(self) -> float:
        """TFLOP/s."""
        return self.flops / self.timing.median / 1e12


@dataclass
class GpuReport:
    """What was measured. ``absent``: (size, batch, candidate) → why it was not."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    ceiling: list[float] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    absent: dict[tuple[int, int, str], str] = field(default_factory=dict)

    @property
    def ceiling_tera(self) -> float:
        """TFLOP/s of a large product of matrices, the best of what was measured before and after."""
        return max(self.ceiling)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; times in seconds."""
        return {
            "format": _FORMAT,
            "version": 1,
            "settings": self.settings,
            "machine": self.machine,
            "ceiling_tflops": self.ceiling,
            "rows": [
                {
                    "size": row.size,
                    "batch": row.batch,
                    "candidate": row.candidate,
                    "run": row.timing.to_dict(),
                    "ratio": row.ratio,
                    "difference": row.difference,
                    "tflops": row.tera,
                    "share": row.tera / self.ceiling_tera,
                }
                for row in self.rows
            ],
            "absent": [
                {"size": size, "batch": batch, "candidate": candidate, "reason": reason}
                for (size, batch, candidate), reason in self.absent.items()
            ],
        }

    def markdown(self) -> str:
        """Return the table."""
        settings = self.settings
        lines = [
            f"{settings['model']}, {settings['precision']}, {settings['steps']} DDIM steps with guidance, on "
            f"{settings['gpu']}; matmul ceiling {self.ceiling_tera:.3g} TFLOP/s "
            f"({settings['ceiling_size']}³); medians of {settings['rounds']} rounds",
            ", ".join(f"{name} {version}" for name, version in self.machine["versions"].items()),
            "",
            "| pixels | batch | | run | ratio | a step | pictures/s | TFLOP/s | of the ceiling | differs by |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            seconds, difference = row.timing.median, "–" if row.difference is None else f"{row.difference:.0e}"
            lines.append(
                f"| {row.size}² | {row.batch} | {row.candidate} | {seconds:.3g} s | {row.ratio:.2f} | "
                f"{seconds / row.steps * 1000:.3g} ms | {row.batch / seconds:.3g} | {row.tera:.3g} | "
                f"{row.tera / self.ceiling_tera:.0%} | {difference} |"
            )
        for (size, batch, candidate), reason in self.absent.items():
            lines.append(f"| {size}² | {batch} | {candidate} | {reason} | | | | | | |")
        return "\n".join(lines)
