"""Where pictures go: one file, a numbered folder or one contact sheet, each written whole or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_deploy.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["contact_sheet", "plan_files", "write_pictures"]

#: Suffix → what PIL is asked for. JPEG and WebP at their defaults would blur what a user compares.
_FORMATS: dict[str, tuple[str, dict[str, object]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95}),
    ".jpeg": ("JPEG", {"quality": 95}),
    ".webp": ("WEBP", {"quality": 95}),
}
_GAP = 2  # pixels between the pictures of a contact sheet


def plan_files(out: Path, count: int, *, grid: bool, overwrite: bool) -> list[Path]:
    """Return the file of each picture (one file for a contact sheet), checked before any work is done.

    ``out`` is a file (.png, .jpg, .webp) or, without a suffix or where it is a folder already, a folder of
    0000.png, 0001.png, … which is made when the pictures are there.

    Raises :class:`InputError`: several pictures for one file, another suffix, a file that exists, no folder around.
    """
    suffix = out.suffix.lower()
    as_folder = out.is_dir() or not suffix
    if not as_folder and suffix not in _FORMATS:
        raise InputError(f"{out}: {suffix} is not written; give a .png, .jpg or .webp file, or a folder")
    if grid and as_folder:
        raise InputError(f"{out}: --grid makes one picture; give a .png, .jpg or .webp file")
    if count > 1 and not (as_folder or grid):
        raise InputError(f"{out}: {count} pictures do not fit into one file; give a folder, or add --grid")
    around = out.absolute().parent
    if not around.is_dir():
        raise InputError(f"{out}: there is no folder {around}; make it first")
    if as_folder and os.path.lexists(out) and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder, or a .png, .jpg or .webp file")
    if not os.access(out if out.is_dir() else around, os.W_OK):
        raise InputError(f"{out}: cannot be written; the folder {out if out.is_dir() else around} does not permit it")
    files = [out / f"{index:04d}.png" for index in range(count)] if as_folder else [out]
    for file in files:
        if file.is_dir():
            raise InputError(f"{file}: is a folder; give another name")
        if os.path.lexists(file) and not overwrite:
            raise InputError(f"{file} exists; give another name, or --overwrite")
    return files


def write_pictures(pictures: Sequence[Image.Image], files: Sequence[Path], *, overwrite: bool) -> None:
    """Write each picture to its file: all are written beside first, then each is put in place in one step.

    Raises :class:`InputError` where a file has come into being since it was planned, or cannot be written.
    """
    folder = files[0].parent
    made: list[Path] = []
    try:
        folder.mkdir(exist_ok=True)
        for picture, file in zip(pictures, files, strict=True):
            kind, options = _FORMATS[file.suffix.lower()]
            made.append(file.with_name(f".{file.name}.{secrets.token_hex(4)}.part"))
            with made[-1].open("xb") as stream:
                picture.save(stream, kind, **options)
        for part, file in zip(made, files, strict=True):
            (_replace if overwrite else _place)(part, file)
    except FileExistsError as error:
        raise InputError(f"{error.filename2 or error.filename} exists; give another name, or --overwrite") from error
    except OSError as error:
        raise InputError(f"{folder}: pictures cannot be written: {error.strerror or error}") from error
    finally:
        for part in made:
            with contextlib.suppress(OSError):
                part.unlink()


def _replace(part: Path, file: Path) -> None:
    os.replace(part, file)


def _place(part: Path, file: Path) -> None:
    """Rename without replacing; a file system that has no links gets the check and the rename in two steps."""
    try:
        os.link(part, file)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(file):
            raise FileExistsError(17, "exists", str(file)) from None
        os.replace(part, file)


def contact_sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Return one picture of all, row by row, ``columns`` wide (nearly square by default), two white pixels apart."""
    from PIL import Image

    columns = min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    width, height = pictures[0].size
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    sheet = Image.new(pictures[0].mode, size, "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + _GAP), row * (height + _GAP)))
    return sheet
