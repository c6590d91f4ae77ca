"""Text for messages: always one line, whatever came."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: object, limit: int | None = 300) -> str:
    """Return ``text`` with every run of white space as one space, cut at ``limit`` characters (``None``: never).

    Control characters (a file's name may hold some) are written out as escapes.
    """
    joined = " ".join(str(text).split())
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"
