"""What the C++ tests of tokenizers read is what the libraries say now; and so are the tables of Unicode."""

import importlib.util
import unicodedata

import pytest

from tests.runtimes.cpp import golden_tokenizers
from tests.runtimes.cpp.golden_tokenizers import ROOT

TABLES = ROOT / "runtimes" / "cpp" / "src" / "tokenizer"


def test_the_committed_files_are_what_the_script_writes() -> None:
    assert golden_tokenizers.check() == []


def test_the_committed_files_are_small() -> None:
    assert sum(path.stat().st_size for path in golden_tokenizers.FOLDER.iterdir()) < 300_000


def test_the_committed_tables_are_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("tables", TABLES / "tables.py")
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    committed = (TABLES / "unicode.inc").read_text(encoding="utf-8")
    if unicodedata.unidata_version not in committed.partition("\n")[0]:
        pytest.skip(f"this Python has Unicode {unicodedata.unidata_version}; {committed.partition(chr(10))[0]}")
    for name, text in tables.documents().items():
        assert (TABLES / name).read_text(encoding="utf-8") == text
