"""Videos on their way in and out: files ↔ float arrays in 0 … 1, by PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.runtimes.images import read_images

__all__ = ["VideoInput", "check_video_library", "read_video", "write_video"]

Floats = NDArray[np.float32]
VideoInput = str | Path | NDArray[Any] | Sequence["str | Path | Image.Image"]


def read_video(
    video: VideoInput, *, multiple: int, channels: int, frames: int | None, height: int | None, width: int | None
) -> Floats:
    """Return a video as [1, channels, frames, height, width] in 0 … 1.

    Args:
        video: a file that FFmpeg reads, a list of pictures (files or PIL images), or an array [frames, height, width,
            channels] (uint8, or float in 0 … 1).
        frames: how many of its first pictures to take; ``None``: all.
        height, width: checked sizes in pixels to which pictures are resized by Lanczos; ``None``: their own, rounded
            down to ``multiple``.

    Raises:
        InputError: it cannot be read, has no pictures or fewer than ``frames``, or an array is of another shape.
    """
    pictures: Any = _decoded(Path(video), frames) if isinstance(video, (str, Path)) else video
    if not isinstance(pictures, (list, tuple, np.ndarray)) or len(pictures) == 0:
        raise InputError(f"video: {shown(video)} came, expected a file, a list of pictures, or an array of frames")
    if frames is not None and len(pictures) < frames:
        raise InputError(f"video: {len(pictures)} frames came, num_frames is {frames}; ask for fewer, or give more")
    taken = pictures[:frames]
    read = read_images(taken, multiple=multiple, channels=channels, height=height, width=width, name="video")
    return np.ascontiguousarray(np.moveaxis(read, 0, 1)[None])


def write_video(frames: Sequence[Image.Image] | NDArray[Any], path: str | Path, frame_rate: float = 8.0) -> None:
    """Write pictures as one moving picture: ``.gif`` and ``.webp`` by Pillow, any other suffix as H.264 by FFmpeg.

    H.264 is written at nearly full quality. A file that is there is replaced.

    Args:
        frames: PIL images of one size, or an array [frames, height, width, 3] (uint8, or float in 0 … 1).
        frame_rate: pictures a second.

    Raises:
        InputError: there are no pictures, or the file cannot be written.
    """
    path = Path(path)
    pictures = [frame if isinstance(frame, Image.Image) else _picture(frame) for frame in frames]
    if not pictures:
        raise InputError("frames: none came, at least one picture expected")
    try:
        if _by_pillow(path):
            more: dict[str, Any] = {"lossless": True} if path.suffix.lower() == ".webp" else {}
            pictures[0].save(
                path, append_images=pictures[1:], save_all=True, duration=1000 / frame_rate, loop=0, **more
            )
        else:
            _encode(pictures, path, frame_rate)
    except (OSError, ValueError) as error:  # FFmpeg's errors are both
        with contextlib.suppress(OSError):
            path.unlink()
        raise InputError(f"{path}: the video cannot be written: {shown(str(error), 200)}") from error


def check_video_library(path: Path) -> None:
    """Raise :class:`InputError` where writing ``path`` needs PyAV, which is not installed."""
    if not _by_pillow(path):
        _library()


def _by_pillow(path: Path) -> bool:
    return path.suffix.lower() in (".gif", ".webp")


def _picture(frame: NDArray[Any]) -> Image.Image:
    pixels = frame if frame.dtype == np.uint8 else (frame * 255).round().astype(np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def _encode(pictures: Sequence[Image.Image], path: Path, frame_rate: float) -> None:
    av = _library()
    width, height = pictures[0].size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1000))
        stream.width, stream.height = width, height
        # Colours at half the resolution, which every player reads, need even sides.
        stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
        stream.options = {"crf": "12"}
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_image(picture.convert("RGB"))):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _decoded(path: Path, frames: int | None) -> list[Image.Image]:
    av = _library()
    if not path.exists():
        raise InputError(f"video: {path} does not exist")
    pictures: list[Image.Image] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"video: {path} holds no pictures")
            for frame in container.decode(video=0):
                pictures.append(frame.to_image())
                if frames is not None and len(pictures) == frames:
                    break
    except (OSError, ValueError) as error:  # FFmpeg's errors are both
        raise InputError(f"video: {path} cannot be read as a video: {shown(str(error), 200)}") from error
    if not pictures:
        raise InputError(f"video: {path} holds no pictures")
    return pictures


def _library() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise InputError('video files need PyAV, which is not installed: pip install "dit-deploy[video]"') from error
    return av
