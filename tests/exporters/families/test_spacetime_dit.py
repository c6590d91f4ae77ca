"""SpacetimeDiT: its graph at sizes it was not traced at, and its videos against the networks run by hand in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, T5EncoderModel

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import export
from dit_deploy.exporters.families import spacetime_dit
from dit_deploy.exporters.sources import Graph, Source, open_source
from dit_deploy.exporters.tracing import call, example_inputs, trace
from tests.families.parity import PLAIN, check_parity
from tests.families.spacetime_dit import CHANNELS, make_spacetime_dit

#: Exporting the pipeline takes half a minute; the network itself is tested beside its module.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу"]
#: Patches along frames, rows and columns; a picture is among them.
GRIDS = [(1, 4, 7), (4, 3, 2), (9, 1, 10)]
GRAPH, LATENTS, FRAMES = 1e-4, 1e-3, 1 / 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_spacetime_dit(tmp_path_factory.mktemp("spacetime"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return export(folder, folder / "bundle")


def denoiser(source: Source) -> Graph:
    return next(graph for graph in source.graphs if graph.name == "denoiser")


@pytest.mark.parametrize(
    "options",
    [
        {"window": (2, 4, 2)},
        {"attention": "factorised", "positions": "sincos"},
        {"attention": "factorised", "window": (4, 2, 4), "patch_size": (2, 1, 1)},
    ],
    ids=["windows", "factorised", "factorised windows, two frames a patch"],
)
def test_one_graph_serves_every_number_of_frames_height_and_width(tmp_path: Path, options: dict[str, Any]) -> None:
    source = make_spacetime_dit(tmp_path / "model", **options)
    graph = denoiser(open_source(source))
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    session = ort.InferenceSession(tmp_path / graph.component.path, providers=["CPUExecutionProvider"])
    network = spacetime_dit.load(source / "transformer")
    for number, (frames, height, width) in enumerate(GRIDS):
        sizes = {"batch": 1 + number, "patch_frames": frames, "patch_height": height, "patch_width": width}
        feeds = example_inputs(graph.component, {**sizes, "sequence_length": 1 + 8 * number}, number, graph.feeds)
        expected = call(network, feeds)[0]
        (found,) = session.run(None, feeds)
        assert found.shape == feeds["latents"].shape
        assert np.abs(found - expected).max() <= GRAPH * np.abs(expected).max()


@torch.no_grad()
def drawn(folder: Path, prompts: list[str], negative: str, scale: float, size: tuple[int, int, int], seed: int) -> Any:
    """Latents and frames [n, frames, height, width, 3] in 0 … 1 of ``size`` latent frames, rows and columns."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    text_encoder = T5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    network = spacetime_dit.load(folder / "transformer")
    texts = [negative] * len(prompts) + prompts
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=12, return_tensors="pt")
    states = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
    latents = torch.randn(len(prompts), CHANNELS, *size, generator=torch.Generator().manual_seed(seed))
    scheduler.set_timesteps(5)
    for timestep in scheduler.timesteps:
        both = torch.cat([latents, latents])
        unguided, guided = network(both, timestep.expand(len(both)), states, tokens.attention_mask)[0].chunk(2)
        latents = scheduler.step(unguided + scale * (guided - unguided), timestep, latents).prev_sample
    mean, std = (torch.tensor(vae.config[f"latents_{one}"])[:, None, None, None] for one in ("mean", "std"))
    frames = vae.decode(latents * std + mean).sample / 2 + 0.5
    return latents.numpy(), frames.clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


@pytest.mark.parametrize(
    ("prompts", "negative", "scale", "size"),
    [(PROMPTS[:1], "", 3.0, (5, 6, 8)), (PROMPTS, "low quality", 2.0, (1, 10, 4)), (PROMPTS, "", 3.0, (3, 4, 6))],
)
def test_videos_equal_those_of_the_networks_in_pytorch(
    folder: Path, bundle: Bundle, prompts: list[str], negative: str, scale: float, size: tuple[int, int, int]
) -> None:
    latents, frames = drawn(folder, prompts, negative, scale, size, seed=7)
    output = Pipeline(bundle, "onnx", threads=1)(
        prompt=prompts,
        negative_prompt=negative,
        guidance_scale=scale,
        num_inference_steps=5,
        num_frames=frames.shape[1],
        height=frames.shape[2],
        width=frames.shape[3],
        seed=7,
        output_type="numpy",
    )
    assert np.abs(output.latents - latents).max() <= LATENTS * np.abs(latents).max()
    assert np.asarray(output.frames).shape == frames.shape
    assert np.abs(np.asarray(output.frames) - frames).max() <= FRAMES


def test_the_manifest_says_what_the_folder_says(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.family, manifest.latents.frames, manifest.latents.frame_rate) == ("spacetime_dit", 5, 12)
    assert manifest.latents.temporal_compression == manifest.latents.spatial_compression == 4
    assert manifest.prediction.type == "flow_prediction"


def test_frames_that_do_not_fit_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match=r"num_frames: 7 came, .*5.*9"):
        Pipeline(bundle, "onnx", threads=1)(prompt="a cat", num_frames=7)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("transformer/config.json", {"_class_name": "DiT"}, "holds a DiT; expected SpacetimeDiT"),
        ("transformer/config.json", {"depth": 3}, "the weights do not fit their config.json"),
        ("transformer/config.json", {"text_width": 24}, "makes 20 channels, .* takes 24"),
        ("transformer/config.json", {"patch_size": [1, 2, 1]}, "a bundle has square ones"),
        ("transformer/config.json", {"sample_size": [5, 7, 8]}, "is not made of patches 1, 2, 2"),
        ("transformer/config.json", {"in_channels": 5}, "they do not belong together"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "DDIMScheduler", "prediction_type": "x"},
            "prediction_type",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path: Path, file: str, change: dict[str, Any], message: str) -> None:
    source = make_spacetime_dit(tmp_path / "model")
    path = source / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SourceError, match=message):
        denoiser(open_source(source)).build()


def test_parity_of_the_bundle(folder: Path, bundle: Bundle) -> None:
    check_parity(folder, bundle, (5, 16, 24), {PLAIN: "the loop of diffusers' pipelines"})
