"""HunyuanVideo: our graphs and videos against diffusers' transformer, autoencoder and pipeline, unmodified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline
from tokenizers import Tokenizer
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast

from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tokenizers import tokenizer_json
from dit_deploy.runtimes.autoencoder import Compression, decode, encode, pieces_of
from tests.families.checks import (
    GRAPH,
    Case,
    altered,
    assert_bad_input,
    assert_drawn,
    assert_near,
    assert_real_float32,
    assert_refused,
    check_embeddings,
    check_missing_part,
    draw,
    exported,
    graph_of,
    run_graph,
    seeded,
)
from tests.families.hunyuan_video import make_autoencoder, make_hunyuan_video, make_transformer
from tests.families.parity import PLAIN, check_parity
from tests.families.tokenizers import ODD_TEXTS, llama_tokenizer

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a small cat runs over a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: Frames, height and width in pixels: one latent frame, a few, and more than diffusers' autoencoder decodes at once.
SIZES = [(1, 16, 16), (9, 16, 32), (21, 32, 16)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("hunyuan_video")
    return exported(make_hunyuan_video(folder), HunyuanVideoPipeline, folder / "bundle")


def draw_both(
    made: Case, size: tuple[int, int, int], seed: int = 5, vae_tile: str | None = None, **arguments: Any
) -> np.ndarray:
    """Draw with both, compare latents and frames, and return our latents."""
    sides = dict(zip(("num_frames", "height", "width"), size, strict=True))
    output = made.ours(seed=seed, output_type="numpy", vae_tile=vae_tile, **sides, **arguments)
    arguments["num_videos_per_prompt"] = arguments.pop("num_images_per_prompt", 1)
    assert_drawn(output, *draw(made.theirs, generator=seeded(seed), **sides, **arguments))
    return output.latents


@pytest.mark.parametrize("size", SIZES)
def test_videos_are_diffusers(made: Case, size: tuple[int, int, int]) -> None:
    draw_both(made, size, prompt=PROMPTS[0], guidance_scale=2.5, num_inference_steps=3)


def test_several_prompts_negatives_and_videos(made: Case) -> None:
    """Another prompt makes another video, and so does another negative one."""
    draw_both(
        made,
        (5, 16, 32),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        true_cfg_scale=3.0,
        num_images_per_prompt=2,
        num_inference_steps=2,
    )
    arguments: dict[str, Any] = {"true_cfg_scale": 3.0, "num_inference_steps": 2}
    first, *others = (
        draw_both(made, (1, 16, 16), prompt=prompt, negative_prompt=negative, **arguments)
        for prompt, negative in ((PROMPTS[0], NEGATIVES[0]), (PROMPTS[1], NEGATIVES[0]), (PROMPTS[0], NEGATIVES[1]))
    )
    assert all(np.abs(first - other).max() > 0.02 * np.abs(first).max() for other in others)


def test_a_negative_prompt_counts_only_with_true_guidance(made: Case) -> None:
    draw_both(made, (5, 16, 16), prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], num_inference_steps=2)
    draw_both(made, (5, 16, 16), prompt=PROMPTS[0], true_cfg_scale=4.0, num_inference_steps=2)


def test_the_usual_video_is_the_pipelines(made: Case) -> None:
    latents, manifest = made.bundle.manifest.latents, made.bundle.manifest
    assert (latents.frames, latents.height, latents.width) == (33, 720 // 4, 1280 // 4)
    assert manifest.scheduler.num_inference_steps == 50 and manifest.guidance.default_scale == 6.0
    draw_both(made, (1, 32, 16), prompt=PROMPTS[1], num_inference_steps=2)


def test_pieces_in_space_are_diffusers(made: Case) -> None:
    """As after ``enable_tiling``: 320 pixels are two pieces, 25 frames two in time."""
    try:
        made.theirs.vae.enable_tiling()
        draw_both(made, (25, 16, 320), prompt=PROMPTS[0], num_inference_steps=1, vae_tile="model")
    finally:
        made.theirs.vae.use_tiling = False


def test_video_to_video_goes_on_from_the_videos_latents(made: Case) -> None:
    """diffusers has no such pipeline: here its own is given the latents and the noise levels that are left."""
    arguments: dict[str, Any] = {"prompt": PROMPTS[0], "guidance_scale": 3.0}
    video = np.random.default_rng(0).random((21, 16, 32, 3), dtype=np.float32)
    output = made.ours(video=video, strength=0.5, num_inference_steps=4, seed=5, output_type="numpy", **arguments)
    reference, generator = made.theirs, seeded(5)
    with torch.no_grad():
        posterior = reference.vae.encode(torch.from_numpy(video).permute(3, 0, 1, 2)[None] * 2 - 1).latent_dist
    clean = posterior.sample(generator) * reference.vae.config.scaling_factor
    sigmas = np.linspace(1.0, 0.0, 5)[2:-1]
    reference.scheduler.set_timesteps(sigmas=sigmas)
    level = reference.scheduler.sigmas[0]
    start = (1 - level) * clean + level * torch.randn(clean.shape, generator=generator)
    sides = {"num_frames": 21, "height": 16, "width": 32}
    assert_drawn(output, *draw(reference, latents=start, sigmas=sigmas, **sides, **arguments))


class _NoNoise:
    """A source of draws that are all 0, so that what is drawn from a posterior is its mean."""

    shared = True

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.float32)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 4, 8), (13, 20, 12), (17, 8, 4), (33, 4, 12)])
@torch.no_grad()
def test_the_autoencoder_is_diffusers(made: Case, frames: int, height: int, width: int) -> None:
    """Whole up to four latent frames, cut in time above, as diffusers does unasked."""
    vae, manifest = made.theirs.vae, made.bundle.manifest
    scale, pieces, compression = vae.config.scaling_factor, pieces_of(None, manifest), Compression.of(manifest)
    images = torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(frames))
    expected = vae.encode(images * 2 - 1).latent_dist.mean * scale
    found, _ = encode(made.ours.pool("vae_encoder"), images.numpy(), expected.shape, _NoNoise(), pieces, compression)
    assert_near(found, expected.numpy(), GRAPH)
    drawn = vae.decode(expected / scale).sample / 2 + 0.5
    found, _ = decode(made.ours.pool("vae_decoder"), expected.numpy(), compression, pieces)
    assert np.abs(found - drawn.clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()).max() <= GRAPH * drawn.abs().max()


@torch.no_grad()
def test_each_half_is_one_graph(made: Case) -> None:
    """Run by ONNX Runtime alone, at numbers of frames that diffusers decodes whole only where it is told to."""
    vae = AutoencoderKLHunyuanVideo.from_pretrained(made.folder / "vae")
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    encoder, decoder = (made.bundle.component_path(f"vae_{half}coder") for half in ("en", "de"))
    scale = vae.config.scaling_factor
    for batch, frames, height, width in [(1, 1, 1, 1), (3, 2, 5, 1), (1, 7, 3, 4)]:
        images = torch.rand(batch, 3, 4 * frames - 3, 4 * height, 4 * width)
        posterior = vae.encode(images * 2 - 1).latent_dist
        mean, std = run_graph(encoder, {"images": images.numpy()})
        for found, expected in ((mean, posterior.mean * scale), (std, posterior.std * scale)):
            assert found.shape == (batch, 5, frames, height, width)
            assert_near(found, expected.numpy(), GRAPH)
        drawn = vae.decode(posterior.mean).sample / 2 + 0.5
        (found,) = run_graph(decoder, {"latents": mean})
        assert_near(found, drawn.numpy(), GRAPH)


def test_embeddings_are_the_pipelines(made: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with torch.no_grad():
        states, pooled, mask = made.theirs.encode_prompt(texts)
    assert states.shape == (4, 256, 36) and 4 < int(mask[2].sum()) < 8 and int(mask[3].sum()) == 256
    conditions = {"encoder_hidden_states": states, "pooled_projections": pooled, "encoder_attention_mask": mask}
    check_embeddings(made, texts, **conditions)


def test_layers_that_nothing_reads_are_not_exported(made: Case) -> None:
    model = onnx.load(made.bundle.component_path("text_encoder"), load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    assert any("layers.1." in name for name in names) and not any("layers.2." in name for name in names)


def test_a_long_prompt_is_cut_with_a_warning(made: Case) -> None:
    prompt = "a cat " * 60 + "and a dog"  # more than CLIP's 77 tokens, fewer than the Llama's 256
    with pytest.warns(UserWarning, match="the text_encoder_2 reads 77 tokens; left out: '.*a dog'"):
        made.ours(prompt=prompt, num_inference_steps=1, num_frames=1, height=16, width=16, output_type="latent")


@pytest.mark.parametrize(
    ("batch", "frames", "rows", "columns", "tokens"), [(1, 1, 1, 1, 1), (3, 3, 2, 5, 6), (1, 7, 4, 3, 256)]
)
def test_the_plain_graph_is_the_transformer(
    made: Case, batch: int, frames: int, rows: int, columns: int, tokens: int
) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    config = made.theirs.transformer.config
    feeds = {
        "latents": random.standard_normal((batch, config.in_channels, frames, 2 * rows, 2 * columns)),
        "timestep": random.uniform(0, 1000, batch),
        "encoder_hidden_states": random.standard_normal((batch, tokens, config.text_embed_dim)),
        "pooled_projections": random.standard_normal((batch, config.pooled_projection_dim)),
        "guidance": random.uniform(1, 30, batch),
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    lengths = random.integers(1, tokens, batch, endpoint=True)
    mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
    (found,) = run_graph(made.bundle.component_path("denoiser"), {**feeds, "encoder_attention_mask": mask})
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    given["hidden_states"], given["guidance"] = given.pop("latents"), given["guidance"] * 1000.0
    with torch.no_grad():
        (expected,) = made.theirs.transformer(
            encoder_attention_mask=torch.from_numpy(mask).float(), return_dict=False, **given
        )
    assert_near(found, expected.numpy(), GRAPH)


def test_the_graph_has_no_float64(made: Case) -> None:
    assert_real_float32(made.bundle, "denoiser")


def test_the_tokenizer_is_llama_3s_whatever_the_pipeline_calls_it(tmp_path: Path) -> None:
    """The released folder names ``LlamaTokenizerFast``, which transformers 5 makes a Llama 2 of: spaces are lost."""
    llama_tokenizer(tmp_path / "tokenizer", *PROMPTS)
    index = {"_class_name": "HunyuanVideoPipeline", "tokenizer": ["transformers", "LlamaTokenizerFast"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    right = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    wrong = LlamaTokenizerFast.from_pretrained(tmp_path / "tokenizer")
    text = "a small cat\n\nruns"
    assert right.decode(right(text).input_ids, skip_special_tokens=True) == text
    assert wrong.decode(wrong(text).input_ids, skip_special_tokens=True) != text
    ours = Tokenizer.from_str(tokenizer_json(tmp_path / "tokenizer", length=40, as_saved=True).decode())
    theirs = right(ODD_TEXTS, max_length=40, truncation=True, padding="max_length")
    found = ours.encode_batch(ODD_TEXTS)
    assert [one.ids for one in found] == theirs.input_ids
    assert [one.attention_mask for one in found] == theirs.attention_mask


class TestBadInput:
    @pytest.mark.parametrize(
        "part", ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "transformer"]
    )
    def test_a_missing_part_is_named(self, made: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(made.folder, tmp_path / "pipeline", part)

    @pytest.mark.parametrize(
        ("part", "fields", "message"),
        [
            ("transformer", {"text_embed_dim": 64}, "text_encoder makes 36 channels, .*transformer takes 64"),
            ("transformer", {"pooled_projection_dim": 64}, "text_encoder_2 makes 24 channels, .*transformer takes 64"),
            ("transformer", {"out_channels": 8}, "5 channels in and 8 out; expected as many in as out"),
            ("transformer", {"image_condition_type": "token_replace"}, "image_condition_type token_replace"),
            ("vae", {"temporal_compression_ratio": 8}, "Unsupported time_compression_ratio: 8"),
            ("vae", {"latent_channels": 7}, "7 latent channels, the denoiser 5"),
            ("text_encoder", {"num_hidden_layers": 1}, r"1 layers, none for hidden_states\[-3\]"),
            ("text_encoder", {"mlp_bias": True}, "has mlp_bias"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, made: Case, tmp_path: Path, part: str, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(made.folder, tmp_path / "pipeline", f"{part}/config.json", **fields), message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
            ({"prompt": "a", "height": 12}, "height: 12 came, expected a multiple of 8 pixels"),
            ({"prompt": "a", "num_frames": 10}, "num_frames: 10 came.*the nearest are 9 and 13"),
            ({"prompt": "a", "num_frames": 0}, "num_frames: 0 came"),
            ({"prompt": "a", "guidance_scale": -1.0}, "guidance"),
        ],
    )
    def test_arguments(self, made: Case, arguments: dict[str, Any], message: str) -> None:
        assert_bad_input(made.ours, message, **{"num_frames": 1, "height": 16, "width": 16, **arguments})


def test_a_model_without_embedded_guidance_has_no_such_input(tmp_path: Path) -> None:
    source = open_source(make_hunyuan_video(tmp_path, guidance_embeds=False))
    assert "guidance" not in [spec.name for spec in graph_of(source, "denoiser").component.inputs]
    assert source.guidance.kind == "none"


def test_networks_of_the_tests_draw_something() -> None:
    for network in (make_transformer(), make_autoencoder()):
        assert all(parameter.any() for parameter in network.parameters())


def test_parity_of_the_bundle(made: Case) -> None:
    check_parity(made.folder, made.bundle, (5, 16, 32), {PLAIN: "diffusers HunyuanVideoPipeline"})
