"""The JSON schema of the manifest: ``python -m dit_deploy.bundle.schema`` writes ``manifest.schema.json``."""

from __future__ import annotations

import json
from pathlib import Path

from .manifest import Manifest

__all__ = ["PATH", "schema_text"]

PATH = Path(__file__).with_name("manifest.schema.json")


def schema_text() -> str:
    """Return the schema as indented JSON that ends in a newline, the same on every machine."""
    return json.dumps(Manifest.json_schema(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema_text(), encoding="utf-8", newline="\n")
    print(f"wrote {PATH}")
