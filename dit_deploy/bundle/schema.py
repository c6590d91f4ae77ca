"""The JSON schemas of ``manifest.json`` and ``engine.json``: ``python -m dit_deploy.bundle.schema`` writes both."""

from __future__ import annotations

import json
from pathlib import Path

from .engine import EngineRecord
from .manifest import Manifest

__all__ = ["ENGINE_PATH", "PATH", "schema_text"]

PATH = Path(__file__).with_name("manifest.schema.json")
ENGINE_PATH = Path(__file__).with_name("engine.schema.json")


def schema_text(record: type[Manifest] | type[EngineRecord] = Manifest) -> str:
    """Return the schema as indented JSON that ends in a newline, the same on every machine."""
    return json.dumps(record.json_schema(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for path, record in ((PATH, Manifest), (ENGINE_PATH, EngineRecord)):
        path.write_text(schema_text(record), encoding="utf-8", newline="\n")
        print(f"wrote {path}")
