"""``BundleWriter``: what it refuses, what it leaves behind (nothing), and what it replaces."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dit_deploy.bundle import Bundle, BundleWriter, _files, _folder_writer, _replace, _space, _writer
from dit_deploy.errors import BundleError, InputError

from .conftest import FIELDS, fill, make


@pytest.fixture(params=["exchange", "rename aside"])
def renames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with Linux's exchange of names, and again as if there were none."""
    if request.param != "exchange":
        without_exchange(monkeypatch)
    return str(request.param)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(_replace, "_renameat2", absent)


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_files_are_recorded_as_they_are(bundle: Bundle) -> None:
    for path, record in bundle.manifest.files.items():
        data = (bundle.path / path).read_bytes()
        assert record.size == len(data)
        assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert bundle.digest == hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    check = subprocess.run(["sha256sum", "-c", "manifest.json.sha256"], cwd=bundle.path, capture_output=True, text=True)
    assert check.stdout == "manifest.json: OK\n"


def test_the_same_content_gives_the_same_digest(tmp_path: Path, bundle: Bundle) -> None:
    assert make(tmp_path / "again").digest == bundle.digest


def test_permissions_are_the_usual_ones(bundle: Bundle) -> None:
    """Not those of a temporary folder, which nobody else could read."""
    umask = os.umask(0)
    os.umask(umask)
    assert bundle.path.stat().st_mode & 0o777 == 0o777 & ~umask
    assert (bundle.path / "manifest.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_created_by_names_this_package(tmp_path: Path) -> None:
    assert make(tmp_path / "a", created_by=None).manifest.created_by.startswith("dit-deploy ")


def test_what_stands_in_the_way_is_never_touched(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/manifest.json").write_text('{"format": "another"}')
    before = tree(tmp_path)
    for overwrite in (False, True):
        for name, message in (
            ("file", "exists and is a file; it stays as it is: give another path"),
            ("folder", "exists and is not a bundle; it stays as it is: give another path"),
            ("empty", "exists and is not a bundle"),
            ("broken", "exists and is not a bundle"),
            ("absent/child", f"there is no folder {tmp_path / 'absent'}; make it first"),
            ("file/child", "there is no folder"),
        ):
            with pytest.raises(BundleError, match=message):
                make(tmp_path / name, overwrite=overwrite)
    assert tree(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["broken", "empty", "file", "folder"]


def test_a_bundle_is_replaced_only_when_asked(tmp_path: Path, bundle: Bundle, renames: str) -> None:
    bundle.write_parity("old", {})
    before = tree(tmp_path)
    with pytest.raises(
        BundleError, match=r"exists already; give another path, or overwrite it \(overwrite=True, or --overwrite\)"
    ):
        make(bundle.path)
    assert tree(tmp_path) == before
    new = make(bundle.path, overwrite=True, family="sit")
    assert new.verify() == []
    assert Bundle.open(bundle.path).manifest.family == "sit"
    assert new.parity_names() == []
    assert os.listdir(tmp_path) == ["tiny"]
    assert make(tmp_path / "second", overwrite=True).verify() == []


def test_a_newer_or_damaged_bundle_can_be_replaced(tmp_path: Path, bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_text('{"format": "dit-deploy-bundle", "version": 9}')
    assert make(bundle.path, overwrite=True).verify() == []


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "sub").mkdir()
    link = tmp_path / "sub/link"
    link.symlink_to(bundle.path)
    assert make(link, overwrite=True, family="sit").path == link
    assert link.is_symlink()
    assert Bundle.open(bundle.path).manifest.family == "sit"
    assert os.listdir(tmp_path / "sub") == ["link"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
@pytest.mark.parametrize("existing", [False, True])
def test_any_exception_leaves_nothing(tmp_path: Path, error: BaseException, existing: bool) -> None:
    if existing:
        make(tmp_path / "tiny")
    before = tree(tmp_path)

    def interrupted() -> None:
        with BundleWriter(tmp_path / "tiny", overwrite=True) as writer:
            fill(writer)
            raise error

    with pytest.raises(type(error)) as caught:
        interrupted()
    assert caught.value is error
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == (["tiny"] if existing else [])


STEPS = [
    (_writer, "record_files"), (_folder_writer, "sha256_of"), (_folder_writer, "sync_file"),
    (_writer, "replace_file"), (_folder_writer, "sync_folder"), (_writer, "load"),
    (_folder_writer, "exchange"), (_folder_writer, "place"), (_files.os, "fsync"), (_files.os, "replace"),
]  # fmt: skip


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize(("module", "name"), STEPS)
@pytest.mark.parametrize("existing", [False, True])
def test_an_error_at_any_step_of_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: BaseException, existing: bool
) -> None:
    """At the first, second, … call of each function in turn, until it is not called as often."""
    target = tmp_path / "tiny"
    if existing:
        make(target)
    before = tree(tmp_path)
    real, failed = getattr(module, name), 0
    for at in range(30):
        calls = iter(range(1000))

        def fails(*arguments: Any, calls: Iterator[int] = calls, at: int = at, **options: Any) -> Any:
            if next(calls) == at:
                raise error
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, fails)
            try:
                make(target, overwrite=existing, family="sit")
            except (KeyboardInterrupt, BundleError) as error_raised:
                caught = error_raised
            else:
                break
        failed += 1
        assert type(caught) is (KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else BundleError)
        assert isinstance(caught, KeyboardInterrupt) or "Input/output error" in str(caught)
        assert os.listdir(tmp_path) in ([], ["tiny"])
        if target.exists() and Bundle.open(target).manifest.family == "sit":
            assert Bundle.open(target).verify() == []  # it failed after the last step, the new bundle is whole
            break
        assert tree(tmp_path) == before
    assert failed or name == ("place" if existing else "exchange")
    assert Bundle.open(target).verify() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize("at", [0, 1])
def test_an_error_between_the_two_renames(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    without_exchange(monkeypatch)
    real, calls = os.rename, iter(range(100))

    def fails(source: Any, target: Any) -> None:
        if next(calls) == at:
            raise error
        real(source, target)

    before = tree(tmp_path)
    monkeypatch.setattr(_replace.os, "rename", fails)
    with pytest.raises((KeyboardInterrupt, BundleError)):
        make(bundle.path, overwrite=True, family="sit")
    assert tree(tmp_path) == before
    assert os.listdir(tmp_path) == ["tiny"]


def test_leaving_without_finish_is_an_error(tmp_path: Path) -> None:
    def forgets() -> BundleWriter:
        with BundleWriter(tmp_path / "tiny") as writer:
            fill(writer)
        return writer

    with pytest.raises(BundleError, match=r"was not written: BundleWriter.finish was not called"):
        forgets()
    assert os.listdir(tmp_path) == []
    writer = BundleWriter(tmp_path / "tiny")
    with pytest.raises(RuntimeError, match="inside the with block only"):
        _ = writer.folder


def make_changed(path: Path, change: Callable[[BundleWriter], Any]) -> None:
    """Write the tiny bundle, with ``change`` called before the end."""
    with BundleWriter(path) as writer:
        fill(writer)
        change(writer)
        writer.finish(**FIELDS)


def test_files_that_a_bundle_cannot_hold(tmp_path: Path) -> None:
    def link(writer: BundleWriter) -> None:
        (writer.folder / "link").symlink_to(writer.folder / "denoiser/model.onnx")

    for change, message in (
        (lambda writer: (writer.folder / ".hidden").touch(), "'.hidden' is not a plain relative path"),
        (lambda writer: (writer.folder / "a b").touch(), "'a b' is not a plain relative path"),
        (link, "tiny/link is a link or no regular file"),
    ):
        with pytest.raises(BundleError, match=message) as caught:
            make_changed(tmp_path / "tiny", change)
        assert ".tmp-" not in str(caught.value)
    assert os.listdir(tmp_path) == []
    with BundleWriter(tmp_path / "tiny") as writer:
        for bad in ("../x", "/x", ""):
            with pytest.raises(InputError, match="not a plain relative path"):
                writer.file(bad)
        fill(writer)
        writer.finish(**FIELDS)


def test_fields_that_do_not_fit_the_files(tmp_path: Path) -> None:
    model = "vae_decoder/model.onnx"
    with pytest.raises(BundleError, match=r"tiny was not written: manifest: vae_decoder/model.onnx is named but"):
        make_changed(tmp_path / "tiny", lambda writer: (writer.folder / model).unlink())
    with pytest.raises(BundleError, match=r"tiny/vae_decoder/model.onnx is no well-formed ONNX file"):
        make_changed(tmp_path / "tiny", lambda writer: (writer.folder / model).write_bytes(b"\xff\xff"))
    assert os.listdir(tmp_path) == []


def test_no_space_is_said_before_work(tmp_path: Path) -> None:
    writer = BundleWriter(tmp_path / "tiny", expected_size=10**15)
    with pytest.raises(BundleError, match=r"no space left in .*: tiny needs about 1000\.0 TB and .* free.* more"):
        writer.__enter__()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: IoError(Os { code: 28, kind: StorageFull })"),
        OSError("4096 requested and 0 written"),
    ],
)
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(_space.shutil, "disk_usage", lambda _: usage)

    def fills(writer: BundleWriter) -> None:
        writer._expected = 20_000
        try:
            raise error
        except Exception as inner:
            raise ValueError("cannot save the graph") from inner

    with pytest.raises(BundleError) as caught:
        make_changed(tmp_path / "tiny", fills)
    assert str(caught.value).startswith(f"no space left in {tmp_path}: tiny needs about ")
    assert str(caught.value).endswith("kB more; nothing was left there")
    assert isinstance(caught.value.__cause__, ValueError)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_in_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(BundleError, match=r"no space left in .*: tiny needs more than the .*B that were written"):
        make(tmp_path / "tiny")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(BundleError, match=rf"tiny cannot be written: Permission denied \({tmp_path}\)"):
        make(tmp_path / "tiny")


SMALL_DISK = """
import os, sys
from tests.bundle.conftest import make
from dit_deploy.bundle import BundleWriter
from dit_deploy.errors import BundleError
disk = sys.argv[1]
try:
    with BundleWriter(disk + "/tiny") as writer:
        writer.file("denoiser/model.onnx").write_bytes(b"x" * 200_000)
except BundleError as error:
    print(error)
print(os.listdir(disk), make(disk + "/tiny").verify(), make(disk + "/tiny", overwrite=True).verify())
"""


def test_a_really_full_disk(tmp_path: Path) -> None:
    # In a mount namespace of its own, so that the small disk goes with the process.
    small = f"mount -t tmpfs -o size=96k tmpfs '{tmp_path}'"
    if subprocess.run(["unshare", "--mount", "sh", "-c", small], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{small} && exec "$0" -c "$1" "$2"', sys.executable, SMALL_DISK, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.startswith(f"no space left in {tmp_path}: tiny needs more than"), done.stderr
    assert done.stdout.endswith("\n[] [] []\n")
    assert os.listdir(tmp_path) == []
