"""Parity and bench of bundles that read prompts: PixArt, SD3 and FLUX against diffusers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dit_deploy.bench import bench, candidates, timing
from dit_deploy.bundle import Bundle
from dit_deploy.cli import run
from dit_deploy.errors import BackendError, InputError
from dit_deploy.exporters import export, open_source
from dit_deploy.parity import ParityReport, parity
from dit_deploy.runtimes.torch import TorchReference
from tests.families import flux, pixart, sd3
from tests.families.text_bundle import text_source
from tests.parity.altered import perturb, rebuild

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("traced_once")]

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
STEPS = 3
LOOP = "the loop of diffusers' pipelines, with its scheduler"


@dataclass(frozen=True)
class Case:
    """A pipeline's folder and the bundle made of it."""

    folder: Path
    bundle: Bundle
    reference: TorchReference
    size: tuple[int, int]

    def check(self, bundle: Bundle | None = None, **arguments: Any) -> ParityReport:
        height, width = self.size
        given = {"prompts": PROMPTS, "num_inference_steps": STEPS, "height": height, "width": width, "threads": 1}
        return parity(bundle or self.bundle, self.reference, **{**given, **arguments})


def made(make: Callable[[Path], Path], folder: Path, size: tuple[int, int]) -> Case:
    """Export at a usual size of a few pixels, whatever the family takes for usual."""
    source = make(folder / "source")
    opened = open_source(source)
    compression = opened.latents.spatial_compression
    height, width = (side // compression for side in size)
    small = replace(opened, latents=opened.latents.model_copy(update={"height": height, "width": width}))
    return Case(source, export(small, folder / "bundle"), TorchReference.open(source), size)


@pytest.fixture(scope="module")
def sigma(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(pixart.sigma, tmp_path_factory.mktemp("sigma"), (48, 32))


@pytest.fixture(scope="module")
def sd35(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(sd3.sd35, tmp_path_factory.mktemp("sd35"), (24, 40))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(flux.make_flux, tmp_path_factory.mktemp("flux"), (24, 40))


CASES = [
    pytest.param("sigma", "diffusers PixArtSigmaPipeline", id="PixArt"),
    pytest.param("sd35", "diffusers StableDiffusion3Pipeline", id="SD3"),
    # FLUX packs its latents: the steps are the loop's, the pictures the pipeline's.
    pytest.param("dev", f"{LOOP}; its FluxPipeline drew the pictures", id="FLUX"),
]


@pytest.mark.parametrize(("name", "implementation"), CASES)
def test_a_good_bundle_passes(request: pytest.FixtureRequest, name: str, implementation: str) -> None:
    case: Case = request.getfixturevalue(name)
    report = case.check(negative_prompt="low quality, blurry")
    assert report.first_excess is None
    assert {row.component for row in report.components} == set(case.bundle.manifest.components)
    generation, image_to_image = report.runs
    assert (generation.implementation, image_to_image.implementation) == (implementation, LOOP)
    assert (generation.steps, len(generation.accumulated)) == (STEPS, STEPS + 1)
    for drawn in report.runs:
        assert 0 < max(drawn.accumulated) < 1e-4
        assert 0 < max(drawn.single_step) < 1e-4
        assert [picture.name for picture in drawn.pictures] == PROMPTS
        assert all(picture.psnr > 80 for picture in drawn.pictures)
    assert report.notes == []
    assert generation.settings["prompt"] == PROMPTS
    assert json.dumps(report.to_dict(), allow_nan=False)


def changed_weights(component: str) -> Callable[[Bundle], Callable[[Path], None]]:
    def of(bundle: Bundle) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            graph = folder / bundle.component(component).path
            perturb(graph, largest_weight(graph), 1.05)

        return change

    return of


def changed_config(path: str, **fields: Any) -> Callable[[Bundle], Callable[[Path], None]]:
    def of(bundle: Bundle) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            file = folder / path
            file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

        return change

    return of


def largest_weight(graph: Path) -> str:
    """Return the name of a weight of a linear layer in the middle of the graph, of those that a run uses."""
    model = onnx.load(graph, load_external_data=False)
    matrices = [tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2 and tensor.external_data]
    used = [node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    chosen = [name for name in used if name in matrices]
    return chosen[len(chosen) // 2]


@pytest.mark.parametrize(
    ("name", "change", "excess"),
    [
        pytest.param("sigma", changed_weights("denoiser"), "denoiser at ", id="PixArt's denoiser"),
        pytest.param("sigma", changed_weights("text_encoder"), "text encoder at ", id="PixArt's text encoder"),
        pytest.param(
            "sigma",
            changed_config("scheduler/scheduler_config.json", beta_end=0.0201),
            f"generation, step 1 of {STEPS}: latents off by",
            id="PixArt's scheduler",
        ),
        pytest.param(
            "sigma",
            changed_config("tokenizer/tokenizer.json", post_processor=None),
            f"generation, step 1 of {STEPS}: latents off by",
            id="PixArt's tokenizer",
        ),
        pytest.param("sd35", changed_weights("denoiser"), "denoiser at ", id="SD3's denoiser"),
        pytest.param("sd35", changed_weights("text_encoder_2"), "text encoder 2 at ", id="SD3's CLIP"),
        pytest.param("dev", changed_weights("denoiser"), "denoiser at ", id="FLUX's denoiser"),
        pytest.param(
            "dev",
            changed_config("scheduler/scheduler_config.json", max_shift=1.3, base_shift=0.6),
            f"generation, step 1 of {STEPS}: latents off by",
            id="FLUX's shift",
        ),
    ],
)
def test_an_altered_bundle_fails_where_it_is(
    request: pytest.FixtureRequest,
    name: str,
    change: Callable[[Bundle], Callable[[Path], None]],
    excess: str,
    tmp_path: Path,
) -> None:
    case: Case = request.getfixturevalue(name)
    report = case.check(rebuild(case.bundle, tmp_path / "altered", change(case.bundle)))
    assert not report.passed
    assert str(report.first_excess).startswith(excess)


def test_prompts_are_compared_by_default(sigma: Case) -> None:
    report = sigma.check(prompts=None)
    assert report.passed
    assert len(report.runs[0].pictures) == 2


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    """Without a pipeline of diffusers the loop alone is the reference; there is no VAE either."""
    source = text_source(tmp_path)
    bare = replace(source, latents=source.latents.model_copy(update={"spatial_compression": 1}))
    report = parity(
        export(bare, tmp_path / "bundle"), TorchReference(bare), prompts=PROMPTS, num_inference_steps=STEPS, threads=1
    )
    assert report.first_excess is None
    assert [run.implementation for run in report.runs] == [LOOP]


def test_bad_input(sigma: Case) -> None:
    with pytest.raises(InputError, match="class_labels: this bundle's denoiser takes none; give prompts"):
        sigma.check(class_labels=[1])
    with pytest.raises(InputError, match="negative_prompt: 3 came for 2 prompts"):
        sigma.check(negative_prompt=["a", "b", "c"])


def test_parity_as_a_command(sigma: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = rebuild(sigma.bundle, tmp_path / "copy", lambda folder: None)
    words = ["--prompt", "a red cat", "--prompt", "a dog", "--negative-prompt", "blurry", "--steps", 2, "--quiet"]
    report = tmp_path / "report"
    assert run(list(map(str, ["parity", bundle.path, "--reference", sigma.folder, *words, "--report", report]))) == 0
    assert "within the limits of fp32" in capsys.readouterr().out
    assert "a red cat" in (report / "index.html").read_text(encoding="utf-8")
    document = json.loads((bundle.path / "parity" / "onnx.json").read_text())
    assert document["runs"][0]["settings"]["prompt"] == ["a red cat", "a dog"]


def test_bench_beside_pytorch(sigma: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: object) -> None:
        raise BackendError("no compiler today")

    monkeypatch.setattr(timing, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 0.001)
    monkeypatch.setattr(candidates, "_compile", refuse)
    report = bench(sigma.bundle, reference=sigma.folder, prompts=PROMPTS, batch=3, steps=2, repeats=2, threads=1)
    assert list(report.forward) == list(report.run) == ["PyTorch eager", "onnx"]
    assert 0 < report.differences["onnx"] < 1e-4
    assert report.settings["forward_batch"] == 6
    assert report.absent == {"torch.compile": "no compiler today"}
    assert all(np.isfinite(timing.seconds).all() for timing in report.run.values())
