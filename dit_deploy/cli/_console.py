"""Where output goes: results to standard output, progress to standard error, and no codes into a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

from rich.console import Console, RenderableType

__all__ = ["print_results", "show_lines", "step_bar", "step_lines"]

#: A pipe has no width of its own; a table wraps at this many columns there.
_PIPE_WIDTH = 160


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, now: str | None = None) -> None: ...


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would exit with 1, which is the status of a failed check.
        raise BrokenPipeError


def print_results(*renderables: RenderableType) -> None:
    """Print on standard output: with colours, in the terminal's width, on a terminal; as plain text elsewhere."""
    console = _Console(highlight=False, markup=False)
    if console.is_terminal:
        for renderable in renderables:
            console.print(renderable)
        return
    # Written by print, so that no table fills its last column with blanks.
    plain = _Console(highlight=False, markup=False, width=_PIPE_WIDTH, color_system=None)
    with plain.capture() as capture:
        for renderable in renderables:
            plain.print(renderable)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def progress_console() -> Console:
    """Return the console on standard error."""
    return _Console(stderr=True, highlight=False, markup=False)


def show_lines(quiet: bool = False) -> Callable[[str], None]:
    """Return a function that prints one line of progress on standard error, or nothing where ``quiet``."""
    console = progress_console()

    def say(line: str) -> None:
        if not quiet:
            console.print(line, style="dim", soft_wrap=True)

    return say


@contextmanager
def step_bar(what: str) -> Iterator[Advance]:
    """Show a progress bar on standard error while the block runs, where that is a terminal.

    Yields a function of (how many are done, how many there are, what is being done where that changes).
    """
    console = progress_console()
    if not console.is_terminal:
        yield lambda done, total, now=None: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, now=None: bar.update(task, completed=done, total=total, description=now)


#: Without a terminal, a step that goes on for so long says how far it is.
_LINE_SECONDS = 10.0


@contextmanager
def step_lines(quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show what is being done: a bar on a terminal; elsewhere a line for each step, and one more now and then.

    Yields a function of (what is being done, how far, of how much).
    """
    if quiet:
        yield lambda _what, _done, _total: None
        return
    if progress_console().is_terminal:
        with step_bar("starting") as advance:
            yield lambda what, done, total: advance(done, total, what)
        return
    say, last, said = show_lines(), "", 0.0

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last, said
        now = time.monotonic()
        if what != last:
            say(what)
        elif now - said >= _LINE_SECONDS:
            say(f"{what}, {done} of {total}")
        else:
            return
        last, said = what, now

    yield tell
