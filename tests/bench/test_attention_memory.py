"""Memory of attention on the CPU: the measurement tells linear from quadratic, and MultiHeadAttention is linear."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dit_deploy.bench.attention_memory import SLACK, measure, text

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")


@pytest.mark.slow
def test_memory_is_linear_in_tokens_in_one_form_and_quadratic_in_the_other() -> None:
    found = measure(tokens=(1024, 4096), hidden_size=64, num_heads=4, depth=1)
    linear = {(row["form"], row["tokens"]): row["linear"] for row in found["rows"]}
    assert linear["microsoft", 4096] <= SLACK
    assert linear["onnx", 4096] > 2 * SLACK
    scores = 4 * 4 * 4096**2  # heads · tokens² floats
    size = {row["form"]: row["bytes"] for row in found["rows"] if row["tokens"] == 4096}
    assert size["onnx"] > scores > 4 * size["microsoft"]
    assert "microsoft       4096" in text(found)


def test_tokens_that_are_no_square_are_refused() -> None:
    command = [sys.executable, "-m", "dit_deploy.bench.attention_memory", "--tokens", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--tokens: [1000] came, expected square numbers" in done.stderr
