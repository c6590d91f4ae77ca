"""The golden files of the C++ runtime's sampling tests are what their generator writes now."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
golden_sampling = pytest.importorskip("tests.runtimes.cpp.golden_sampling")

DOCUMENTS = golden_sampling.documents()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_file_is_what_would_be_written(name: str) -> None:
    assert golden_sampling.check(name, DOCUMENTS[name]) == []


def test_a_difference_names_the_place_and_the_command() -> None:
    document = copy.deepcopy(DOCUMENTS["noise"])
    document["runs"][3]["draws"][0]["values"][2] += 1e-4
    (line,) = golden_sampling.check("noise", document)
    assert line.startswith("noise.json: .runs[3].draws[0].values[2] is ")
    assert line.endswith("run python tests/runtimes/cpp/golden_sampling.py")
