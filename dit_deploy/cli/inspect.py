"""``dit-deploy inspect``: what a bundle says about itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dit_deploy.cli._console import print_results
from dit_deploy.cli._engines import describe_engine
from dit_deploy.cli._options import BundleFolder
from dit_deploy.cli._video_facts import describe_video
from dit_deploy.errors import BundleError

if TYPE_CHECKING:
    from dit_deploy.bundle import Bundle

__all__ = ["inspect"]


def inspect(
    bundle: BundleFolder,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is in a bundle.

    Model, inputs and outputs, sampler, sizes, engines, parity reports.

    Sizes of files are checked, hashes are not: see verify.
    """
    from dit_deploy.bundle import Bundle, summarise

    opened = Bundle.open(bundle)
    facts = summarise(opened)
    if not json_:
        engines = {name: _engine_lines(opened, name) for name in facts["engines"]}
        _print(facts, engines, describe_video(opened.manifest))
        return
    from dit_deploy.runtimes.fit import unfit

    for name, engine in facts["engines"].items():
        if "error" not in engine:
            engine["unfit"] = unfit(opened.engine(name).record)
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))


def _engine_lines(bundle: Bundle, name: str) -> list[str]:
    try:
        return describe_engine(bundle.engine(name))
    except BundleError as error:
        return [str(error)]


def _print(facts: dict[str, Any], engines: dict[str, list[str]], video: dict[str, str]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    latents, source, guidance, scheduler = (facts[name] for name in ("latents", "source", "guidance", "scheduler"))
    compression, patch = latents["spatial_compression"], latents["patch_size"]
    pixels = f"{latents['height'] * compression} × {latents['width'] * compression}"
    frames = "" if latents["frames"] is None else f"{latents['frames']} frames, "
    rows = {
        "bundle": facts["path"],
        "family": f"{facts['family']}, {facts['labels']} labels" if facts["labels"] else facts["family"],
        "source": f"{source['name']} ({source['kind']}), SHA-256 {source['sha256']}",
        "made by": f"{facts['created_by']}, manifest version {facts['version']}",
        "pictures": f"{pixels} pixels in training; height and width are multiples of {patch * compression}",
        **video,
        "latents": f"{latents['channels']} channels, {frames}{latents['height']} × {latents['width']}, patch size "
        + (f"{latents['temporal_patch_size']} × {patch} × {patch}" if frames else str(patch)),
        "predicts": _words(facts["prediction"]),
        "guidance": _words(guidance),
        "scheduler": f"{scheduler['class']}, {scheduler['num_inference_steps']} steps",
        "size": f"{facts['size'] / 1e6:.1f} MB in {facts['files']} files",
        "engines": ", ".join(facts["engines"]) or "none; the plain graphs run in ONNX Runtime",
        "parity": ", ".join(facts["parity"]) or "no report; `dit-deploy parity` writes one",
        "digest": facts["digest"],
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for name, component in facts["components"].items():
        table.add_row()
        table.add_row(name, f"{component['path']}, {component['size'] / 1e6:.1f} MB")
        for line in component["inputs"]:
            table.add_row("", f"← {line}")
        for line in component["outputs"]:
            table.add_row("", f"→ {line}")
    for name, lines in engines.items():
        table.add_row()
        for row, line in enumerate(lines):
            table.add_row("" if row else f"engine {name}", line)
    print_results(table)


def _words(record: dict[str, Any]) -> str:
    """Write a small record for people: ``epsilon, timestep_unit training_index``."""
    first, *rest = record.items()
    texts = [str(first[1])]
    for name, value in rest:
        if value in (None, False, {}):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        texts.append(name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}")
    return ", ".join(texts)
