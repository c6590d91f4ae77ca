"""The README claims nothing that a command in it does not show: its commands are run, in their order."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_commands_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = [
        line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ dit-deploy ")
    ]
    shown = {shlex.split(command)[1] for command in commands}
    assert shown >= {"export", "generate", "parity", "inspect", "verify", "build-engine"}
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        result = subprocess.run(
            [sys.executable, "-m", "dit_deploy.cli", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    for code in blocks("python"):
        result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
    for example, arguments in (
        ("class_to_image.py", ["fashion", "row.png", "7", "9"]),
        ("image_to_image.py", ["fashion", "examples/fashion/sneaker.png", "9", "boots.png"]),
    ):
        result = subprocess.run(
            [sys.executable, ROOT / "examples" / example, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stderr
    assert {"coat.png", "sneaker.png", "row.png", "boots.png"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "report" / "index.html").exists()


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "dit_deploy" / "bench" / "README.md"]
    for page in [*pages, *ROOT.glob("examples/**/README.md"), *ROOT.glob("runtimes/*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
