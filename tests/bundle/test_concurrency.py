"""Killed writers, several writers at once, and readers while a bundle is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dit_deploy.bundle import Bundle, BundleWriter, _lock, _replace, _writer
from dit_deploy.errors import BundleError

from .conftest import FIELDS, fill, make

REPOSITORY = Path(__file__).parents[2]
CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
from dit_deploy.bundle import BundleWriter
with BundleWriter(sys.argv[1], overwrite=True) as writer:
    writer.file("denoiser/model.onnx").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""


def start_writer(target: Path) -> subprocess.Popen[str]:
    """Start a process that is in the middle of writing ``target``."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(target)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_kill_9_leaves_nothing_that_opens(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    process = start_writer(target)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".tiny.tmp-{process.pid}-")
    try:
        # The other writer is alive, so its folder is not ours to remove.
        with BundleWriter(target) as writer:
            assert left.exists()
            fill(writer)
    except BundleError:
        pass
    assert os.listdir(tmp_path) == [left.name]
    kill(process)
    with pytest.raises(BundleError, match="there is no"):
        Bundle.open(target)
    with pytest.raises(BundleError, match="is an unfinished bundle, left by a writer that was stopped; remove it"):
        Bundle.open(left)
    assert make(target).verify() == []
    assert os.listdir(tmp_path) == ["tiny"]


def test_kill_9_leaves_the_older_bundle(tmp_path: Path, bundle: Bundle) -> None:
    kill(start_writer(bundle.path))
    assert len(os.listdir(tmp_path)) == 2
    assert Bundle.open(bundle.path).verify() == []
    make(tmp_path / "other")
    assert len(os.listdir(tmp_path)) == 3, "what was left belongs to another target"
    make(bundle.path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["other", "tiny"]


def test_ctrl_c_in_a_real_process_cleans_up(tmp_path: Path) -> None:
    process = start_writer(tmp_path / "tiny")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert os.listdir(tmp_path) == []


OVERWRITER = """
import sys
from tests.bundle.conftest import make
for number in range(10_000):
    make(sys.argv[1], overwrite=True, family=f"family{number}")
    if number == 0:
        print("ready", flush=True)
"""


def test_kill_9_at_any_moment_of_replacing(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    for number in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", OVERWRITER, str(target)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.01 + 0.017 * number)
        kill(process)
        assert Bundle.open(target).verify() == []
    make(target, overwrite=True)
    assert os.listdir(tmp_path) == ["tiny"]


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_bundle_left_aside_is_put_back(tmp_path: Path, bundle: Bundle) -> None:
    """A writer without exchange was killed between its two renames."""
    bundle.path.rename(tmp_path / f".tiny.old-{dead_pid()}-00ff")
    with pytest.raises(BundleError, match="exists already"):
        make(bundle.path)
    assert os.listdir(tmp_path) == ["tiny"]
    assert Bundle.open(bundle.path).digest == bundle.digest


def test_what_is_left_aside_is_kept_while_something_else_is_in_place(tmp_path: Path, bundle: Bundle) -> None:
    aside = tmp_path / f".tiny.old-{dead_pid()}-00ff"
    bundle.path.rename(aside)
    bundle.path.mkdir()
    with pytest.raises(BundleError, match="is not a bundle"):
        make(bundle.path, overwrite=True)
    assert aside.is_dir()
    bundle.path.rmdir()
    make(bundle.path, overwrite=True)
    assert os.listdir(tmp_path) == ["tiny"]


def test_a_locked_folder_is_not_removed(tmp_path: Path) -> None:
    """Its process number means nothing here: it may be that of another container."""
    left = tmp_path / f".tiny.tmp-{dead_pid()}-00ff"
    left.mkdir()
    with _lock.lock(left) as held:
        assert held
        make(tmp_path / "tiny")
        assert left.is_dir()
    make(tmp_path / "tiny", overwrite=True)
    assert os.listdir(tmp_path) == ["tiny"]


def test_two_writers_without_overwrite_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "tiny"
    with BundleWriter(target) as first:
        fill(first)
        with pytest.raises(BundleError, match="exists already"):
            # The first finishes while the second is at work.
            make(target, family="sit", before_finish=lambda: first.finish(**FIELDS))
    assert os.listdir(tmp_path) == ["tiny"]
    assert Bundle.open(target).manifest.family == "dit"


@pytest.mark.parametrize("exchange", [True, False])
def test_many_writers_and_readers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    target = tmp_path / "tiny"
    make(target)
    if not exchange:

        def absent(*_: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr(_replace, "_renameat2", absent)
    stop, errors, opened = threading.Event(), [], set()

    def write(family: str) -> None:
        try:
            for number in range(500):
                make(target, overwrite=True, family=family)
                if number >= 5 and len(opened) > 1:
                    break
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        while not stop.is_set():
            try:
                opened.add(Bundle.open(target).manifest.family)
            except BundleError as error:
                # Without exchange there is a moment between the two renames.
                if exchange or not any(words in str(error) for words in ("is missing", "there is no")):
                    errors.append(error)
            time.sleep(0)

    writers = [threading.Thread(target=write, args=(f"family{number}",)) for number in range(3)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert errors == []
    assert len(opened) > 1
    assert os.listdir(tmp_path) == ["tiny"]
    assert Bundle.open(target).verify() == []


def test_a_target_moved_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer moves the older bundle aside, and its own in, between two looks of the check."""
    target, looks = tmp_path / "tiny", []
    make(target)
    make(tmp_path / "newer")
    look = _writer._is_bundle

    def moved(folder: Path) -> bool:
        looks.append(folder)
        if len(looks) > 1:
            return look(folder)
        target.rename(tmp_path / "aside")
        found = look(folder)
        (tmp_path / "newer").rename(target)
        return found

    monkeypatch.setattr(_writer, "_is_bundle", moved)
    assert make(target, overwrite=True, family="sit").verify() == []
    assert sorted(os.listdir(tmp_path)) == ["aside", "tiny"]


@pytest.mark.parametrize("step", ["place", "exchange"])
def test_another_writer_is_first_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Without ``renameat2``: the name is free when it is looked at, and taken when it is renamed to."""
    target, newer = tmp_path / "tiny", tmp_path / "newer"
    make(newer, family="newer")
    if step == "exchange":
        make(target)

    def absent(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    rename = os.rename

    def raced(source: Path, to: Path) -> None:
        if to == target and newer.exists():
            rename(newer, target)
        rename(source, to)

    monkeypatch.setattr(_replace, "_renameat2", absent)
    monkeypatch.setattr(os, "rename", raced)
    assert make(target, overwrite=True, family="sit").verify() == []
    assert os.listdir(tmp_path) == ["tiny"]
    assert Bundle.open(target).manifest.family == "sit"
