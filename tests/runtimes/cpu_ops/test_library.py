"""Building the library and finding it again."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from dit_deploy.errors import BackendError
from dit_deploy.runtimes import cpu_ops
from dit_deploy.runtimes.cpu_ops import __main__ as command
from dit_deploy.runtimes.cpu_ops import library as module


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "compiler", lambda: ("", ""))


def test_without_a_compiler_it_says_so(no_compiler: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu_ops.library_path() is None
    assert "need g++ 11 or newer, found none" in cpu_ops.why_not()
    with pytest.raises(BackendError, match="found none"):
        cpu_ops.build()
    assert command.main() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_an_old_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "compiler", lambda: ("/usr/bin/g++", "9.4.0 x86_64-linux-gnu"))
    assert "found /usr/bin/g++ 9.4.0" in cpu_ops.why_not()


def test_not_built_is_told_apart(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cpu_ops.library_path() == library and cpu_ops.why_not() == ""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cpu_ops.library_path() is None
    assert "not built" in cpu_ops.why_not()


def test_a_library_that_others_may_write_is_not_loaded(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "dit-deploy" / "cpu_ops" / library.parent.name
    folder.mkdir(parents=True)
    (folder / library.name).write_bytes(library.read_bytes())
    folder.chmod(0o777)
    assert cpu_ops.library_path() is None
    assert "may be written by others" in cpu_ops.why_not()
    folder.chmod(0o700)
    assert cpu_ops.library_path() == folder / library.name


def test_what_does_not_compile_leaves_nothing(library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text("int f( { }\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "sources", lambda suffix="": [wrong])
    module._key.cache_clear()
    try:
        with pytest.raises(BackendError, match=r"do not compile: .*wrong.cpp:1"):
            cpu_ops.build()
    finally:
        module._key.cache_clear()
    assert not list((tmp_path / "dit-deploy").rglob("*.so"))


def test_the_library_is_made_for_any_processor(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIT_DEPLOY_CPU_OPS_ISA", "quantum")
    with pytest.raises(Exception, match="DIT_DEPLOY_CPU_OPS_ISA=quantum: this processor has no such instructions"):
        onnxruntime.SessionOptions().register_custom_ops_library(str(library))
