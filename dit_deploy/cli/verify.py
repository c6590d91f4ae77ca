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
    from dit_deploy.errors import IntegrityError

    try:
        opened = Bundle.open(bundle)
    except IntegrityError as error:
        # Opening stops at the first file of another size; that is this command's finding, not bad input.
        typer.echo(" ".join(str(error).split()))
        raise typer.Exit(1) from None
    with step_bar("hashing") as advance:
        problems = opened.verify(progress=lambda path, done, total: advance(done, total))
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise typer.Exit(1)
    sizes = [record.size for record in opened.manifest.files.values()]
    typer.echo(f"{opened.path}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, all as recorded")
