"""Run a command and turn whatever ends it into one line and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from dit_deploy.cli._app import app
from dit_deploy.errors import Cancelled, DitDeployError
from dit_deploy.extras import extra_of_module, install_command
from dit_deploy.text import one_line

__all__ = ["main", "run"]

_PACKAGE = Path(__file__).parents[1]

BAD_INPUT, DEFECT, INTERRUPTED, BROKEN_PIPE = 2, 3, 130, 141

# Newer typer carries click inside, older typer imports it: either way these are BadParameter's parents.
_UsageError, _ClickException = typer.BadParameter.__mro__[1:3]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run ``dit-deploy`` with ``args`` (the process's own by default) and exit."""
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run ``dit-deploy`` with ``args`` and return its exit status; see :mod:`dit_deploy.cli` for their meaning."""
    given = list(sys.argv[1:] if args is None else args)
    # Accepted anywhere, because the message that asks for it stands below a command typed without it.
    debug = "--debug" in given
    with _warnings_of_one_line():
        return _run([word for word in given if word != "--debug"], debug)


def _run(given: Sequence[str], debug: bool) -> int:
    try:
        # Not typer's own main: that prints boxes, and exits with 1 where a pipe breaks.
        command = typer.main.get_command(app)
        with command.make_context("dit-deploy", list(given)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as exit_:
        return _flushed(exit_.exit_code)
    except BrokenPipeError:
        return _broken_pipe()
    except (KeyboardInterrupt, typer.Abort, EOFError, Cancelled):
        return _say("interrupted; nothing was written", INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, status = explain(error)
        return _say(message, status)


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """Say this package's warnings like its errors; where they arose is of no use to whoever typed a command."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if Path(filename).is_relative_to(_PACKAGE):
                print(f"dit-deploy: warning: {one_line(str(message), limit=None)}", file=sys.stderr, flush=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def explain(error: Exception) -> tuple[str, int]:
    """Return what to say about ``error``, and the exit status."""
    if isinstance(error, DitDeployError):
        return str(error), BAD_INPUT
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "dit-deploy"
        return f"{_message(error)} See `{path} --help`.", BAD_INPUT
    if isinstance(error, _ClickException):
        return _message(error), BAD_INPUT
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = extra_of_module(error.name)
        if extra is not None:
            return f"this needs {error.name.split('.')[0]}, which is not installed: {install_command(extra)}", BAD_INPUT
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return f"{error.strerror}{where}", BAD_INPUT
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); fewer pictures at once, or smaller ones, need less", BAD_INPUT
    return f"{type(error).__name__}: {error} (a defect of dit-deploy; run again with --debug for a traceback)", DEFECT


def _message(error: Exception) -> str:
    text = str(getattr(error, "format_message", error.__str__)())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _say(message: str, status: int) -> int:
    try:
        print(f"dit-deploy: {one_line(message, limit=None)}", file=sys.stderr, flush=True)
    except (BrokenPipeError, UnicodeEncodeError):
        return status
    return _flushed(status)


def _flushed(status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _broken_pipe()
    return status


def _broken_pipe() -> int:
    # The interpreter flushes standard output once more on its way out, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
