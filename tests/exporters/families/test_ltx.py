"""LTX-Video: our graphs and videos against diffusers' transformer, autoencoder and two pipelines, unmodified."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Tiling
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import autoencoder_ltx, export
from dit_deploy.exporters.families.ltx import Rotary
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import call, example_inputs, trace, traced_sizes
from dit_deploy.runtimes.autoencoder import Compression, decode, encode
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.runtimes.tiling import Pieces
from dit_deploy.sampling import NoiseSource
from tests.families import ltx

#: Exporting a whole pipeline takes half a minute; PixArt, beside this file, is the family of the fast tests.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
LATENTS, FRAMES, EMBEDDINGS, GRAPH = 1e-3, 1 / 255, 1e-4, 1e-4
#: What 0.9.1 is asked for in its model card: a decoder that takes a little noise away.
DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}


class Case:
    """The pipelines of diffusers, and ours from one bundle."""

    def __init__(self, base: Path, version: str, **options: Any) -> None:
        self.folder = ltx.make_ltx(base / "source", version, **options)
        self.bundle = export(self.folder, base / "bundle")
        self.ours = Pipeline(self.bundle, "onnx", threads=1)
        self.text = LTXPipeline.from_pretrained(self.folder, low_cpu_mem_usage=False)
        self.image = LTXImageToVideoPipeline(**self.text.components)
        for pipeline in (self.text, self.image):
            pipeline.set_progress_bar_config(disable=True)

    def draw(self, output_type: str, **arguments: Any) -> np.ndarray:
        """Return latents [batch, channels, frames, height, width] or frames [batch, frames, height, width, 3]."""
        pipeline = self.image if "image" in arguments else self.text
        made = np.asarray(pipeline(**arguments, output_type=output_type).frames)
        if output_type != "latent":
            return made
        space, time = pipeline.vae_spatial_compression_ratio, pipeline.vae_temporal_compression_ratio
        sizes = (arguments["num_frames"] - 1) // time + 1, arguments["height"] // space, arguments["width"] // space
        return made.transpose(0, 2, 1).reshape(len(made), -1, *sizes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """0.9.0, whose rotary fills all channels."""
    return Case(tmp_path_factory.mktemp("plain"), "0.9.0")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """0.9.1, whose decoder takes noise, with four channels that rotary leaves alone."""
    return Case(tmp_path_factory.mktemp("noisy"), "0.9.1", heads=5)


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and expected.any()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(case: Case, seed: int = 7, **arguments: Any) -> None:
    """Draw with both pipelines: latents within 1e-3 of the largest value, frames within 1/255."""
    given = {"num_inference_steps": 4, **arguments}
    ours = case.ours(**given, seed=seed, output_type="numpy")
    latents, video = (
        case.draw(kind, **given, generator=torch.Generator("cpu").manual_seed(seed)) for kind in ("latent", "np")
    )
    assert video.std() > 0.05
    assert difference(ours.latents, latents) <= LATENTS
    assert np.abs(np.asarray(ours.frames) - video).max() <= FRAMES


def picture(width: int, height: int, seed: int = 5) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def onnx_difference(file: Path, graph: Graph, free: dict[str, int]) -> float:
    """Hold a graph's file, run by ONNX Runtime alone at sizes not traced, against what diffusers gives."""
    assert free != traced_sizes(graph.component)
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    feeds = example_inputs(graph.component, free, sum(free.values()), graph.feeds)
    assert graph.reference is not None
    found, expected = session.run(None, feeds), call(graph.reference(), feeds)
    return max(difference(*pair) for pair in zip(found, expected, strict=True))


def graphs(folder: Path) -> dict[str, Graph]:
    return {graph.name: graph for graph in open_source(folder).graphs}


@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1, 1), (3, 1, 2, 5, 128), (1, 7, 3, 3, 9), (3, 5, 6, 2, 4), (1, 21, 16, 22, 3)],
    ids=lambda sizes: "x".join(map(str, sizes)),
)
@pytest.mark.parametrize("version", ["plain", "noisy"])
def test_the_plain_graph_is_the_transformer(
    request: pytest.FixtureRequest, version: str, sizes: tuple[int, ...]
) -> None:
    """At (batch, frames, height, width, tokens); the last grid is the pipelines' usual one."""
    case: Case = request.getfixturevalue(version)
    free = dict(zip(("batch", "patch_frames", "patch_height", "patch_width", "sequence_length"), sizes, strict=True))
    assert onnx_difference(case.bundle.component_path("denoiser"), graphs(case.folder)["denoiser"], free) <= GRAPH


VAE_SIZES = [(1, 1, 1, 1), (3, 2, 3, 1), (2, 5, 2, 4)]


@pytest.mark.parametrize("sizes", VAE_SIZES, ids=lambda sizes: "x".join(map(str, sizes)))
@pytest.mark.parametrize("name", ["vae_encoder", "vae_decoder", "image_conditions"])
@pytest.mark.parametrize("version", ["plain", "noisy"])
def test_the_plain_graph_is_the_autoencoder(
    request: pytest.FixtureRequest, version: str, name: str, sizes: tuple[int, ...]
) -> None:
    case: Case = request.getfixturevalue(version)
    free = dict(zip(("batch", "latent_frames", "latent_height", "latent_width"), sizes, strict=True))
    assert onnx_difference(case.bundle.component_path(name), graphs(case.folder)[name], free) <= GRAPH


@pytest.mark.parametrize("name", ["vae_encoder", "vae_decoder"])
def test_the_later_autoencoder_too(tmp_path: Path, name: str) -> None:
    """0.9.5: an encoder that goes down in space, in time and in both, with residuals."""
    ltx.make_autoencoder("0.9.5").save_pretrained(tmp_path / "vae")
    halves = autoencoder_ltx.halves(
        tmp_path / "vae", ltx.CHANNELS, {"latent_frames": 2, "latent_height": 2, "latent_width": 2}
    )
    assert (halves.spatial, halves.temporal) == (16, 8)
    (graph,) = (one for one in halves.graphs if one.name == name)
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    for sizes in VAE_SIZES:
        free = dict(zip(("batch", "latent_frames", "latent_height", "latent_width"), sizes, strict=True))
        assert onnx_difference(tmp_path / graph.component.path, graph, free) <= GRAPH


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "num_frames": 9, "height": 32, "width": 64},
        {"prompt": PROMPTS[1], "negative_prompt": NEGATIVES[0], "guidance_scale": 5.0, "guidance_rescale": 0.4}
        | {"num_frames": 1, "height": 64, "width": 32, "frame_rate": 8},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "num_frames": 5, "height": 32, "width": 96},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_frames": 21, "height": 32, "width": 32, "frame_rate": 30},
    ],
    ids=["usual", "one frame", "two prompts", "unguided"],
)
def test_videos_are_diffusers(plain: Case, arguments: dict[str, Any]) -> None:
    compare(plain, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "image": picture(96, 64), "num_frames": 13, "height": 64, "width": 96},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "image": picture(64, 32), "guidance_scale": 5.0}
        | {"num_frames": 5, "height": 32, "width": 64, "guidance_rescale": 0.4},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "image": [picture(32, 32), picture(32, 32, 6)]}
        | {"num_frames": 9, "height": 32, "width": 32, "frame_rate": 30},
    ],
    ids=["one", "one for two prompts", "two"],
)
def test_a_first_picture_is_continued_as_diffusers_does(plain: Case, arguments: dict[str, Any]) -> None:
    compare(plain, **arguments)


def test_a_picture_of_another_aspect_is_stretched_as_diffusers_does_and_that_is_said(plain: Case) -> None:
    with pytest.warns(UserWarning, match="a picture of 50×40 pixels was stretched to 32×64"):
        compare(plain, prompt=PROMPTS[0], image=picture(50, 40), num_frames=5, height=64, width=32)


def test_several_seeds_are_several_generators(plain: Case) -> None:
    arguments = {"prompt": PROMPTS, "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 3}
    for extra in ({}, {"image": [picture(32, 32), picture(32, 32, 6)]}):
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in (3, 4)]
        expected = plain.draw("latent", **arguments, **extra, generator=generators)
        ours = plain.ours(**arguments, **extra, seed=[3, 4], output_type="latent")
        assert difference(ours.latents, expected) <= LATENTS


@contextmanager
def noise_of_layers(decoder_noise: np.ndarray) -> Iterator[None]:
    """Let what 0.9.1's layers draw from torch's global generator, and that alone, be ``decoder_noise``."""
    original, numbers, done = torch.randn, torch.from_numpy(decoder_noise).flatten(), 0

    def randn(*size: Any, generator: torch.Generator | None = None, **options: Any) -> torch.Tensor:
        nonlocal done
        if generator is not None:
            return original(*size, generator=generator, **options)
        shape = tuple(size[0])
        done += (count := int(np.prod(shape)))
        return numbers[done - count : done].reshape(shape)

    torch.randn = randn  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn = original
    assert done == len(numbers)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "num_frames": 9, "height": 32, "width": 64, **DECODING},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVES, "num_frames": 5, "height": 64, "width": 32}
        | {"decode_timestep": 0.3},
        {"prompt": PROMPTS[1], "num_frames": 1, "height": 32, "width": 32},
        {"prompt": PROMPTS[1], "image": picture(64, 32), "num_frames": 13, "height": 32, "width": 64, **DECODING},
    ],
    ids=["as recommended", "timestep alone", "neither", "from a picture"],
)
def test_a_decoder_that_takes_noise(noisy: Case, arguments: dict[str, Any]) -> None:
    """Its noise is the seed's; that of its layers cannot be diffusers', which no seed of a pipeline decides."""
    source, latents = NoiseSource(7), noisy.bundle.manifest.latents
    space, time = latents.spatial_compression, latents.temporal_compression
    sizes = ((arguments["num_frames"] - 1) // time + 1, arguments["height"] // space, arguments["width"] // space)
    batch = len(arguments["prompt"]) if isinstance(arguments["prompt"], list) else 1
    if "image" in arguments:
        source.draw((1, latents.channels, 1, *sizes[1:]))
    for _ in range(2):
        source.draw((batch, latents.channels, *sizes))
    planes = noisy.bundle.component("vae_decoder").input("noise_inner").axes[0]
    assert isinstance(planes, int)
    with noise_of_layers(source.draw((planes, *sizes[1:]))):
        given = {"num_inference_steps": 3, **arguments}
        video = noisy.draw("np", **given, generator=torch.Generator("cpu").manual_seed(7))
    ours = noisy.ours(**given, seed=7, output_type="numpy")
    latents_theirs = noisy.draw("latent", **given, generator=torch.Generator("cpu").manual_seed(7))
    assert difference(ours.latents, latents_theirs) <= LATENTS
    assert np.abs(np.asarray(ours.frames) - video).max() <= FRAMES


def test_the_same_seed_draws_the_same_frames(noisy: Case) -> None:
    arguments = {"prompt": PROMPTS[0], "num_frames": 5, "height": 32, "width": 32, "num_inference_steps": 2}
    first, second, other = (
        np.asarray(noisy.ours(**arguments, seed=seed, output_type="numpy").frames) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def set_pieces(vae: Any, space: int, time: int) -> Tiling:
    """Let diffusers cut latents larger than 6 × 5 pixels and 3 frames; return the same for ours."""
    vae.enable_tiling(6 * space, 5 * space, 3 * time, 4 * space, 3 * space, 2 * time)
    return Tiling(tile_height=6, tile_width=5, stride_height=4, stride_width=3, tile_frames=3, stride_frames=2)


@pytest.fixture
def tiled(plain: Case) -> tuple[Any, Tiling]:
    vae = autoencoder_ltx._load(plain.folder / "vae")
    return vae, set_pieces(vae, vae.spatial_compression_ratio, vae.temporal_compression_ratio)


@torch.no_grad()
def theirs_decoded(vae: Any, latents: np.ndarray) -> np.ndarray:
    """Return frames [batch, frames, height, width, 3] in 0 … 1."""
    z = autoencoder_ltx._Normalisation(vae, vae.config.scaling_factor).back(torch.from_numpy(latents))
    return (vae.decode(z, return_dict=False)[0] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


@pytest.mark.parametrize("size", [(3, 6, 9), (2, 11, 5), (1, 7, 8)], ids=str)
def test_large_frames_are_decoded_in_pieces(plain: Case, tiled: tuple[Any, Tiling], size: tuple[int, int, int]) -> None:
    vae, tiling = tiled
    latents = np.random.default_rng(2).standard_normal((2, ltx.CHANNELS, *size)).astype(np.float32)
    compression = Compression.of(plain.bundle.manifest)
    pool = plain.ours.pool("vae_decoder")
    expected = theirs_decoded(vae, latents)
    found, _ = decode(pool, latents, compression, Pieces.of(tiling))
    assert difference(found, expected) <= GRAPH
    whole, _ = decode(pool, latents, compression)
    assert difference(whole, expected) > GRAPH


@torch.no_grad()
@pytest.mark.parametrize("size", [(3, 6, 9), (1, 11, 5)], ids=str)
def test_large_frames_are_encoded_in_pieces(plain: Case, tiled: tuple[Any, Tiling], size: tuple[int, int, int]) -> None:
    vae, tiling = tiled
    compression = Compression.of(plain.bundle.manifest)
    pixels = (1 + (size[0] - 1) * compression.time, size[1] * compression.space, size[2] * compression.space)
    images = np.random.default_rng(2).random((2, 3, *pixels)).astype(np.float32)
    posterior = vae.encode(torch.from_numpy(images) * 2 - 1).latent_dist
    normalise = autoencoder_ltx._Normalisation(vae, vae.config.scaling_factor)
    noise = NoiseSource(5).draw((2, ltx.CHANNELS, *size))
    expected = normalise(posterior.mean + posterior.std * torch.from_numpy(noise)).numpy()
    found, _ = encode(
        plain.ours.pool("vae_encoder"), images, (2, ltx.CHANNELS, *size), NoiseSource(5), Pieces.of(tiling), compression
    )
    assert difference(found, expected) <= GRAPH


def test_long_videos_are_decoded_in_pieces_of_time(plain: Case, tiled: tuple[Any, Tiling]) -> None:
    """Pieces after the first begin one frame early, whose picture is dropped.

    ``AutoencoderKLLTXVideo`` drops the last picture instead, though its encoder drops the first frame, and those of
    HunyuanVideo and Wan do: with ``use_framewise_decoding``, which is off by default, what follows the first piece
    comes a frame late. With the right one dropped, its blending is the reference.
    """
    vae, tiling = tiled
    latents = np.random.default_rng(2).standard_normal((1, ltx.CHANNELS, 8, 7, 4)).astype(np.float32)
    compression = Compression.of(plain.bundle.manifest)
    found, _ = decode(plain.ours.pool("vae_decoder"), latents, compression, Pieces.of(tiling))
    vae.use_framewise_decoding = True
    late = theirs_decoded(vae, latents)
    assert late.shape == found.shape and difference(found, late) > 0.1

    stride, first = tiling.stride_frames, found[:, : compression.time * 2 + 1]
    assert stride == 2
    assert difference(first, late[:, : compression.time * 2 + 1]) <= GRAPH
    original = vae.decoder.forward

    def forward(z: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        made = original(z, temb)
        return made if calls.pop(0) else torch.roll(made, -1, dims=2)  # so that the first is what is dropped

    # 8 frames begin pieces at 0, 2, 4 and 6; 7 rows begin pieces at 0 and 4, and 4 columns at 0 and 3.
    calls = [piece == 0 for piece in range(4) for _ in range(4)]
    vae.decoder.forward = forward
    expected = theirs_decoded(vae, latents)
    assert not calls and difference(found, expected) <= GRAPH


def test_each_of_several_prompts_keeps_its_own_mask(plain: Case) -> None:
    """diffusers repeats prompts one after the other and their masks in turn, so it masks by other prompts' lengths."""
    arguments = {"num_inference_steps": 2, "num_frames": 5, "height": 32, "width": 32, "guidance_scale": 1.0}
    several = plain.ours(prompt=PROMPTS, num_images_per_prompt=2, seed=[1, 2, 3, 4], output_type="latent", **arguments)
    for index, prompt in enumerate(PROMPTS):
        generators = [torch.Generator("cpu").manual_seed(1 + 2 * index + one) for one in (0, 1)]
        # Two samples of one prompt have one mask, so those are the reference.
        expected = plain.draw("latent", prompt=prompt, num_videos_per_prompt=2, generator=generators, **arguments)
        assert difference(several.latents[2 * index : 2 * index + 2], expected) <= LATENTS
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (1, 2, 3, 4)]
    theirs = plain.draw("latent", prompt=PROMPTS, num_videos_per_prompt=2, generator=generators, **arguments)
    assert difference(several.latents, theirs) > LATENTS


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:prompt. the text_encoder reads")
def test_embeddings_are_the_pipelines(plain: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 300]
    made = PromptReader(plain.bundle, plain.ours.pool)(texts)
    states, mask, _, _ = plain.text.encode_prompt(texts, do_classifier_free_guidance=False)
    assert difference(made["encoder_hidden_states"], states.numpy()) <= EMBEDDINGS
    assert np.array_equal(made["encoder_attention_mask"], mask.numpy())


@pytest.mark.parametrize("frame_rate", [25.0, 8.0, 30.0])
def test_rotary_is_rounded_as_diffusers_rounds_it(frame_rate: float) -> None:
    """Angles go up to 15,708, whose last bit is a thousandth, and beyond: 4096 pixels are twice the base."""
    rope = ltx.make_transformer(heads=5).rope
    grid, compression = (21, 4, 128), (8, 32)
    ours = Rotary(rope, *compression)(*grid, torch.tensor([frame_rate]))
    theirs = rope(torch.zeros(1), *grid, (compression[0] / frame_rate, compression[1], compression[1]))
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_bundle_says_what_the_pipelines_do(plain: Case) -> None:
    manifest = Bundle.open(plain.bundle.path).manifest
    assert (manifest.family, manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (
        "ltx",
        3.0,
        50,
    )
    latents = manifest.latents
    assert (latents.frames, latents.height, latents.width, latents.frame_rate) == (41, 64, 88, 25.0)
    assert manifest.tiling is not None and (manifest.tiling.tile_height, manifest.tiling.stride_frames) == (64, 2)


def test_a_folder_of_the_other_pipeline_is_the_same(plain: Case, tmp_path: Path) -> None:
    plain.image.save_pretrained(tmp_path / "image")
    first, second = open_source(plain.folder), open_source(tmp_path / "image")
    assert [graph.component for graph in first.graphs] == [graph.component for graph in second.graphs]


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"num_frames": 10}, "num_frames: 10 came, .* 1 more than a multiple of 4.; the nearest are 9 and 13"),
            ({"height": 20}, "height: 20 came, expected a multiple of 8 pixels; the nearest is"),
            ({"frame_rate": 0}, "frame_rate: 0 came"),
            ({"frame_rate": float("nan")}, "frame_rate: nan came"),
            ({"last_image": picture(16, 16)}, "last_image: came without an image"),
            (
                {"image": picture(16, 16), "last_image": picture(16, 16)},
                "last_image: this model takes a first picture only",
            ),
            ({"image": [picture(16, 16)] * 3}, "image: 3 pictures came, 1 or 1 expected"),
            ({"decode_timestep": 0.05}, "decode_timestep: this bundle's VAE decoder takes none"),
        ],
    )
    def test_arguments(self, plain: Case, arguments: dict[str, Any], message: str) -> None:
        given = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 1, **arguments}
        with pytest.raises(InputError, match=message) as caught:
            plain.ours(prompt="a", **given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["decode_timestep", "decode_noise_scale"])
    def test_decoding(self, noisy: Case, name: str) -> None:
        with pytest.raises(InputError, match=f"{name}: 2 came, a number of 0 to 1 was expected"):
            noisy.ours(prompt="a", height=16, width=16, num_frames=1, num_inference_steps=1, **{name: 2})

    @pytest.mark.parametrize("part", ["text_encoder", "tokenizer", "vae", "transformer"])
    def test_a_missing_part_is_named(self, plain: Case, tmp_path: Path, part: str) -> None:
        folder = shutil.copytree(plain.folder, tmp_path / "source")
        shutil.rmtree(folder / part)
        with pytest.raises(SourceError, match=rf"lacks the folder {part}, "):
            open_source(folder)

    @pytest.mark.parametrize(
        ("part", "fields", "message"),
        [
            ("transformer", {"patch_size": 2}, "patches of 1 × 2 × 2; .* 1 × 1 × 1 are expected"),
            ("transformer", {"out_channels": 12}, "predicts 12 channels; expected 6"),
            ("transformer", {"cross_attention_dim": 24}, "cross_attention_dim 24; expected 42"),
            ("transformer", {"caption_channels": 24}, "makes 20 channels, .*transformer takes 24"),
            ("transformer", {"in_channels": 4, "out_channels": 4}, "6 latent channels, the denoiser 4"),
            ("transformer", {"_class_name": "DiT"}, "holds a DiT; expected LTXVideoTransformer3DModel"),
            ("vae", {"patch_size_t": 2}, "patch_size_t 2; expected 1"),
            ("vae", {"timestep_conditioning": True}, "which diffusers cannot run"),
            ("vae", {"_class_name": "AutoencoderKL"}, "holds a AutoencoderKL; expected AutoencoderKLLTXVideo"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, plain: Case, tmp_path: Path, part: str, fields: dict[str, Any], message: str
    ) -> None:
        folder = shutil.copytree(plain.folder, tmp_path / "source")
        file = folder / part / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
        with pytest.raises(SourceError, match=message):
            open_source(folder)
