"""FLUX.1 dev and schnell: our graphs and pictures against diffusers' transformer and pipelines, unmodified."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle.engine import SizeRange
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import export
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.families import flux
from dit_deploy.exporters.passes.graph_file import load_graph
from dit_deploy.exporters.passes.linear import choose_linears
from dit_deploy.exporters.sources import open_source
from dit_deploy.runtimes.prompts import PromptReader
from tests.families.flux import make_flux

#: Exporting a whole pipeline takes half a minute; PixArt, beside this file, is the family of the fast tests.
pytestmark = pytest.mark.slow

PROMPTS = ["a photo of a small cat on a red sofa", "картина маслом: лиса в снегу, 高清细节"]
NEGATIVES = ["low quality, blurry", ""]
#: Pixels; the smallest has one token, and none is square but that.
SIZES = [(4, 4), (24, 40), (36, 16)]
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'",
)
LATENTS, PICTURES, EMBEDDINGS, GRAPH = 1e-3, 1 / 255, 1e-4, 1e-4


@dataclass(frozen=True)
class Exported:
    folder: Path
    bundle: Bundle
    pipeline: Pipeline
    reference: FluxPipeline


def exported(folder: Path, kind: str) -> Exported:
    source = make_flux(folder, kind=kind)
    opened = open_source(source)
    # The usual size, at which engines are built and calibrated, is 1024 × 1024 of the released models; 32 × 48 here.
    assert (opened.latents.height, opened.latents.width) == (128, 128)
    small = replace(opened, latents=opened.latents.model_copy(update={"height": 16, "width": 24}))
    bundle = export(small, folder / "bundle")
    reference = FluxPipeline.from_pretrained(source)
    reference.set_progress_bar_config(disable=True)
    return Exported(source, bundle, Pipeline(bundle, "onnx", threads=1), reference)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("dev"), "dev")


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return exported(tmp_path_factory.mktemp("schnell"), "schnell")


def draw_both(
    made: Exported, size: tuple[int, int], theirs: dict[str, Any] | None = None, seed: int = 5, **arguments: Any
) -> None:
    """Draw with both, and compare latents and pictures; ``theirs`` are arguments that only diffusers is given."""
    height, width = size
    output = made.pipeline(seed=seed, height=height, width=width, output_type="numpy", **arguments)
    reference = made.reference
    if "image" in arguments:
        reference = FluxImg2ImgPipeline(**reference.components)
        reference.set_progress_bar_config(disable=True)
    shared = {**arguments, **(theirs or {}), "height": height, "width": width}
    latents, images = (
        reference(generator=torch.Generator("cpu").manual_seed(seed), output_type=kind, **shared).images
        for kind in ("latent", "np")
    )
    latents = FluxPipeline._unpack_latents(latents, height, width, reference.vae_scale_factor).numpy()
    assert output.latents.shape == latents.shape
    assert np.abs(output.latents - latents).max() <= LATENTS * np.abs(latents).max()
    assert np.abs(output.images - images).max() <= PICTURES


@pytest.mark.parametrize("size", SIZES)
def test_pictures_are_diffusers(dev: Exported, size: tuple[int, int]) -> None:
    draw_both(dev, size, prompt=PROMPTS[0], guidance_scale=2.5, num_inference_steps=3)


def test_several_prompts_negatives_and_pictures(dev: Exported) -> None:
    draw_both(
        dev,
        (24, 40),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES,
        true_cfg_scale=3.0,
        num_images_per_prompt=2,
        num_inference_steps=3,
    )


def test_a_negative_prompt_counts_only_with_true_guidance(dev: Exported) -> None:
    draw_both(dev, (8, 12), prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], num_inference_steps=2)
    draw_both(dev, (8, 12), prompt=PROMPTS[0], true_cfg_scale=4.0, num_inference_steps=2)


def test_the_usual_guidance_is_diffusers(dev: Exported) -> None:
    draw_both(dev, (12, 8), prompt=PROMPTS[1], num_inference_steps=2)
    assert dev.bundle.manifest.scheduler.num_inference_steps == 28


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_image_to_image_is_diffusers(dev: Exported, strength: float) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    draw_both(
        dev,
        (24, 40),
        prompt=PROMPTS[0],
        image=Image.fromarray(pixels),
        strength=strength,
        guidance_scale=7.0,
        num_inference_steps=5,
    )


@pytest.mark.slow
def test_one_image_for_several_prompts(dev: Exported) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    draw_both(
        dev,
        (16, 24),
        prompt=PROMPTS,
        negative_prompt=NEGATIVES[0],
        theirs={"negative_prompt": [NEGATIVES[0]] * 2},
        true_cfg_scale=2.0,
        guidance_scale=7.0,  # what that pipeline has by default
        image=Image.fromarray(pixels),
        strength=0.7,
        num_inference_steps=4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_schnell_is_diffusers(schnell: Exported, size: tuple[int, int]) -> None:
    manifest = schnell.bundle.manifest
    assert manifest.guidance.kind == "none" and manifest.scheduler.num_inference_steps == 4
    assert "guidance" not in [spec.name for spec in manifest.components["denoiser"].inputs]
    draw_both(schnell, size, prompt=PROMPTS, num_inference_steps=4, guidance_scale=0.0)
    draw_both(schnell, size, prompt=PROMPTS[0], negative_prompt=NEGATIVES[0], true_cfg_scale=2.0, num_inference_steps=2)


def test_embeddings_are_the_pipelines(dev: Exported) -> None:
    texts = [*PROMPTS, "", "cat " * 700]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = PromptReader(dev.bundle, dev.pipeline.pool)(texts)
    with torch.no_grad():
        states, pooled, _ = dev.reference.encode_prompt(texts)
    for name, expected in (("encoder_hidden_states", states.numpy()), ("pooled_projections", pooled.numpy())):
        assert made[name].shape == expected.shape
        assert np.abs(made[name] - expected).max() <= EMBEDDINGS * np.abs(expected).max()


def test_a_long_prompt_is_cut_with_a_warning(dev: Exported) -> None:
    prompt = "a cat " * 20 + "and a dog"  # both tokenizers' pieces are short: more than 77 tokens of the first
    with pytest.warns(UserWarning, match="the text_encoder reads 77 tokens; left out: '.*a dog'"):
        dev.pipeline(prompt=prompt, num_inference_steps=1, height=4, width=4, output_type="latent")


@pytest.mark.parametrize(
    ("batch", "rows", "columns", "tokens"), [(1, 1, 1, 1), (3, 9, 4, 6), (2, 3, 17, 130), (1, 40, 25, 2)]
)
def test_the_plain_graph_is_the_transformer(dev: Exported, batch: int, rows: int, columns: int, tokens: int) -> None:
    """At sizes not traced: run by ONNX Runtime alone, against diffusers' class called as its pipeline calls it."""
    random = np.random.default_rng(batch + tokens)
    config = dev.reference.transformer.config
    feeds = {
        "latents": random.standard_normal((batch, config.in_channels // 4, 2 * rows, 2 * columns)),
        "timestep": random.uniform(0, 1, batch),
        "encoder_hidden_states": random.standard_normal((batch, tokens, config.joint_attention_dim)),
        "pooled_projections": random.standard_normal((batch, config.pooled_projection_dim)),
        "guidance": random.uniform(1, 30, batch),
    }
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    session = ort.InferenceSession(dev.bundle.component_path("denoiser"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["prediction"], feeds)
    expected = transformer(dev.reference.transformer, **{name: torch.from_numpy(one) for name, one in feeds.items()})
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= GRAPH * np.abs(expected).max()


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
    ours = flux.Rotary(theirs.theta, theirs.axes_dim)
    ids = torch.tensor([[0, 0, 0], [0, 1, 63], [0, 127, 255], [0, 1023, 4095], [0, 2777, 3333]])
    for found, expected in zip(ours(ids), theirs(ids), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-7)


def test_the_graph_has_no_float64(dev: Exported) -> None:
    import onnx

    model = onnx.load(dev.bundle.component_path("denoiser"), load_external_data=False)
    types = {value.type.tensor_type.elem_type for value in model.graph.value_info}
    assert onnx.TensorProto.DOUBLE not in types and onnx.TensorProto.COMPLEX64 not in types


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_engines_are_built_without_a_gpu(dev: Exported, precision: str) -> None:
    """Heavy layers have the precision that was asked for, or the build fails; pictures are near the plain graphs'."""
    engine = build_engine(
        dev.bundle,
        backend="tensorrt-rtx",
        precision=precision,
        compute_capabilities=("8.9",),
        calibration=CalibrationOptions(samples=4, evaluations=2, steps=4),
        threads=1,
    )
    record = engine.record
    assert set(record.components) == {*dev.bundle.manifest.components, "solver"}
    assert record.parity is not None and record.parity["passed"]
    assert "calibration" in record.options and (precision == "bf16") == (not record.options["calibration"])
    (profile,) = record.components["denoiser"].profiles
    assert profile.sizes["sequence_length"] == SizeRange(minimum=512, optimum=512, maximum=512)
    (profile,) = record.components["text_encoder"].profiles
    assert profile.sizes["sequence_length"] == SizeRange(minimum=77, optimum=77, maximum=77)
    kept = record.components["denoiser"].kept
    assert not [name for name, why in kept.items() if not why.startswith("FP32")]
    # Positions and the angles of time and guidance are FP32, whatever the rest is.
    assert any("integers" in why for why in kept.values()) and any("angles" in why for why in kept.values())


@pytest.mark.slow
def test_int8_of_the_cpu_draws_the_same(dev: Exported) -> None:
    options = CalibrationOptions(samples=4, evaluations=2, steps=4, prompts=tuple(PROMPTS))
    engine = build_engine(dev.bundle, precision="int8", calibration=options, threads=1)
    assert engine.record.parity is not None and engine.record.parity["passed"]
    arguments: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 2, "seed": 3, "height": 16, "width": 24}
    plain, small = (
        Pipeline(dev.bundle, name, threads=1)(**arguments, output_type="latent").latents
        for name in ("onnx", engine.record.name)
    )
    assert 1e-6 < np.abs(plain - small).max() / np.abs(plain).max() < 0.1


def test_linear_layers_of_the_blocks_are_quantised(dev: Exported) -> None:
    choice = choose_linears(load_graph(dev.bundle.component_path("denoiser")).graph)
    names = [linear.name.removeprefix("transformer.") for linear in choice.chosen]
    assert len(names) == 12 + 2 * 5 and not [name for name in names if "transformer_blocks" not in name]
    kept = {name.removeprefix("transformer.") for name in choice.kept}
    assert {"x_embedder", "context_embedder", "proj_out", "norm_out.linear"} < kept
    assert not [name for name in kept if "transformer_blocks" in name and ".norm" not in name]


class TestBadInput:
    @pytest.fixture
    def folder(self, dev: Exported, tmp_path: Path) -> Path:
        return shutil.copytree(dev.folder, tmp_path / "dev")

    @pytest.mark.parametrize(
        "part", ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "transformer"]
    )
    def test_a_missing_part_is_named(self, folder: Path, part: str) -> None:
        shutil.rmtree(folder / part)
        with pytest.raises(SourceError, match=rf"lacks the folder {part}, ") as caught:
            open_source(folder)
        assert "\n" not in str(caught.value)

    def test_parts_of_two_models(self, folder: Path) -> None:
        self.change(folder / "transformer", joint_attention_dim=64)
        with pytest.raises(SourceError, match="width 28, the transformer's joint_attention_dim is 64"):
            open_source(folder)

    def test_weights_of_another_size(self, folder: Path) -> None:
        self.change(folder / "transformer", num_single_layers=4)
        with pytest.raises(SourceError, match=r"do not fit their config.json: .*single_transformer_blocks"):
            open_source(folder).graphs[-1].build()

    def test_another_layout(self, folder: Path) -> None:
        self.change(folder / "transformer", out_channels=8)
        with pytest.raises(SourceError, match="20 channels in and 8 out"):
            open_source(folder)

    def test_another_transformer(self, folder: Path) -> None:
        self.change(folder / "transformer", _class_name="Flux2Transformer2DModel")
        with pytest.raises(SourceError, match="holds a Flux2Transformer2DModel; expected FluxTransformer2DModel"):
            open_source(folder)

    def change(self, folder: Path, **fields: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

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
    def test_arguments(self, dev: Exported, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            dev.pipeline(num_inference_steps=1, **{"height": 4, "width": 4, **arguments})
        assert "\n" not in str(caught.value)
