"""CogVideoX's autoencoder as one graph a half, against diffusers' loop over chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from dit_deploy.bundle import Axis
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_cogvideox as autoencoder
from dit_deploy.exporters import proof
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.tracing import call, example_inputs, trace, traced_sizes
from tests.families.cogvideox import LATENT_CHANNELS, make_vae

#: (batch, latent_frames, latent_height, latent_width); a video has 8 · latent_frames − 7 pictures.
SIZES = [(1, 1, 3, 5), (3, 2, 4, 3), (2, 4, 5, 2), (1, 3, 1, 6), (3, 1, 2, 2)]
LIMIT = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vae")
    make_vae(image=True).save_pretrained(made)
    return made


def halves(folder: Path, padding: int) -> dict[str, Graph]:
    config = autoencoder.read(folder, LATENT_CHANNELS)
    graphs = autoencoder.graphs(folder, config, padding)
    first = autoencoder.image_graph(folder, config, padding, "image_conditions", "image_latents")
    return {graph.name: graph for graph in (*graphs, first)}


def free_sizes(size: tuple[int, ...]) -> dict[str, int]:
    return dict(zip(("batch", "latent_frames", "latent_height", "latent_width"), size, strict=True))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and expected.std() > 0.01
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("padding", "sizes"), [(0, SIZES), (1, SIZES[:2])], ids=["", "padded"])
@pytest.mark.parametrize("half", ["vae_encoder", "vae_decoder", "image_conditions"])
def test_the_network_is_diffusers(folder: Path, half: str, padding: int, sizes: list[tuple[int, ...]]) -> None:
    graph = halves(folder, padding)[half]
    assert graph.reference is not None
    ours, theirs = graph.build(), graph.reference()
    for size in sizes:
        feeds = example_inputs(graph.component, free_sizes(size), sum(size), graph.feeds)
        for found, expected in zip(call(ours, feeds), call(theirs, feeds), strict=True):
            assert difference(found, expected) <= 1e-5


def test_chunks_matter(folder: Path) -> None:
    """What this file is about: diffusers' own decoder gives another video if it is handed all frames at once."""
    vae = AutoencoderKLCogVideoX.from_pretrained(folder).eval()
    latents = torch.randn(1, LATENT_CHANNELS, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        chunks = vae.decode(latents).sample
        vae.num_latent_frames_batch_size = 5
        assert difference(vae.decode(latents).sample.numpy(), chunks.numpy()) > 1e-2


def test_an_even_number_of_latent_frames_is_another_network(folder: Path) -> None:
    """diffusers makes 4 pictures of the first of 4 latent frames, and 1 of the first of 5; here it is 1 always."""
    vae = AutoencoderKLCogVideoX.from_pretrained(folder).eval()
    with torch.no_grad():
        counts = [vae.decode(torch.randn(1, LATENT_CHANNELS, frames, 2, 2)).sample.shape[2] for frames in (3, 4, 5)]
    assert counts == [9, 16, 17]
    decoder = halves(folder, 0)["vae_decoder"].component
    latents, pictures = decoder.input("latents").axes[2], decoder.output("images").axes[2]
    assert isinstance(latents, Axis) and isinstance(pictures, Axis)
    assert [latents.free(frames) for frames in (1, 2, 3, 4, 5)] == [1, None, 2, None, 3]
    assert [pictures.size(free) for free in (1, 2, 3)] == [1, 9, 17]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent_channels": 5}, "has 5 latent channels, the denoiser 4"),
        ({"temporal_compression_ratio": 8}, "temporal_compression_ratio 8 and 3 levels; expected 4"),
        ({"block_out_channels": [8, 8]}, "temporal_compression_ratio 4 and 2 levels"),
        ({"use_quant_conv": True}, "use_quant_conv=True, which no CogVideoX has"),
        ({"shift_factor": 0.1}, "shift_factor=0.1, which no CogVideoX has"),
        ({"_class_name": "AutoencoderKLMochi"}, "holds a AutoencoderKLMochi; expected AutoencoderKLCogVideoX"),
    ],
)
def test_other_autoencoders(folder: Path, tmp_path: Path, values: dict[str, Any], message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if len(values.get("block_out_channels", ())) == 2:
        values = {**values, **{name: config[name][:2] for name in ("down_block_types", "up_block_types")}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(SourceError, match=message):
        autoencoder.read(tmp_path, LATENT_CHANNELS)


def test_pieces_are_diffusers(folder: Path) -> None:
    vae = AutoencoderKLCogVideoX.from_pretrained(folder)
    pieces = autoencoder.tiling(autoencoder.read(folder, LATENT_CHANNELS))
    assert (pieces.tile_height, pieces.tile_width) == (vae.tile_latent_min_height, vae.tile_latent_min_width) == (6, 10)
    assert (pieces.stride_height, pieces.stride_width, pieces.tile_frames) == (5, 8, None)


@pytest.mark.slow
@pytest.mark.parametrize("half", ["vae_encoder", "vae_decoder"])
def test_the_plain_graph_is_diffusers(folder: Path, tmp_path: Path, half: str) -> None:
    graph = halves(folder, 0)[half]
    trace(graph.build(), graph.component, tmp_path)
    assert graph.reference is not None
    reference = graph.reference()
    session = ort.InferenceSession(tmp_path / graph.component.path, providers=["CPUExecutionProvider"])
    for size in SIZES:
        assert free_sizes(size) != traced_sizes(graph.component)
        feeds = example_inputs(graph.component, free_sizes(size), sum(size))
        for found, expected in zip(session.run(None, feeds), call(reference, feeds), strict=True):
            assert difference(found, expected) <= LIMIT
    expected = proof.expect(reference, graph.component, dict(graph.typical))
    assert proof.check(tmp_path / graph.component.path, graph.component, expected) <= LIMIT
