"""Messages on one line."""

from __future__ import annotations

import pytest

from dit_deploy.text import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b\tc ", "a b c"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("x" * 301, "x" * 299 + "…"),
        (OSError(2, "no"), "[Errno 2] no"),
    ],
)
def test_one_line(text: object, line: str) -> None:
    assert one_line(text) == line


def test_no_limit() -> None:
    assert one_line("x" * 1000, limit=None) == "x" * 1000
