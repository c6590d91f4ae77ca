"""The command itself: exit statuses, messages, pipes, and what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import dit_deploy
from dit_deploy.cli import _main
from dit_deploy.errors import InputError
from tests.cli.command import Command

COMMANDS = ("export", "generate", "parity", "bench", "inspect", "verify", "doctor")

#: Refuses what belongs to build time, as where it is not installed, and then is ``dit-deploy``.
NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "diffusers", "transformers", "onnx", "onnx_ir", "onnxscript"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from dit_deploy.cli import main
main()
"""


def process(*words: object, code: str = NO_TORCH) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without PyTorch."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_version(cli: Command) -> None:
    assert cli("--version").out == f"dit-deploy {dit_deploy.__version__}\n"


def test_help_lists_the_commands(cli: Command) -> None:
    for words in (("--help",), ("-h",), ()):
        result = cli(*words)
        assert result.status == 0
        assert all(f"\n  {name} " in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(cli: Command, name: str) -> None:
    result = cli(name, "--help")
    assert result.status == 0
    options = result.out.split("\nOptions:\n")[1]
    starts = [line for line in options.splitlines() if line.startswith("  -")]
    following = options.splitlines()
    for line in starts:
        text = line.split("  ", 2)[-1] if "  " in line.strip() else following[following.index(line) + 1]
        assert text.strip(), line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nonsense",), "No such command 'nonsense'. See `dit-deploy --help`."),
        (("inspect",), "Missing argument 'BUNDLE'. See `dit-deploy inspect --help`."),
        (("--nonsense",), "No such option"),
    ],
)
def test_usage_errors_are_one_line(cli: Command, words: tuple[str, ...], message: str) -> None:
    result = cli(*words)
    assert result.status == 2
    assert message in result.message


def test_a_warning_is_one_line(cli: Command, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dit_deploy.bundle

    def warned(*_: object) -> None:
        warnings.warn("two\nlines", UserWarning, stacklevel=2)  # whoever called, as the pipeline's are
        warnings.warn("another's", UserWarning, stacklevel=1)
        raise InputError("no more")

    monkeypatch.setattr(dit_deploy.bundle, "summarise", warned)
    with pytest.warns(UserWarning, match="another's"):
        result = cli("inspect", tiny_bundle)
    assert result.err.splitlines() == ["dit-deploy: warning: two lines", "dit-deploy: no more"]


def test_a_defect(cli: Command, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dit_deploy.bundle

    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines \x1b[31m")

    monkeypatch.setattr(dit_deploy.bundle, "summarise", broken)
    result = cli("inspect", tiny_bundle)
    assert result.status == 3
    assert result.message.startswith("RuntimeError: two lines \\x1b[31m (a defect")
    assert "--debug" in result.message
    traced = cli("inspect", tiny_bundle, "--debug")
    assert traced.status == 3
    assert "Traceback" in traced.err
    assert traced.err.splitlines()[-1].startswith("dit-deploy: RuntimeError")


@pytest.mark.parametrize(
    ("error", "message", "status"),
    [
        (ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"), "pip install 'dit-deploy[export]'", 2),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), "'dit-deploy[cpu]'", 2),
        (ModuleNotFoundError("No module named 'nonsense'", name="nonsense"), "a defect", 3),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: /x", 2),
        (MemoryError("3 GiB"), "out of memory (3 GiB)", 2),
    ],
)
def test_what_is_said(error: Exception, message: str, status: int) -> None:
    said, found = _main.explain(error)
    assert message in said
    assert found == status


def test_without_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    """One process for each command that must do without, and one that says what it lacks."""
    out = tmp_path / "a.png"
    words = ("generate", tiny_bundle, out, "--class-label", 1, "--steps", 1, "--threads", 1)
    for command in (words, ("inspect", tiny_bundle), ("verify", tiny_bundle), ("doctor",)):
        result = process(*command)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert "\x1b" not in result.stdout
    assert out.exists()
    result = process("export", tiny_bundle, tmp_path / "b")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install 'dit-deploy[export]'" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from dit_deploy.cli import run
assert run(["generate", "--help"]) == 0
heavy = {"torch", "onnxruntime", "diffusers", "onnx", "rich.progress"} & set(sys.modules)
assert not heavy, heavy
"""
    result = process(code=code)
    assert result.returncode == 0, result.stderr


def test_a_reader_that_leaves(tiny_bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        command = [sys.executable, "-m", "dit_deploy.cli", "inspect", str(tiny_bundle)]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (141, "")
