"""Memory and time of SpacetimeDiT on the CPU: measured by a script, memory linear with the fused attention."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from dit_deploy.bench._plot import Panel, draw
from dit_deploy.bench.graph_memory import has_proc
from dit_deploy.bench.spacetime_memory import SLACK, grid_of, measure, plot, text


@pytest.mark.slow
@pytest.mark.skipif(not has_proc(), reason="memory is measured through /proc")
def test_memory_is_linear_in_tokens_with_and_without_a_window() -> None:
    found = measure(tokens=(1024, 4096), hidden_size=48, num_heads=2, depth=1, window=(4, 4, 4), threads=1)
    rows = {(row["form"], row["tokens"]): row for row in found["rows"]}
    assert rows["all patches", 4096]["memory"] <= SLACK
    assert rows["window", 4096]["memory"] <= SLACK
    # Scores of every pair, had they been kept, are 4 bytes · heads · tokens².
    assert rows["all patches", 4096]["bytes"] < 4 * 2 * 4096**2
    assert all(row["time"] > 0 for row in found["rows"])
    assert "window            4096" in text(found)
    drawn = ElementTree.fromstring(plot(found))
    assert len(drawn.findall(".//{*}polyline")) == 4


def test_grids_have_as_many_patches_as_tokens() -> None:
    assert [grid_of(tokens) for tokens in (16, 1024, 4096, 16384)] == [
        (4, 2, 2),
        (16, 8, 8),
        (16, 16, 16),
        (16, 32, 32),
    ]
    with pytest.raises(ValueError, match="1000 tokens came, expected a power of 2"):
        grid_of(1000)


def test_tokens_that_are_no_power_of_two_are_refused() -> None:
    command = [sys.executable, "-m", "dit_deploy.bench.spacetime_memory", "--tokens", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--tokens: 8 tokens came, expected a power of 2 of at least 16" in done.stderr


def test_a_plot_places_points_by_their_logarithms() -> None:
    curves = {"a": [(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)], "b < c": [(1.0, 100.0), (100.0, 1.0)]}
    drawn = ElementTree.fromstring(draw([Panel("y", curves)], "x", "words & more"))
    first, second = (
        [tuple(map(float, one.split(","))) for one in line.get("points", "").split()]
        for line in drawn.findall(".//{*}polyline")
    )
    assert first[1] == pytest.approx(((first[0][0] + first[2][0]) / 2, (first[0][1] + first[2][1]) / 2), abs=0.1)
    assert second == [(first[0][0], first[2][1]), (first[2][0], first[0][1])]
    assert {"b < c", "x", "y"} <= {one.text for one in drawn.findall(".//{*}text")}
