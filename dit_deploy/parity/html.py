"""A parity report as one HTML page: nothing is fetched, so it can be sent, archived and read without a network."""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path

from dit_deploy.errors import InputError
from dit_deploy.files import replace_file
from dit_deploy.parity.limits import Limits
from dit_deploy.parity.numerals import decibels, scientific, significant
from dit_deploy.parity.pictures import amplification, amplified, data_uri
from dit_deploy.parity.plot import error_plot
from dit_deploy.parity.report import ComponentError, ParityReport, Run
from dit_deploy.parity.style import STYLE
from dit_deploy.text import one_line

__all__ = ["report_page", "write_report"]

#: Pictures up to this side are enlarged with visible pixels instead of being blurred.
_SMALL = 160


def write_report(report: ParityReport, folder: str | os.PathLike[str]) -> Path:
    """Write ``index.html`` into ``folder`` and return its path.

    The folder is made where it is missing; an older ``index.html`` is replaced at once, other files stay.

    Raises:
        InputError: ``folder`` is a file, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"report: {folder} is a file; give a folder, which may exist")
    path = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, report_page(report).encode("utf-8"))
    except OSError as error:
        raise InputError(f"report: {folder} cannot be written: {one_line(error.strerror or error)}") from error
    return path


def report_page(report: ParityReport) -> str:
    """Return the page."""
    bundle = escape(report.subject.get("bundle", "bundle"))
    sections = [
        f'<p class="kind">dit-deploy parity report</p><h1>{bundle}</h1>',
        _verdict(report),
        *(f'<p class="note">{escape(note)}</p>' for note in report.notes),
        _subject(report),
        *(_run(run, index, report) for index, run in enumerate(report.runs)),
        _components(report),
        _limits(report.limits),
    ]
    title = f"{bundle}: parity {'passed' if report.passed else 'failed'}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(report: ParityReport) -> str:
    if report.passed:
        return (
            '<p class="verdict passed"><strong>Passed.</strong> '
            f"Every value is within the limits of {escape(report.limits.precision)}. {escape(_summary(report))}</p>"
        )
    excess = str(report.first_excess)
    return (
        f'<p class="verdict failed"><strong>Failed.</strong> Beyond the limits of {escape(report.limits.precision)}, '
        f"first here: {escape(excess)}.</p>"
    )


def _summary(report: ParityReport) -> str:
    """Say the worst of each kind in one sentence."""
    parts = []
    if report.components:
        parts.append(f"components differ by at most {scientific(max(row.relative for row in report.components))}")
    if report.runs:
        worst = max(max(run.accumulated) for run in report.runs)
        parts.append(f"latents by {scientific(worst)} of their largest value")
    pictures = [picture for run in report.runs for picture in run.pictures]
    if pictures:
        parts.append(f"pictures by {significant(max(picture.largest for picture in pictures))}/255")
    sentence = ", ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _subject(report: ParityReport) -> str:
    subject = dict(report.subject)
    rows = []
    for name, text in subject.items():
        if name.endswith("sha256"):
            continue
        digest = subject.get(f"{name} sha256")
        code = f' <code title="SHA-256 {escape(digest)}">{escape(digest[:12])}</code>' if digest else ""
        if name == "date":
            text = text.replace("T", " ").replace("+00:00", " UTC")
        rows.append(f"<dt>{escape(name.capitalize())}</dt><dd>{escape(text)}{code}</dd>")
    return "<h2>What was compared</h2>\n<dl>" + "\n".join(rows) + "</dl>"


def _run(run: Run, index: int, report: ParityReport) -> str:
    limit = report.limits.latents
    details = "".join(
        _row([str(step), f"{run.timesteps[step - 1]:g}" if step else "", scientific(error),
              scientific(run.single_step[step - 1]) if step else ""], numbers=range(4))
        for step, error in enumerate(run.accumulated)
    )  # fmt: skip
    settings = ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in run.settings.items())
    parts = [
        f"<h2>{escape(run.name.capitalize())}, step by step</h2>",
        "<p>Both sides start from the same seed and go on from their own latents. "
        f"In PyTorch ran {escape(run.implementation)}. "
        f'<span class="soft">{escape(settings[:1].upper() + settings[1:])}.</span></p>',
        _conditions(run, report.limits.component),
        f'<p class="note">The engine’s run ended early: {escape(run.failure)}</p>' if run.failure else "",
        '<ul class="key"><li><svg viewBox="0 0 36 12" aria-hidden="true"><polyline class="accumulated" '
        'points="0,6 36,6"/></svg>accumulated: each side goes on from its own latents</li>'
        '<li><svg viewBox="0 0 36 12" aria-hidden="true"><polyline class="single" points="0,6 36,6"/></svg>'
        "single step: what the engine’s denoiser adds in one step from PyTorch’s latents</li></ul>",
        '<figure class="plot"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Plot of the error, {escape(run.name)}">'
        f"{error_plot(run, limit, f'plot{index}')}</div></figure>",
        "<details><summary>The same as numbers</summary>"
        + _table("", ("steps done", "timestep", "accumulated", "single step"), [details], range(4))
        + "</details>",
        _pictures(run, report.limits),
    ]
    return "\n".join(part for part in parts if part)


def _conditions(run: Run, limit: float) -> str:
    """Say how far apart both sides are in what they make of given pictures."""
    made = [f"{escape(name)} {_mark(scientific(error), error <= limit)}" for name, error in run.conditions.items()]
    return f"<p>Made of the pictures, relative difference: {', '.join(made)}.</p>" if made else ""


def _setting(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pictures(run: Run, limits: Limits) -> str:
    if run.images is None or run.reference_images is None:
        return ""
    factor = amplification(run.images, run.reference_images)
    times = "no difference" if factor is None else f"difference × {significant(factor)}"
    figures = []
    for picture, image, reference in zip(run.pictures, run.images, run.reference_images, strict=True):
        name = picture.name or f"class {picture.label}"
        small = ' class="small"' if max(image.shape[:2]) <= _SMALL else ""
        size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
        trio = "".join(
            f'<div><img{small} {size} src="{data_uri(pixels)}" alt="{escape(f"{name}: {alt}")}">'
            f"<span>{escape(what)}</span></div>"
            for pixels, alt, what in (
                (reference, "drawn by PyTorch", "PyTorch"),
                (image, "drawn by the engine", "engine"),
                (amplified(image, reference, factor), times, times),
            )
        )
        numbers = (
            f"PSNR {_mark(decibels(picture.psnr), picture.psnr >= limits.psnr)}, SSIM {picture.ssim:.6f}, "
            f"largest difference {_mark(f'{significant(picture.largest)}/255', picture.largest <= limits.picture)}"
        )
        figures.append(
            f'<figure><div class="trio">{trio}</div><figcaption><b>{escape(name)}</b>: {numbers}</figcaption></figure>'
        )
    large = "" if max(run.images.shape[1:3]) <= _SMALL else " large"
    return f'<h3>Pictures</h3>\n<div class="pictures{large}">{"".join(figures)}</div>'


def _components(report: ParityReport) -> str:
    limit = report.limits.component
    bodies = []
    for name, rows in groupby(report.components, key=lambda row: row.component):
        bodies.append("".join(_component_row(row, "" if index else name, limit) for index, row in enumerate(rows)))
    heads = ("component", "output", "shape", "largest difference", "÷ largest value", "cosine")
    caption = (
        "Random inputs in the declared ranges, timesteps spread over theirs; "
        f"the limit is {scientific(limit)} of the largest value."
    )
    return f"<h2>Components</h2>\n{_table(caption, heads, bodies, range(3, 6))}"


def _component_row(row: ComponentError, name: str, limit: float) -> str:
    cells = [
        escape(name.replace("_", " ")),
        escape(row.output),
        " × ".join(map(str, row.shape)),
        scientific(row.largest),
        _mark(scientific(row.relative), row.relative <= limit),
        f"{row.cosine:.7f}",
    ]
    return _row(cells, numbers=range(3, 6), head=bool(name))


def _limits(limits: Limits) -> str:
    rows = "".join(
        f"<dt>{name}</dt><dd>{value}</dd>"
        for name, value in (
            ("Components", f"{scientific(limits.component)} of the output’s largest value"),
            ("Latents", f"{scientific(limits.latents)} of their largest value, after every step"),
            ("PSNR", f"at least {limits.psnr:g} dB"),
            ("Pixels", f"at most {limits.picture:g}/255 apart"),
        )
    )
    return f"<h2>Limits of {escape(limits.precision)}</h2>\n<dl>{rows}</dl>"


def _table(caption: str, heads: Iterable[str], bodies: Iterable[str], numbers: range) -> str:
    head = "".join(
        f'<th scope="col"{" class=number" if index in numbers else ""}>{escape(text)}</th>'
        for index, text in enumerate(heads)
    )
    body = "".join(f"<tbody>{rows}</tbody>" for rows in bodies)
    label = escape(caption) or "Numbers of the plot"
    shown = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>{shown}'
        f"<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _row(cells: list[str], numbers: range, head: bool = False) -> str:
    """Return a table row of ready HTML cells, the first a head where it names what follows."""
    parts = []
    for index, cell in enumerate(cells):
        tag = "th" if index == 0 and head else "td"
        attribute = ' scope="row"' if tag == "th" else " class=number" if index in numbers else ""
        parts.append(f"<{tag}{attribute}>{cell}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def _mark(text: str, fine: bool) -> str:
    """Return a value, marked where it is beyond its limit."""
    return text if fine else f'<span class="excess">{text}</span>'
