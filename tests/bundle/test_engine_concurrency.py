"""Builds that are killed, builds of one name at once, and readers while an engine is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from dit_deploy.bundle import Bundle, _engines, _lock, engine_lock
from dit_deploy.errors import BundleError

from .engines import build

REPOSITORY = Path(__file__).parents[2]

#: Builds until it is killed: half of an artefact is there, the record is not.
HALF = """
import sys, time
from dit_deploy.bundle import Bundle, EngineWriter
with EngineWriter(Bundle.open(sys.argv[1]), "fast") as writer:
    writer.file("denoiser.engine").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(600)
"""

#: What build_engine does: under the lock, look for the key; build only where it is not there, once a line has come.
BUILD_ONCE = """
import sys
from dit_deploy.bundle import Bundle, engine_key, engine_lock
from tests.bundle.engines import KEY, build
bundle = Bundle.open(sys.argv[1])
with engine_lock(bundle, "fast", waiting=lambda line: print("waiting:", line, flush=True)):
    print("ready", flush=True)
    if "fast" in bundle.engine_names() and bundle.engine("fast").record.key == engine_key(KEY):
        print("found", flush=True)
    else:
        sys.stdin.readline()
        build(bundle)
        print("built", flush=True)
"""

#: Replaces an engine over and over.
REPLACE = """
import sys
from dit_deploy.bundle import Bundle
from tests.bundle.engines import build
bundle = Bundle.open(sys.argv[1])
for number in range(10_000):
    build(bundle, key_parts={"number": str(number)}, seconds=number)
    if number == 0:
        print("ready", flush=True)
"""


@contextmanager
def started(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_kill_9_leaves_nothing_that_loads(bundle: Bundle) -> None:
    folder = bundle.path / "engines"
    with started(HALF, bundle.path) as process:
        assert line(process) == "ready"
        assert bundle.engine_names() == []
        process.send_signal(signal.SIGKILL)
        process.wait(120)
    (left,) = [name for name in os.listdir(folder) if ".tmp-" in name]
    assert (folder / left / "denoiser.engine").read_bytes() == b"half"
    again = Bundle.open(bundle.path)
    assert again.engine_names() == [] and again.verify() == []
    for name in ("fast", left):
        with pytest.raises(BundleError, match="has no engine"):
            again.engine(name)
    assert build(again).verify() == []
    assert os.listdir(folder) == ["fast"], "the next build cleared what was left"


def test_kill_9_leaves_the_older_engine(bundle: Bundle) -> None:
    older = build(bundle)
    with started(HALF, bundle.path) as process:
        assert line(process) == "ready"
    assert Bundle.open(bundle.path).engine("fast").record == older.record
    assert Bundle.open(bundle.path).verify() == []


def test_kill_9_at_any_moment_of_replacing(bundle: Bundle) -> None:
    for number in range(4):
        with started(REPLACE, bundle.path) as process:
            assert line(process) == "ready"
            time.sleep(0.01 + 0.017 * number)
        assert Bundle.open(bundle.path).engine("fast").verify() == []
    build(bundle)
    assert os.listdir(bundle.path / "engines") == ["fast"]


def test_the_second_build_waits_and_finds_the_key_of_the_first(bundle: Bundle) -> None:
    with started(BUILD_ONCE, bundle.path) as first:
        assert line(first) == "ready"
        with started(BUILD_ONCE, bundle.path) as second:
            waiting = line(second)
            assert waiting == f"waiting: {bundle.path}/engines/fast is being built by another process; waiting for it"
            assert first.poll() is None and bundle.engine_names() == [], "the first is still at work"
            go_on(first)
            assert [line(second), line(second)] == ["ready", "found"]
            assert second.wait(120) == 0
        assert line(first) == "built"
        assert first.wait(120) == 0
    assert os.listdir(bundle.path / "engines") == ["fast"]


def test_the_lock_ends_with_a_killed_build(bundle: Bundle) -> None:
    with started(HALF, bundle.path) as first:
        assert line(first) == "ready"
        with started(BUILD_ONCE, bundle.path) as second:
            assert line(second).startswith("waiting: ")
            first.kill()
            go_on(second)
            assert [line(second), line(second)] == ["ready", "built"]
            assert second.wait(120) == 0
    assert os.listdir(bundle.path / "engines") == ["fast"]


def test_builds_of_other_names_do_not_wait(bundle: Bundle) -> None:
    said: list[str] = []
    with started(HALF, bundle.path) as process:
        assert line(process) == "ready"
        with engine_lock(bundle, "other", said.append):
            build(bundle, "other")
        assert process.poll() is None
    assert said == [] and bundle.engine_names() == ["other"]


def test_a_thread_may_ask_for_a_lock_that_it_holds(bundle: Bundle) -> None:
    said: list[str] = []
    with engine_lock(bundle, "fast", said.append), engine_lock(bundle, "fast", said.append):
        build(bundle)
        assert (bundle.path / "engines/.fast.lock").exists(), "the inner ones did not end it"
    assert said == [] and os.listdir(bundle.path / "engines") == ["fast"]


def test_many_threads_hold_one_lock_one_at_a_time(bundle: Bundle) -> None:
    """The lock's file is removed and made again all the time, which must not let two in."""
    inside, most, errors = [0], [0], []

    def work() -> None:
        try:
            for _ in range(40):
                with engine_lock(bundle, "fast"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0)
                    inside[0] -= 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, most) == ([], [1])
    assert os.listdir(bundle.path / "engines") == [] and not _lock._held


def test_readers_while_an_engine_is_replaced(bundle: Bundle) -> None:
    """Neither a bundle nor an engine is refused because an engine is built at the moment."""
    build(bundle)
    seen = set()
    with started(REPLACE, bundle.path) as process:
        assert line(process) == "ready"
        end = time.monotonic() + 60
        while len(seen) < 30:
            assert time.monotonic() < end, f"{len(seen)} builds were seen in a minute"
            opened = Bundle.open(bundle.path)
            assert opened.engine_names() == ["fast"]
            seen.add(opened.engine("fast").record.seconds)


def test_a_build_ends_while_a_bundle_is_opened(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hidden folder is listed, and renamed before it is looked into."""
    hidden = bundle.path / "engines/.fast.tmp-1-00ff"
    hidden.mkdir(parents=True)
    scan = os.scandir

    def renamed(path: Path) -> object:
        if path == hidden and hidden.exists():
            hidden.rename(hidden.with_name("elsewhere"))
        return scan(path)

    monkeypatch.setattr(os, "scandir", renamed)
    assert Bundle.open(bundle.path).digest == bundle.digest
    assert not hidden.exists()


def test_an_engine_is_replaced_while_it_is_opened(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is the older one's, the files are the newer one's: then all is read again."""
    build(bundle)
    read = _engines._read_record

    def replaced(path: Path) -> object:
        record = read(path)
        monkeypatch.setattr(_engines, "_read_record", read)
        build(bundle, seconds=9, before_finish=lambda writer: writer.file("denoiser.onnx").write_bytes(larger))
        return record

    larger = onnx.helper.make_model(onnx.helper.make_graph([], "another", [], [])).SerializeToString()
    monkeypatch.setattr(_engines, "_read_record", replaced)
    assert bundle.engine("fast").record.seconds == 9
