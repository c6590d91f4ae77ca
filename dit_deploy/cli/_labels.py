"""Class labels as people type them: a number, or a name from the manifest."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from dit_deploy.errors import InputError

__all__ = ["class_indices"]


def class_indices(given: Sequence[str], labels: Mapping[str, str]) -> list[int]:
    """Return the class index of each of ``given``, a whole number or a name in ``labels`` (index → name).

    A name is compared without regard to case; where the manifest's has several, separated by commas
    (``"tench, Tinca tinca"``), any of them will do. Ranges are the pipeline's to check.

    Raises :class:`InputError` for a name that is unknown (with those like it) or stands for several classes.
    """
    named: dict[str, list[int]] = {}
    for index, name in labels.items():
        for part in dict.fromkeys((_key(name), *map(_key, name.split(",")))):
            named.setdefault(part, []).append(int(index))
    return [_index(text, named) for text in given]


def _index(text: str, named: Mapping[str, list[int]]) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    key = _key(text)
    found = named.get(key, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"--class-label {text!r} names several classes: {_listing(found)}; give the number")
    if not named:
        raise InputError(f"--class-label {text!r}: this bundle has no names for its classes; give a number")
    near = [name for name in named if key and key in name][:3]
    near += [name for name in difflib.get_close_matches(key, named, n=5, cutoff=0.5) if name not in near]
    hint = f"did you mean {', '.join(repr(name) for name in near[:5])}?" if near else _sample(named)
    raise InputError(f"--class-label {text!r} is no class of this bundle; {hint}")


def _key(name: str) -> str:
    return " ".join(name.casefold().split())


def _listing(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")


def _sample(named: Mapping[str, list[int]]) -> str:
    return f"it has {', '.join(repr(name) for name in list(named)[:5])}{', …' if len(named) > 5 else ''}"
