"""FLUX.1 dev and schnell: our graphs and pictures against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel

from dit_deploy import Pipeline
from dit_deploy.bundle.engine import SizeRange
from dit_deploy.errors import SourceError
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.families._rotary import ExactRotary
from dit_deploy.exporters.passes.graph_file import load_graph
from dit_deploy.exporters.passes.linear import choose_linears
from dit_deploy.exporters.sources import open_source
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
    needs_rtx,
    noise_picture,
    quiet,
    rtx_engine,
    run_graph,
    seeded,
)
from tests.families.flux import make_flux

#: Exporting a whole pipeline takes half a minute.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: Pixels; the smallest has one token, and none is square but that.
SIZES = [(4, 4), (24, 40), (36, 16)]


def made(folder: Path, kind: str) -> Case:
    source = make_flux(folder, kind=kind)
    opened = open_source(source)
    # The usual size, at which engines are built and calibrated, is 1024 × 1024 of the released models; 32 × 48 here.
    assert (opened.latents.height, opened.latents.width) == (128, 128)
    small = replace(opened, latents=opened.latents.model_copy(update={"height": 16, "width": 24}))
    return exported(source, FluxPipeline, folder / "bundle", small)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("dev"), "dev")


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return made(tmp_path_factory.mktemp("schnell"), "schnell")


def draw_both(
    case: Case, size: tuple[int, int], theirs: dict[str, Any] | None = None, seed: int = 5, **arguments: Any
) -> None:
    """Draw with both, and compare latents and pictures; ``theirs`` are arguments that only diffusers is given."""
    height, width = size
    shared = {**arguments, "height": height, "width": width}
    reference = quiet(FluxImg2ImgPipeline(**case.theirs.components)) if "image" in arguments else case.theirs
    latents, pictures = draw(reference, generator=seeded(seed), **{**shared, **(theirs or {})})
    unpacked = FluxPipeline._unpack_latents(torch.from_numpy(latents), height, width, reference.vae_scale_factor)
    assert_drawn(case.ours(seed=seed, output_type="numpy", **shared), unpacked.numpy(), pictures)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_diffusers(dev: Case, size: tuple[int, int]) -> None:
    draw_both(dev, size, prompt=PROMPTS[0], guidance_scale=2.5, num_inference_steps=3)


def test_several_prompts_negatives_and_pictures(dev: Case) -> None:
    draw_both(
        dev,
        (24, 40),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        true_cfg_scale=3.0,
        num_images_per_prompt=2,
        num_inference_steps=3,
    )


def test_a_negative_prompt_counts_only_with_true_guidance(dev: Case) -> None:
    draw_both(dev, (8, 12), prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], num_inference_steps=2)
    draw_both(dev, (8, 12), prompt=PROMPTS[0], true_cfg_scale=4.0, num_inference_steps=2)


def test_the_usual_guidance_is_diffusers(dev: Case) -> None:
    draw_both(dev, (12, 8), prompt=PROMPTS[1], num_inference_steps=2)
    assert dev.bundle.manifest.scheduler.num_inference_steps == 28


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_diffusers(dev: Case, strength: float) -> None:
    draw_both(
        dev,
        (24, 40),
        prompt=PROMPTS[0],
        image=noise_picture(24, 40),
        strength=strength,
        guidance_scale=7.0,
        num_inference_steps=5,
    )


def test_one_image_for_several_prompts(dev: Case) -> None:
    draw_both(
        dev,
        (16, 24),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES[0],
        theirs={"negative_prompt": [NEGATIVES[0]] * 2},
        true_cfg_scale=2.0,
        guidance_scale=7.0,  # what that pipeline has by default
        image=noise_picture(16, 24, seed=3),
        strength=0.7,
        num_inference_steps=4,
    )


@pytest.mark.parametrize("size", SIZES)
def test_schnell_is_diffusers(schnell: Case, size: tuple[int, int]) -> None:
    manifest = schnell.bundle.manifest
    assert manifest.guidance.kind == "none" and manifest.scheduler.num_inference_steps == 4
    assert "guidance" not in [spec.name for spec in manifest.components["denoiser"].inputs]
    draw_both(schnell, size, prompt=PROMPTS, num_inference_steps=4, guidance_scale=0.0)
    draw_both(schnell, size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], true_cfg_scale=2.0, num_inference_steps=2)


def test_embeddings_are_the_pipelines(dev: Case) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with torch.no_grad():
        states, pooled, _ = dev.theirs.encode_prompt(texts)
    check_embeddings(dev, texts, encoder_hidden_states=states, pooled_projections=pooled)


def test_a_long_prompt_is_cut_with_a_warning(dev: Case) -> None:
    prompt = "a cat " * 20 + "and a dog"  # both tokenizers' pieces are short: more than 77 tokens of the first
    with pytest.warns(UserWarning, match="the text_encoder reads 77 tokens; left out: '.*a dog'"):
        dev.ours(prompt=prompt, num_inference_steps=1, height=4, width=4, output_type="latent")


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "tokens"), [(1, 1, 1, 1), (3, 9, 4, 6), (2, 3, 17, 130), (1, 40, 25, 2)]
)
def test_the_plain_graph_is_the_transformer(dev: Case, batch: int, rows: int, columns: int, tokens: int) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    config = dev.theirs.transformer.config
    feeds = {
        "latents": random.standard_normal((batch, config.in_channels // 4, 2 * rows, 2 * columns)),
        "timestep": random.uniform(0, 1, batch),
        "encoder_hidden_states": random.standard_normal((batch, tokens, config.joint_attention_dim)),
        "pooled_projections": random.standard_normal((batch, config.pooled_projection_dim)),
        "guidance": random.uniform(1, 30, batch),
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    (found,) = run_graph(dev.bundle.component_path("denoiser"), feeds)
    tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
    assert_near(found, transformer(dev.theirs.transformer, **tensors), GRAPH)


@torch.no_grad()
def transformer(
    model: FluxTransformer2DModel, latents: torch.Tensor, timestep: torch.Tensor, **rest: Any
) -> np.ndarray:
    batch, channels, height, width = latents.shape
    ids = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
    packed = FluxPipeline._pack_latents(latents, batch, channels, height, width)
    text_ids = torch.zeros(rest["encoder_hidden_states"].shape[1], 3)
    made = model(packed, timestep=timestep, img_ids=ids, txt_ids=text_ids, return_dict=False, **rest)[0]
    return FluxPipeline._unpack_latents(made, height, width, 1).numpy()


def test_rotary_is_exact_without_float64() -> None:
    theirs = FluxTransformer2DModel(num_layers=0, num_single_layers=0, num_attention_heads=1).pos_embed
    ours = ExactRotary(theirs.axes_dim, theirs.theta)
    ids = torch.tensor([[0, 0, 0], [0, 1, 63], [0, 127, 255], [0, 1023, 4095], [0, 2777, 3333]])
    for found, expected in zip(ours(ids), theirs(ids), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-7)


def test_the_graph_has_no_float64(dev: Case) -> None:
    assert_real_float32(dev.bundle, "denoiser")


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_engines_are_built_without_a_gpu(dev: Case, precision: str) -> None:
    record = rtx_engine(dev.bundle, precision)
    assert set(record.components) == {*dev.bundle.manifest.components, "solver"}
    assert "calibration" in record.options and (precision == "bf16") == (not record.options["calibration"])
    (profile,) = record.components["denoiser"].profiles
    assert profile.sizes["sequence_length"] == SizeRange(minimum=512, optimum=512, maximum=512)
    (profile,) = record.components["text_encoder"].profiles
    assert profile.sizes["sequence_length"] == SizeRange(minimum=77, optimum=77, maximum=77)
    kept = record.components["denoiser"].kept
    assert not [name for name, why in kept.items() if not why.startswith("FP32")]
    # Positions and the angles of time and guidance are FP32, whatever the rest is.
    assert any("integers" in why for why in kept.values()) and any("angles" in why for why in kept.values())


def test_int8_of_the_cpu_draws_the_same(dev: Case) -> None:
    options = CalibrationOptions(samples=4, evaluations=2, steps=4, prompts=tuple(PROMPTS))
    engine = build_engine(dev.bundle, precision="int8", calibration=options, threads=1)
    assert engine.record.parity is not None and engine.record.parity["passed"]
    arguments: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 2, "seed": 3, "height": 16, "width": 24}
    plain, small = (
        Pipeline(dev.bundle, name, threads=1)(**arguments, output_type="latent").latents
        for name in ("onnx", engine.record.name)
    )
    assert 1e-6 < np.abs(plain - small).max() / np.abs(plain).max() < 0.1


def test_linear_layers_of_the_blocks_are_quantised(dev: Case) -> None:
    choice = choose_linears(load_graph(dev.bundle.component_path("denoiser")).graph)
    names = [linear.name.removeprefix("transformer.") for linear in choice.chosen]
    assert len(names) == 12 + 2 * 5 and not [name for name in names if "transformer_blocks" not in name]
    kept = {name.removeprefix("transformer.") for name in choice.kept}
    assert {"x_embedder", "context_embedder", "proj_out", "norm_out.linear"} < kept
    assert not [name for name in kept if "transformer_blocks" in name and ".norm" not in name]


class TestBadInput:
    @pytest.mark.parametrize(
        "part", ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "transformer"]
    )
    def test_a_missing_part_is_named(self, dev: Case, tmp_path: Path, part: str) -> None:
        check_missing_part(dev.folder, tmp_path / "dev", part)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"joint_attention_dim": 64}, "text_encoder_2 makes 28 channels, .*transformer takes 64"),
            ({"out_channels": 8}, "20 channels in and 8 out"),
            ({"_class_name": "Flux2Transformer2DModel"}, "holds a Flux2Transformer2DModel; expected FluxTransformer2D"),
        ],
    )
    def test_a_transformer_that_does_not_fit(
        self, dev: Case, tmp_path: Path, fields: dict[str, Any], message: str
    ) -> None:
        assert_refused(altered(dev.folder, tmp_path / "dev", "transformer/config.json", **fields), message)

    def test_weights_of_another_size(self, dev: Case, tmp_path: Path) -> None:
        folder = altered(dev.folder, tmp_path / "dev", "transformer/config.json", num_single_layers=4)
        with pytest.raises(SourceError, match=r"do not fit their config.json: .*single_transformer_blocks"):
            graph_of(folder, "denoiser").build()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
            ({"prompt": 5}, "prompt: 5 came, expected a text"),
            ({"prompt": []}, "prompt: .* came, expected a text"),
            ({"prompt": "a", "negative_prompt": ["b", "c"]}, "negative_prompt: 2 came for 1 prompts"),
            ({"prompt": "a", "height": 6}, "height: 6 came, expected a multiple of 4 pixels"),
            ({"prompt": "a", "guidance_scale": float("nan")}, "scale"),
            ({"prompt": "a", "guidance_scale": -1.0}, "guidance"),
            ({"prompt": "a", "class_labels": 1}, "class_labels: this bundle's denoiser takes none"),
        ],
    )
    def test_arguments(self, dev: Case, arguments: dict[str, Any], message: str) -> None:
        assert_bad_input(dev.ours, message, **{"height": 4, "width": 4, **arguments})
