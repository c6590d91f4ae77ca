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

__all__ = ["check_place", "contact_sheet", "plan_files", "put_in_place", "write_pictures"]

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
    files = [out / f"{index:04d}.png" for index in range(count)] if as_folder else [out]
    check_place(files, out, overwrite=overwrite)
    return files


def check_place(files: Sequence[Path], out: Path, *, overwrite: bool) -> None:
    """Check that ``files`` may be written: ``out`` itself, or files in the folder ``out``.

    Raises :class:`InputError`: a file that exists, a name that is taken, no folder around, no permission.
    """
    around = out.absolute().parent
    if not around.is_dir():
        raise InputError(f"{out}: there is no folder {around}; make it first")
    if out not in files and os.path.lexists(out) and not out.is_dir():
        raise InputError(f"{out}: is a file; give a folder, or a name that ends in what is to be written")
    if not os.access(out if out.is_dir() else around, os.W_OK):
        raise InputError(f"{out}: cannot be written; the folder {out if out.is_dir() else around} does not permit it")
    for file in files:
        if file.is_dir():
            raise InputError(f"{file}: is a folder; give another name")
        if os.path.lexists(file) and not overwrite:
            raise InputError(f"{file} exists; give another name, or --overwrite")


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
        put_in_place(made, files, overwrite=overwrite)
    except OSError as error:
        raise InputError(f"{folder}: pictures cannot be written: {error.strerror or error}") from error
    finally:
        for part in made:
            with contextlib.suppress(OSError):
                part.unlink()


def put_in_place(parts: Sequence[Path], files: Sequence[Path], *, overwrite: bool) -> None:
    """Give written ``parts`` the names of ``files``, each in one step; :class:`InputError` where one is taken."""
    try:
        for part, file in zip(parts, files, strict=True):
            (_replace if overwrite else _place)(part, file)
    except FileExistsError as error:
        raise InputError(f"{error.filename2 or error.filename} exists; give another name, or --overwrite") from error


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
