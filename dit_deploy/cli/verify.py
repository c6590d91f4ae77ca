"""``dit-deploy verify``: is every file of a bundle the one that was written?"""

from __future__ import annotations

import typer

from dit_deploy.cli._console import step_bar
from dit_deploy.cli._options import BundleFolder

__all__ = ["verify"]


def verify(bundle: BundleFolder) -> None:
    """Check every file of a bundle by its hash.

    Exits with 1 where a file is missing, altered or not recorded, naming each on a line of its own.
    """
    from dit_deploy.bundle import Bundle
    from dit_deploy.text import one_line

    # Opening in full would stop at the first file that is missing or of another size.
    opened = Bundle.open(bundle, check_files=False)
    with step_bar("hashing") as advance:
        problems = opened.verify(progress=lambda path, done, total: advance(done, total))
    for problem in problems:
        typer.echo(one_line(problem, limit=None))
    if problems:
        raise typer.Exit(1)
    Bundle.open(bundle)  # what hashes cannot tell: whether the graphs keep to the recorded files
    engines = opened.engine_names()
    recorded = [opened.manifest.files, *(opened.engine(name).record.files for name in engines)]
    sizes = [record.size for files in recorded for record in files.values()]
    of = {0: "", 1: ", those of an engine among them"}.get(
        len(engines), f", those of {len(engines)} engines among them"
    )
    typer.echo(f"{opened.path}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB{of}, all as recorded")
