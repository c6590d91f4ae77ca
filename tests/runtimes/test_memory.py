"""The VAE's pieces by a memory budget: estimates against what ONNX Runtime takes, choices against their limits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Tiling
from dit_deploy.bundle.activations import Noted, NotedGraph, NotedNode, peak_bytes, read_graph
from dit_deploy.cli import run
from dit_deploy.errors import BundleError, InputError
from dit_deploy.planning import graph_costs
from dit_deploy.runtimes import memory
from dit_deploy.runtimes.memory import decoder_bytes, pieces_within, read_bytes, smaller_pieces
from dit_deploy.runtimes.tiling import Pieces, Span, square

WHOLE = Pieces()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def test_what_is_noted_is_what_folding_finds(bundle: Bundle) -> None:
    """Shapes as the exporter notes them, without the packages that fold them, give the planned bytes and room."""
    for extent, batch in (((24, 24), 3), ((5, 9), 1)):
        sizes = {"batch": batch, "latent_height": extent[0], "latent_width": extent[1]}
        path, component = bundle.component_path("vae_decoder"), bundle.component("vae_decoder")
        planned = graph_costs(path, component, sizes).activations
        scores = 4 * batch * (extent[0] * extent[1]) ** 2  # of the one attention there is, of one head
        assert 2 * planned <= decoder_bytes(bundle, extent, batch) <= 2 * (planned + scores)
    graph = read_graph(path)
    assert [node.op_type for node in graph.nodes].count("Attention") == 1
    assert graph.weights and not graph.weights & {value for node in graph.nodes for value in node.outputs}


def test_shapes_that_are_not_told_are_no_small_ones(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(path: Path) -> NotedGraph:
        graph = read_graph(path)
        return replace(graph, values={**graph.values, graph.nodes[3].outputs[0]: Noted(1, ("batch", 4, "s38", "s97"))})

    monkeypatch.setattr(memory, "_noted", forgetful)
    with pytest.raises(InputError, match="does not tell the shapes of its values; give vae_tile"):
        decoder_bytes(bundle, (8, 8))


def test_the_largest_pieces_that_fit_are_chosen(bundle: Bundle) -> None:
    size = (64, 48)
    needed = {tile: decoder_bytes(bundle, (tile, tile)) for tile in (8, 16, 32)}
    whole = decoder_bytes(bundle, (64, 48))
    assert needed[8] < needed[16] < needed[32] < whole
    assert pieces_within(bundle, int(whole) + 1, size, WHOLE) == Pieces(samples=1)
    for tile in (8, 16, 32):
        chosen = pieces_within(bundle, int(needed[tile]) + 1, size, WHOLE)
        assert (chosen.height, chosen.samples) == (square(tile).height, 1)


def test_pictures_to_start_from_are_encoded_at_once(bundle: Bundle) -> None:
    budget = int(decoder_bytes(bundle, (32, 32))) + 1
    assert pieces_within(bundle, budget, (64, 64), WHOLE).height == Span(32, 24)
    many = pieces_within(bundle, budget, (64, 64), WHOLE, encoded=8).height
    assert many is not None
    assert many.tile < 32
    assert decoder_bytes(bundle, (many.tile, many.tile), 8) <= budget


def test_too_little_is_said(bundle: Bundle) -> None:
    with pytest.raises(
        InputError, match=r"vae_memory: 1k came; the smallest piece of this size needs (.*) beside"
    ) as e:
        pieces_within(bundle, 1000, (64, 64), WHOLE)
    enough = str(e.value).split("needs ")[1].split(" ")[0]
    assert pieces_within(bundle, enough, (64, 64), WHOLE).height == square(4).height


def test_a_video_may_be_cut_in_time_too() -> None:
    tiling = Tiling(tile_height=8, tile_width=8, stride_height=6, stride_width=6, tile_frames=4, stride_frames=3)
    pieces = Pieces.of(tiling)
    assert pieces.extent((9, 16, 12)) == (5, 8, 8)
    assert pieces.extent((9, 8, 6)) == (5, 8, 6)
    assert square(4).extent((9, 16, 3)) == (9, 4, 3)
    assert Pieces().extent((9, 16, 12)) == (9, 16, 12)


def test_what_tiles_there_are(bundle: Bundle) -> None:
    assert [tile for tile, _ in smaller_pieces(bundle.manifest, (40, 64), WHOLE)] == [128, 64, 32, 16]
    assert [tile for tile, _ in smaller_pieces(bundle.manifest, (4, 4), WHOLE)] == [16]


@pytest.mark.parametrize(
    ("given", "bytes_"),
    [(5, 5), ("2G", 2 * 10**9), ("1.5M", 1_500_000), ("512 MB", 512 * 10**6), ("100k", 100_000), ("7", 7)],
)
def test_numbers_of_bytes(given: object, bytes_: int) -> None:
    assert read_bytes(given) == bytes_


@pytest.mark.parametrize("given", [0, -1, "", "2 apples", "G", 1.5, True, "-3M", "0", "1" * 400])
def test_no_numbers_of_bytes(given: object) -> None:
    with pytest.raises(InputError, match=r"vae_memory: .* came, expected bytes above 0, such as 2G"):
        read_bytes(given)


def test_a_pipeline_keeps_to_its_budget(bundle: Bundle) -> None:
    arguments = {"class_labels": [3, 4, 5], "num_inference_steps": 1, "seed": 0, "height": 128, "width": 192}
    budget = int(decoder_bytes(bundle, (16, 16))) + 1
    pipe = Pipeline(bundle, "onnx", threads=1, vae_memory=budget)
    images = pipe(**arguments, output_type="numpy").images
    tiled = Pipeline(bundle, "onnx", threads=1)(**arguments, output_type="numpy", vae_tile=64).images
    np.testing.assert_allclose(images, tiled, atol=1e-6)
    whole = pipe(**arguments, output_type="numpy", vae_tile=4096).images
    assert np.abs(images - whole).max() > 1e-4, "a call's own tile has the last word"


def test_a_budget_is_checked_before_anything_is_drawn(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="vae_memory: '2 apples' came"):
        Pipeline(bundle, "onnx", vae_memory="2 apples")
    steps: list[int] = []
    pipe = Pipeline(bundle, "onnx", threads=1, vae_memory="1k")
    with pytest.raises(InputError, match="the smallest piece of this size needs"):
        pipe(class_labels=[1], num_inference_steps=1, callback=lambda step, total, sample: steps.append(step))
    assert steps == []
    assert pipe(class_labels=[1], num_inference_steps=1, output_type="latent").latents.size


def test_as_a_command(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(tiny_bundle), str(tmp_path / "a.png"), "--class-label", "1", "--steps", "1"]
    assert run([*words, "--vae-memory", "1G"]) == 0
    assert run([*words, "--vae-memory", "1k", "--overwrite"]) == 2
    assert "vae_memory: 1k came; the smallest piece" in capsys.readouterr().err


@pytest.mark.parametrize(
    "nodes",
    [[(("a",), ("a",))], [(("a",), ("b",)), (("b",), ("a",))], [((), ("a",))], [(("a",), ())]],
    ids=["of itself", "in a circle", "without input", "without output"],
)
def test_views_of_no_valid_graph_end(nodes: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    views = [NotedNode("Reshape", inputs, outputs) for inputs, outputs in nodes]
    assert peak_bytes(views, ["a"], ["a"], [], lambda value: 4.0) == 4.0


def test_a_graph_that_is_none(tmp_path: Path) -> None:
    for content, message in ((b"", "it is empty"), (b"\x08", "is cut off"), (b"\x08\x07", "it holds no graph")):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(BundleError, match=message):
            read_graph(tmp_path / "model.onnx")


#: The kernel's own record of the highest point, set back first: the process begins with its parent's.
_MEASURE = """
import re, sys
from dit_deploy import Bundle
from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner
bundle = Bundle.open(sys.argv[1])
runner = OnnxRuntimeRunner(bundle.component_path("vae_decoder"), bundle.component("vae_decoder"), threads=1)
sizes = lambda side: {"batch": 1, "latent_height": side, "latent_width": side}
status = lambda name: int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
runner.bind(sizes(4)).run()
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
binding = runner.bind(sizes(int(sys.argv[2])))
binding.inputs["latents"][...] = 0.5
binding.run()
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured through /proc")
@pytest.mark.parametrize("side", [48, 96])
def test_estimates_hold(tiny_bundle: Path, side: int) -> None:
    """Where attention's scores are the most of it, and where convolutions are."""
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tiny_bundle), str(side)], capture_output=True, text=True, check=True
    )
    estimate = decoder_bytes(Bundle.open(tiny_bundle), (side, side))
    print(f"side {side}: measured / estimated {int(result.stdout) / estimate:.2f}")
    assert 0.4 <= int(result.stdout) / estimate <= 1.0
