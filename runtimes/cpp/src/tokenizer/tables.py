"""Writes ``unicode.inc`` and ``entities.inc`` beside it, from Python's ``unicodedata`` and ``html``.

    python runtimes/cpp/src/tokenizer/tables.py           # writes the files
    python runtimes/cpp/src/tokenizer/tables.py --check   # 1 where a file is not what would be written now

The first line of ``unicode.inc`` names the version of Unicode; another Python may have another. Numbers are
hexadecimal, runs of characters are written as their ends.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from html.entities import html5
from pathlib import Path

__all__ = ["FOLDER", "documents"]

FOLDER = Path(__file__).resolve().parent
COMMAND = "python runtimes/cpp/src/tokenizer/tables.py"
#: As enum class Category in unicode.h has them.
CATEGORIES = (
    "Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc", "Me", "Mn", "Nd", "Nl",
    "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs",
)  # fmt: skip
#: Marks of an entry in kDecompositions, beside the character.
COMPATIBLE, NEVER_COMPOSED = 1 << 21, 1 << 22
LAST = 0x10FFFF


def documents() -> dict[str, str]:
    """Return name → what the file of that name holds."""
    return {"unicode.inc": unicode_tables(), "entities.inc": entities()}


def unicode_tables() -> str:
    """Return the tables that unicode.cpp includes."""
    singles, longer = decompositions()
    lines = [
        f"// Unicode {unicodedata.unidata_version}; written by `{COMMAND}`.",
        *array("kCategories", "a run's first character << 5 | category", categories()),
        *array("kClasses", "first, last, canonical combining class", classes()),
        *array("kSingles", "first | marks, how many, what the first becomes: itself one character", singles),
        *array("kDecompositions", "character | marks, length, characters", longer),
        *array("kLowercase", "first, last, stride, distance modulo 2^32", lowercase()),
        *array("kCased", "first, last: cased, and not of kIgnorable", pairs(lambda one: is_final(one) and cased(one))),
        *array("kIgnorable", "first, last: ignored where case is looked for", pairs(ignorable)),
    ]
    return "\n".join(lines) + "\n"


def array(name: str, what: str, numbers: Iterable[int]) -> Iterator[str]:
    """Yield the lines of a table of 32-bit numbers."""
    yield f"// {what}"
    yield f"constexpr std::uint32_t {name}[] = {{"
    line = " "
    for number in numbers:
        word = f" 0x{number:x}," if number > 9 else f" {number},"
        if len(line) + len(word) > 119:
            yield line
            line = " "
        line += word
    yield line
    yield "};"


def characters() -> range:
    """Every code point."""
    return range(LAST + 1)


def categories() -> Iterator[int]:
    """Yield where a general category begins, and which."""
    before = -1
    for code in characters():
        category = CATEGORIES.index(unicodedata.category(chr(code)))
        if category != before:
            yield code << 5 | category
        before = category


def classes() -> Iterator[int]:
    """Yield runs of a canonical combining class other than 0."""
    for first, last, value in runs(lambda code: unicodedata.combining(chr(code))):
        yield from (first, last, value)


def runs(of: Callable[[int], int]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last, value) for each run of one value other than 0."""
    first, value = 0, 0
    for code in (*characters(), LAST + 1):
        now = of(code) if code <= LAST else 0
        if now != value:
            if value:
                yield first, code - 1, value
            first, value = code, now


def pairs(holds: Callable[[str], bool]) -> Iterator[int]:
    """Yield the ends of the runs of characters for which ``holds``."""
    for first, last, _ in runs(lambda code: int(holds(chr(code)))):
        yield from (first, last)


def cased(one: str) -> bool:
    """Whether a capital sigma behind ``one`` is a final one."""
    return (one + "Σ").lower().endswith("ς")


def is_final(one: str) -> bool:
    """Whether a capital sigma behind "A" and ``one`` is a final one."""
    return ("A" + one + "Σ").lower().endswith("ς")


def ignorable(one: str) -> bool:
    """Whether ``one`` is skipped where str.lower looks for a cased character before a sigma."""
    return is_final(one) and not cased(one)


def decompositions() -> tuple[list[int], list[int]]:
    """Return decompositions by one step into one character, in runs, and into several; those of Hangul are computed."""
    singles: list[int] = []
    longer: list[int] = []
    for code in characters():
        words = unicodedata.decomposition(chr(code)).split()
        if not words:
            continue
        marks = COMPATIBLE if words[0].startswith("<") else 0
        into = [int(word, 16) for word in words if not word.startswith("<")]
        if not marks and unicodedata.normalize("NFC", chr(code)) != chr(code):
            marks |= NEVER_COMPOSED
        if len(into) > 1:
            longer += [code | marks, len(into), *into]
            continue
        if singles:
            first, count, target = singles[-3:]
            if first + count == code | marks and target + count == into[0]:
                singles[-2] += 1
                continue
        singles += [code | marks, 1, into[0]]
    return singles, longer


def lowercase() -> Iterator[int]:
    """Yield runs of characters whose lower case is as far from them, which is one character but for U+0130."""
    found: list[list[int]] = []  # first, last, stride, distance
    for code in characters():
        lower = chr(code).lower()
        if lower == chr(code):
            continue
        if len(lower) > 1:
            assert code == 0x130, hex(code)
            continue
        distance = ord(lower) - code
        if found and found[-1][3] == distance:
            first, last, stride, _ = found[-1]
            if (first == last and code - last <= 2) or (first != last and code - last == stride):
                found[-1] = [first, code, code - last, distance]
                continue
        found.append([code, code, 1, distance])
    for first, last, stride, distance in found:
        yield from (first, last, stride, distance % (1 << 32))


def entities() -> str:
    """Return HTML's named characters as one text of "name=code,code " words."""
    lines = [f"// HTML 5's named characters; written by `{COMMAND}`.", "constexpr char kEntities[] ="]
    line = ""
    for name, text in sorted(html5.items()):
        word = f"{name}={','.join(f'{ord(one):x}' for one in text)} "
        if len(line) + len(word) > 112:
            lines.append(f'    "{line}"')
            line = ""
        line += word
    return "\n".join([*lines, f'    "{line}";']) + "\n"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file is not current")
    check = parser.parse_args().check
    status = 0
    for name, text in documents().items():
        path = FOLDER / name
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not current; run `{COMMAND}`")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
