"""The page: well formed, whole in itself, and safe with any text."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_deploy.errors import InputError
from dit_deploy.parity import ParityReport, write_report
from dit_deploy.parity.html import report_page
from dit_deploy.parity.pictures import amplification, amplified

VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """Checks that elements nest, and collects what a page refers to and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [str(found[name]) for name in ("src", "href") if name in found]
        self.ids += [str(found["id"])] if "id" in found else []
        if tag == "img":
            self.images.append(found)
        assert tag not in ("script", "iframe", "object")
        assert not any(name.startswith("on") for name in found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_in_itself(report: ParityReport, tmp_path: Path) -> None:
    path = write_report(report, tmp_path / "new" / "report")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == tmp_path / "new" / "report" / "index.html"
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    assert all(address.startswith("data:") for address in page.addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert text.count('<svg viewBox="0 0 760') == 2
    for words in ("Passed.", "What was compared", "kind 3", "PSNR", "SSIM", "Limits of fp32", "Machine"):
        assert words in page.text


def test_both_pictures_and_their_difference(report: ParityReport) -> None:
    page = Page(report_page(report))
    assert [image["alt"] for image in page.images[:2]] == ["kind 3: drawn by PyTorch", "kind 3: drawn by the engine"]
    assert str(page.images[2]["alt"]).startswith("kind 3: difference × ")
    assert len(page.images) == 12, "two runs of two classes, three pictures each"
    data = base64.b64decode(str(page.images[0]["src"]).partition(",")[2])
    drawn = np.asarray(Image.open(io.BytesIO(data)))
    expected = report.runs[0].reference_images
    assert expected is not None
    assert np.array_equal(drawn, np.round(expected[0] * 255))


def test_a_failure_says_where(report: ParityReport) -> None:
    worse = replace(report.components[0], relative=0.3)
    page = Page(report_page(replace(report, components=[worse], notes=["Another checkpoint."])))
    assert "Failed." in page.text
    assert "vae encoder at batch 2" in page.text
    assert "Another checkpoint." in page.text


def test_a_run_without_pictures_or_with_infinite_errors(report: ParityReport) -> None:
    run = report.runs[0]
    broken = replace(
        run,
        accumulated=(0.0, *[float("inf")] * run.steps),
        single_step=(float("nan"),) * run.steps,
        pictures=(),
        images=None,
        failure="the latents hold NaN",
    )
    page = Page(report_page(replace(report, runs=[broken])))
    assert "not finite" in page.text
    assert "The engine’s run ended early: the latents hold NaN" in page.text
    assert page.images == []


def test_equal_pictures_have_no_factor(report: ParityReport) -> None:
    run = replace(report.runs[0], images=report.runs[0].reference_images)
    assert "no difference" in Page(report_page(replace(report, runs=[run]))).text


def test_names_are_text(report: ParityReport) -> None:
    nasty = '<img src=x onerror="alert(1)">&amp;'
    run = report.runs[0]
    named = replace(run, pictures=tuple(replace(picture, name=nasty) for picture in run.pictures), failure=nasty)
    page = Page(report_page(replace(report, subject={"bundle": nasty}, runs=[named], notes=[nasty])))
    assert page.open == []
    assert nasty in page.text
    assert all(address.startswith("data:") for address in page.addresses)


def test_the_largest_difference_is_brought_to_white() -> None:
    reference = np.full((1, 4, 4, 3), 0.5, np.float32)
    image = reference.copy()
    image[0, 1, 2, 0] += 0.003
    factor = amplification(image, reference)
    assert factor == pytest.approx(330)
    assert 0.98 < amplified(image, reference, factor).max() <= 1.0
    assert amplification(reference, reference) is None
    assert amplification(np.full_like(reference, np.nan), reference) is not None


def test_an_older_report_is_replaced_and_a_file_is_left_alone(report: ParityReport, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "kept.txt").write_text("kept")
    write_report(report, tmp_path)
    assert "Passed." in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "kept.txt"]
    with pytest.raises(InputError, match="is a file; give a folder"):
        write_report(report, tmp_path / "kept.txt")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(report, tmp_path / "kept.txt" / "below")
    assert (tmp_path / "kept.txt").read_text() == "kept"
