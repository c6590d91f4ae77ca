"""The application: its commands, and the options before them."""

from __future__ import annotations

from typing import Annotated

import typer

from dit_deploy.cli.bench import bench
from dit_deploy.cli.build_engine import build_engine
from dit_deploy.cli.doctor import doctor
from dit_deploy.cli.export import export
from dit_deploy.cli.generate import generate
from dit_deploy.cli.inspect import inspect
from dit_deploy.cli.parity import parity
from dit_deploy.cli.plan import plan
from dit_deploy.cli.verify import verify

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes leave half of 80 columns to the help, and cost a third of a second
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from dit_deploy import __version__

        typer.echo(f"dit-deploy {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _before(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="On an error, print a traceback too. Accepted anywhere.")
    ] = False,
) -> None:
    """A diffusion transformer from PyTorch to production: export it, run it without PyTorch, prove it draws the same.

    Exit status: 0 done; 1 a check failed (parity, verify); 2 bad input; 3 a defect of dit-deploy; 130 interrupted.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _command in (export, build_engine, generate, parity, bench, plan, inspect, verify, doctor):
    app.command()(_command)
