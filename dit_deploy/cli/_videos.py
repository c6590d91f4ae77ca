"""Where videos go: one file, a numbered folder of files, or the pictures of one; written whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dit_deploy.cli._pictures import check_place, contact_sheet, plan_files, put_in_place, write_pictures
from dit_deploy.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["VIDEO_SUFFIXES", "plan_videos", "write_videos"]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".gif", ".webp")


def plan_videos(out: Path, videos: int, frames: int, *, grid: bool, overwrite: bool) -> list[Path]:
    """Return the files that will be written, checked before any work is done.

    One video goes into a file, or picture by picture (0000.png, …) into a folder; several go into a folder as 0000.mp4,
    …; with ``grid`` all pictures go on one contact sheet, a row for each video.

    Raises :class:`InputError` as :func:`plan_files` does, and where what writes such a file is not installed.
    """
    from dit_deploy.runtimes.video import check_video_library

    suffix = out.suffix.lower()
    if grid:
        return plan_files(out, 1, grid=True, overwrite=overwrite)
    if suffix and not out.is_dir():
        if suffix not in VIDEO_SUFFIXES:
            known = ", ".join(VIDEO_SUFFIXES)
            raise InputError(f"{out}: {suffix} holds no video; give {known}, a folder, or --grid with a picture's name")
        if videos > 1:
            raise InputError(f"{out}: {videos} videos do not fit into one file; give a folder, or add --grid")
        check_video_library(out)
        check_place([out], out, overwrite=overwrite)
        return [out]
    if videos == 1:
        return plan_files(out, frames, grid=False, overwrite=overwrite)
    files = [out / f"{index:04d}.mp4" for index in range(videos)]
    check_video_library(files[0])
    check_place(files, out, overwrite=overwrite)
    return files


def write_videos(
    videos: Sequence[Sequence[Image.Image]], files: Sequence[Path], frame_rate: float, *, grid: bool, overwrite: bool
) -> None:
    """Write videos to the files that :func:`plan_videos` named.

    Raises :class:`InputError` where a file has come into being since, or cannot be written.
    """
    if grid:
        sheet = contact_sheet([picture for video in videos for picture in video], columns=len(videos[0]))
        write_pictures([sheet], files, overwrite=overwrite)
        return
    if files[0].suffix.lower() not in VIDEO_SUFFIXES:
        write_pictures(videos[0], files, overwrite=overwrite)
        return
    from dit_deploy.runtimes.video import write_video

    made: list[Path] = []
    try:
        files[0].parent.mkdir(exist_ok=True)
        for video, file in zip(videos, files, strict=True):
            made.append(file.with_name(f".{secrets.token_hex(4)}.part{file.suffix}"))
            write_video(video, made[-1], frame_rate)
        put_in_place(made, files, overwrite=overwrite)
    except OSError as error:
        raise InputError(f"{files[0].parent}: videos cannot be written: {error.strerror or error}") from error
    finally:
        for part in made:
            with contextlib.suppress(OSError):
                part.unlink()
