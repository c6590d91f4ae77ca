"""What a pipeline's folder says whatever its family, and whether its parts fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from dit_deploy.errors import SourceError
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.source import Graph

__all__ = ["Record", "check_tokens", "check_width", "learns_variance", "read_record"]


class Record(TypedDict):
    """Fields of a :class:`~dit_deploy.exporters.source.Source` that every family reads alike."""

    kind: str
    name: str
    scheduler_config: dict[str, Any]
    digest_files: tuple[Path, ...]
    float32_bytes: int


def read_record(folder: Path, *parts: str, kind: str = "diffusers_pipeline") -> Record:
    """Return what the pipeline in ``folder`` is called, how its scheduler is set, and which files its weights are.

    Args:
        parts: the folders inside whose weights the bundle holds. The bytes of the transformers' are what the source's
            SHA-256 covers.
        kind: what the manifest calls such a folder.

    Raises:
        SourceError: the scheduler's config or weights are missing, or cannot be read.
    """
    transformers = [part for part in parts if part.startswith("transformer")]
    return Record(
        kind=kind,
        name=folder.resolve().name,
        scheduler_config=files.read_json(folder / "scheduler" / "scheduler_config.json"),
        digest_files=tuple(file for part in transformers for file in files.folder_files(folder / part)),
        float32_bytes=files.float32_bytes(*(folder / part for part in parts)),
    )


def check_width(folder: Path, graph: Graph, expected: int, key: str) -> None:
    """Hold the width of a text encoder's output against the transformer's.

    Args:
        folder: the pipeline's; the encoder's folder inside is called as its graph.
        expected: what the transformer takes.
        key: where its config says so.

    Raises:
        SourceError: the two differ.
    """
    made = graph.component.outputs[0].axes[-1]
    if made != expected:
        raise SourceError(
            f"{folder / graph.name} makes {made} channels, {folder / 'transformer'} takes {expected} ({key}); they do "
            "not belong together"
        )


def learns_variance(folder: Path, config: Mapping[str, Any]) -> bool:
    """Return whether the transformer in ``folder`` predicts a variance beside the noise, in as many channels again.

    Raises:
        SourceError: it predicts another number of channels.
    """
    channels = int(config["in_channels"])
    found = int(config["out_channels"] or channels)
    if found not in (channels, 2 * channels):
        raise SourceError(
            f"{folder} predicts {found} channels; expected {channels}, or {2 * channels} with learned variance"
        )
    return found == 2 * channels


def check_tokens(tokens: int, largest: int | None = None) -> int:
    """Return a number of tokens that was chosen; :class:`SourceError` where a family's pipeline takes none such."""
    if tokens < 1 or (largest is not None and tokens > largest):
        expected = "1 or more" if largest is None else f"1 … {largest}"
        raise SourceError(f"--max-sequence-length: {tokens} came, {expected} tokens were expected")
    return tokens
