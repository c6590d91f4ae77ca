"""The committed pictures are those that Pillow makes now."""

from tests.runtimes.cpp.golden_images import PATH, document


def test_the_committed_pictures_are_what_the_script_writes() -> None:
    assert PATH.read_text() == document()
