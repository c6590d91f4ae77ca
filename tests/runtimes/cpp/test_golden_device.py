"""The committed graphs are those that the exporters make now."""

from tests.runtimes.cpp.golden_device import FOLDER, graphs


def test_the_committed_graphs_are_what_the_script_writes() -> None:
    for name, data in graphs().items():
        assert (FOLDER / name).read_bytes() == data, f"{name}: run python tests/runtimes/cpp/golden_device.py"
