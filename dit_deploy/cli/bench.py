"""``dit-deploy bench``: how fast a bundle is beside its source in PyTorch."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dit_deploy.cli._console import print_results, show_lines
from dit_deploy.cli._options import ImageSize, Threads, Vae
from dit_deploy.errors import InputError

__all__ = ["bench"]


def bench(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="[BUNDLE]", help="A bundle's folder. Without one, --arch says which to make.", show_default=False
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Engine to time, onnx for the plain graphs; again for more.", show_default="onnx"
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCE", help="The bundle's source: adds PyTorch eager and torch.compile.", show_default="none"
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="DiT-B/2 and so on. Without a BUNDLE: time a random model of this kind.",
            show_default="found from the reference",
        ),
    ] = None,
    image_size: ImageSize = None,
    vae: Vae = None,
    steps: Annotated[int, typer.Option(metavar="N", help="Denoising steps of a whole run.")] = 20,
    repeats: Annotated[
        int, typer.Option(metavar="N", help="Rounds of the denoiser call; whole runs get half as many, rounded up.")
    ] = 5,
    threads: Threads = None,
    batch: Annotated[
        int, typer.Option(metavar="N", help="Pictures at once; guidance doubles the denoiser's batch.")
    ] = 1,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="What to draw, for a bundle with text encoders; again for more.", show_default="a few"
        ),
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all samples here, too.", show_default="none")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the random model and its bundle in this new folder.", show_default="none"
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --json.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No lines about progress.")] = False,
) -> None:
    """Time a bundle beside its source in PyTorch.

    One denoiser call and whole runs, in turns, as ratios. A model that makes videos of pictures is given some.

    `dit-deploy bench --arch DiT-B/2` makes a model from random weights, so that anyone can repeat it. PyTorch needs
    the extra: pip install 'dit-deploy[export]'.
    """
    from dit_deploy.bench import bench as bench_bundle
    from dit_deploy.bundle import Bundle

    if bundle is None and arch is None:
        raise InputError("give a BUNDLE, or --arch DiT-B/2 (and so on) for a random model")
    if bundle is None and (reference is not None or vae is not None):
        raise InputError("--reference and --vae belong to a BUNDLE; a random model is its own reference")
    if bundle is not None and reference is None and (arch is not None or image_size is not None or vae is not None):
        raise InputError("--arch, --image-size and --vae say what a --reference is; give that too, or leave them out")
    if bundle is not None and keep is not None:
        raise InputError(f"--keep {keep} is for random models; leave it, or the BUNDLE, out")
    if json_ is not None:
        _check_json(json_, overwrite)
    say = show_lines(quiet)
    measure = partial(
        bench_bundle,
        engines=engine or ["onnx"],
        steps=steps,
        repeats=repeats,
        threads=threads,
        batch=batch,
        prompts=prompt or None,
        progress=say,
    )
    if bundle is not None:
        opened = Bundle.open(bundle)
        report = measure(opened, reference=reference, arch=arch, image_size=image_size, vae=vae)
    else:
        assert arch is not None
        with _random_model(arch, image_size or 256, keep, say) as (checkpoint, made):
            report = measure(Bundle.open(made), reference=checkpoint)
    print_results(report.table())
    if json_ is not None:
        _write_json(json_, json.dumps(report.to_dict(), indent=1) + "\n")
        typer.echo(str(json_))


@contextmanager
def _random_model(
    arch: str, image_size: int, keep: Path | None, say: Callable[[str], None]
) -> Iterator[tuple[Path, Path]]:
    """Yield a random checkpoint and its bundle, in a folder that goes afterwards unless it is to be kept."""
    from dit_deploy.bench.random_checkpoint import write_random_autoencoder, write_random_checkpoint
    from dit_deploy.exporters import export

    if keep is not None and os.path.lexists(keep):
        raise InputError(f"--keep {keep} exists; give the name of a new folder")
    around = None if keep is None else keep.absolute().parent
    if around is not None and not around.is_dir():
        raise InputError(f"--keep {keep}: there is no folder {around}; make it first")
    with tempfile.TemporaryDirectory(prefix=".dit-deploy-bench-", dir=around) as name:
        folder = Path(name)
        say(f"random {arch} in {folder}")
        checkpoint = write_random_checkpoint(folder, arch, image_size)
        write_random_autoencoder(folder / "vae")
        made = export(checkpoint, folder / "bundle", progress=say).path
        yield checkpoint, made
        if keep is not None:
            keep.mkdir()
            for entry in folder.iterdir():
                entry.rename(keep / entry.name)
            say(f"kept in {keep}")


def _check_json(path: Path, overwrite: bool) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"--json {path}: give a file in a folder that exists")
    if path.exists() and not overwrite:
        raise InputError(f"--json {path} exists; give another name, or --overwrite")


def _write_json(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
