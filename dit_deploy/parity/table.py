"""A parity report for a terminal."""

from __future__ import annotations

import math

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dit_deploy.parity.report import ParityReport, Run

__all__ = ["report_table"]


def report_table(report: ParityReport) -> Group:
    """Return a row for each component's output, one for each generation (last and worst error), and the verdict."""
    limits = report.limits
    heads = ("component", "output", "size", "largest difference", "relative", "cosine")
    components = Table(*heads, box=None, pad_edge=False)
    for row in report.components:
        shape = "×".join(map(str, row.shape))
        components.add_row(
            row.component,
            row.output,
            shape,
            f"{row.largest:.2e}",
            _mark(f"{row.relative:.2e}", row.relative <= limits.component),
            f"{row.cosine:.7f}",
        )
    runs = Table("generation", "steps", "latents", "worst", "PSNR", "SSIM", "pixel, 1/255", box=None, pad_edge=False)
    for run in report.runs:
        runs.add_row(*_run_row(run, report))
    if report.passed:
        verdict = Text(f"parity: within the limits of {limits.precision}", style="bold green")
    else:
        verdict = Text(f"parity: beyond the limits of {limits.precision}: {report.first_excess}", style="bold red")
    limit_line = Text(
        f"limits: components {limits.component:g}, latents {limits.latents:g}, PSNR {limits.psnr:g} dB, "
        f"pixel {limits.picture:g}/255",
        style="dim",
    )
    ran = [Text(line, style="dim") for run in report.runs for line in _said(run)]
    notes = [Text(note, style="yellow") for note in report.notes]
    return Group(components, Text(), runs, Text(), *ran, limit_line, *notes, verdict)


def _said(run: Run) -> list[str]:
    """Return what ran, and from which pictures, a line each."""
    pictures = [f"{name} {run.settings[name]}" for name in ("image", "last_image") if name in run.settings]
    lines = [f"{run.name} in PyTorch: {run.implementation}"]
    if pictures:
        lines.append(f"{run.name}: {'; '.join(pictures)}")
    if run.conditions:
        made = ", ".join(f"{name} {error:.2e}" for name, error in run.conditions.items())
        lines.append(f"{run.name}, relative difference of what is made of the pictures: {made}")
    return lines


def _run_row(run: Run, report: ParityReport) -> list[Text | str]:
    limits = report.limits
    worst = max(run.accumulated)
    cells: list[Text | str] = [
        run.name,
        str(run.steps),
        _mark(f"{run.accumulated[-1]:.2e}", run.accumulated[-1] <= limits.latents),
        _mark(f"{worst:.2e}", worst <= limits.latents),
    ]
    if not run.pictures:
        return [*cells, "none", "none", "none"]
    psnr, pixel = min(picture.psnr for picture in run.pictures), max(picture.largest for picture in run.pictures)
    return [
        *cells,
        _mark(f"{psnr:.1f} dB" if math.isfinite(psnr) else "equal" if psnr > 0 else "not finite", psnr >= limits.psnr),
        f"{min(picture.ssim for picture in run.pictures):.6f}",
        _mark(f"{pixel:.3g}", pixel <= limits.picture),
    ]


def _mark(text: str, fine: bool) -> Text:
    return Text(text, style="" if fine else "bold red")
