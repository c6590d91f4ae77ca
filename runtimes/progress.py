"""How far a run is: a bar on the terminal, or a function of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "shown_progress"]

#: Called with what is being done ("denoising", "decoding"), how many steps or pieces of it are done, and of how many.
Progress = Callable[[str, int, int], None]


@contextmanager
def shown_progress(progress: bool | Progress) -> Iterator[Progress]:
    """Yield what to call after each step: ``progress`` itself, what moves a bar where it is true, or nothing."""
    if callable(progress):
        yield progress
        return
    if not progress:
        yield lambda what, done, total: None
        return
    from rich.progress import Progress as Bar

    with Bar(transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
