"""PixArt-α and PixArt-Σ against diffusers' transformer and its two pipelines, from one bundle each.

The pipelines run with ``clean_caption=False`` and ``use_resolution_binning=False``: cleaning captions and choosing the
nearest size of a list are left to the caller here.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from diffusers import DDPMScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import export
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import call, example_inputs, trace, traced_sizes
from dit_deploy.runtimes.prompts import PromptReader
from tests.families import pixart

PROMPTS = ["  A Small cat, on a red SOFA", "ein Gemälde von einem Fuchs im Schnee, 1665"]
NEGATIVE = "low quality, Blurry"


class Case:
    """One pipeline of diffusers, and ours from its bundle."""

    def __init__(self, make: Callable[[Path], Path], kind: type[Any], base: Path) -> None:
        self.folder = make(base / "source")
        self.bundle = export(self.folder, base / "bundle")
        self.ours = Pipeline(self.bundle, threads=1)
        self.theirs = kind.from_pretrained(self.folder, low_cpu_mem_usage=False)
        self.theirs.set_progress_bar_config(disable=True)

    def reference(self, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the latents that diffusers' pipeline decodes, as the denoiser had them, and its pictures."""
        decoded: list[torch.Tensor] = []
        vae = self.theirs.vae
        original = vae.decode

        def decode(latents: torch.Tensor, *args: Any, **options: Any) -> Any:
            decoded.append(latents)
            return original(latents, *args, **options)

        vae.decode = decode
        try:
            images = self.theirs(
                **arguments, clean_caption=False, use_resolution_binning=False, output_type="np"
            ).images
        finally:
            vae.decode = original
        return (decoded[0] * vae.config.scaling_factor).numpy(), images


@pytest.fixture(scope="module")
def sigma(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(pixart.sigma, PixArtSigmaPipeline, tmp_path_factory.mktemp("sigma"))


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(pixart.alpha, PixArtAlphaPipeline, tmp_path_factory.mktemp("alpha"))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape and expected.std() > 0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(case: Case, **arguments: Any) -> None:
    """Draw with both pipelines: latents within 1e-3 of the largest value, pictures within 1/255."""
    given = {"num_inference_steps": 4, **arguments}
    latents, images = case.reference(**given, generator=torch.Generator("cpu").manual_seed(7))
    ours = case.ours(**given, seed=7, output_type="numpy")
    assert images.std() > 0.05
    assert difference(ours.latents, latents) <= 1e-3
    assert np.abs(np.asarray(ours.images) - images).max() <= 1 / 255


def onnx_difference(file: Path, graph: Graph, sizes: list[tuple[int, int, int, int]]) -> float:
    """Hold a denoiser's file, run at (batch, tokens, patch height, patch width), against diffusers' transformer."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert graph.reference is not None
    reference, worst = graph.reference(), 0.0
    for seed, numbers in enumerate(sizes):
        free = dict(zip(("batch", "sequence_length", "patch_height", "patch_width"), numbers, strict=True))
        assert free != traced_sizes(graph.component)
        feeds = example_inputs(graph.component, free, seed, graph.feeds)
        for found, expected in zip(session.run(None, feeds), call(reference, feeds), strict=True):
            worst = max(worst, difference(found, expected))
    return worst


def denoiser(folder: Path) -> Graph:
    return next(graph for graph in open_source(folder).graphs if graph.name == "denoiser")


def test_sigmas_plain_graph_is_the_transformer_at_any_size(sigma: Case) -> None:
    file = sigma.bundle.path / "denoiser/model.onnx"
    # The fourth is the grid of training, for which diffusers has a table; one patch, and one token of text, too.
    sizes = [(1, 1, 1, 1), (3, 300, 2, 17), (1, 9, 13, 3), (2, 31, 6, 6), (3, 1, 1, 8)]
    assert onnx_difference(file, denoiser(sigma.folder), sizes) <= 1e-4


@pytest.mark.slow
def test_alphas_plain_graph_is_the_transformer_at_any_size(alpha: Case) -> None:
    file = alpha.bundle.path / "denoiser/model.onnx"
    sizes = [(1, 1, 1, 1), (3, 120, 2, 17), (1, 9, 13, 3), (2, 31, 32, 32), (3, 1, 1, 48)]
    assert onnx_difference(file, denoiser(alpha.folder), sizes) <= 1e-4
    assert [spec.name for spec in alpha.bundle.component("denoiser").outputs] == ["prediction", "variance"]


@torch.no_grad()
def check_embeddings(case: Case, tokens: int) -> None:
    """Hold the conditions of both halves against ``encode_prompt``."""
    encode = PromptReader(case.bundle, case.ours.pool)
    long = "a quick brown fox jumps over the lazy dog's back " * 40
    for text in (*PROMPTS, "", " ", long):
        prompt, mask, negative, negative_mask = case.theirs.encode_prompt(
            text, negative_prompt=NEGATIVE, clean_caption=False, max_sequence_length=tokens
        )
        for words, states, whole in ((text, prompt, mask), (NEGATIVE, negative, negative_mask)):
            found = encode([words])
            assert np.array_equal(found["encoder_attention_mask"], whole.numpy())
            assert difference(found["encoder_hidden_states"], states.numpy()) <= 1e-4


@pytest.mark.filterwarnings("ignore:prompt. the text_encoder reads")
def test_sigmas_embeddings_are_the_pipelines(sigma: Case) -> None:
    check_embeddings(sigma, 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:prompt. the text_encoder reads")
def test_alphas_embeddings_are_the_pipelines(alpha: Case) -> None:
    check_embeddings(alpha, 120)


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0]},
        {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 32, "width": 56},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "num_images_per_prompt": 2, "height": 64, "width": 24},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 8, "width": 8},
    ],
    ids=["default", "wide", "several", "unguided"],
)
def test_sigma_draws_what_diffusers_draws(sigma: Case, arguments: dict[str, Any]) -> None:
    compare(sigma, **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": PROMPTS[0], "num_inference_steps": 2},
        {"prompt": PROMPTS[0], "negative_prompt": NEGATIVE, "guidance_scale": 2.5, "height": 32, "width": 112},
        {"prompt": PROMPTS, "negative_prompt": NEGATIVE, "num_images_per_prompt": 2, "height": 64, "width": 48},
        {"prompt": PROMPTS, "guidance_scale": 1.0, "num_inference_steps": 7, "height": 16, "width": 16},
    ],
    ids=["default", "wide", "several", "unguided"],
)
def test_alpha_draws_what_diffusers_draws(alpha: Case, arguments: dict[str, Any]) -> None:
    compare(alpha, **arguments)


@pytest.mark.slow
def test_a_scheduler_that_draws_noise_drops_the_variance_as_the_pipeline_does(alpha: Case) -> None:
    before = alpha.theirs.scheduler
    alpha.theirs.scheduler = DDPMScheduler.from_config(before.config)
    try:
        arguments = {"prompt": PROMPTS[1], "num_inference_steps": 5, "height": 48, "width": 80}
        latents, _ = alpha.reference(**arguments, generator=torch.Generator("cpu").manual_seed(3))
    finally:
        alpha.theirs.scheduler = before
    ours = alpha.ours(**arguments, seed=3, scheduler="DDPMScheduler", output_type="latent")
    assert difference(ours.latents, latents) <= 1e-3


def image_to_image(case: Case, picture: Image.Image, *, steps: int, strength: float, scale: float, seed: int) -> Any:
    """Return the latents of the loop of diffusers' image-to-image pipelines around PixArt's transformer.

    diffusers has no such pipeline for PixArt; its others draw the posterior, then the noise, from one generator.
    """
    theirs, generator = case.theirs, torch.Generator("cpu").manual_seed(seed)
    states, mask, negative, negative_mask = theirs.encode_prompt(PROMPTS[0], clean_caption=False)
    states, mask = torch.cat([negative, states]), torch.cat([negative_mask, mask])
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    posterior = theirs.vae.encode(pixels).latent_dist
    latents = posterior.sample(generator) * theirs.vae.config.scaling_factor
    scheduler = type(theirs.scheduler).from_config(theirs.scheduler.config)
    scheduler.set_timesteps(steps)
    begin = max(steps - min(int(steps * strength), steps), 0)
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    scheduler.set_begin_index(begin * scheduler.order)
    latents = scheduler.add_noise(latents, torch.randn(latents.shape, generator=generator), timesteps[:1])
    sizes: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if theirs.transformer.use_additional_conditions:
        height, width = pixels.shape[2:]
        sizes["resolution"] = torch.tensor([[height, width]] * 2).float()
        sizes["aspect_ratio"] = torch.tensor([[height / width]] * 2)
    for timestep in timesteps:
        output = theirs.transformer(
            torch.cat([latents] * 2),
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            timestep=timestep[None].expand(2),
            added_cond_kwargs=sizes,
            return_dict=False,
        )[0]
        unguided, guided = output[:, : latents.shape[1]].chunk(2)
        prediction = unguided + scale * (guided - unguided)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents.numpy()


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@torch.no_grad()
def compare_image_to_image(case: Case, start: Image.Image) -> None:
    options = {"strength": 0.6, "seed": 11}
    expected = image_to_image(case, start, steps=6, scale=4.5, **options)  # type: ignore[arg-type]
    ours = case.ours(prompt=PROMPTS[0], image=start, num_inference_steps=6, **options)
    assert difference(ours.latents, expected) <= 1e-3


def test_sigma_redraws_a_picture_as_diffusers_other_pipelines_do(sigma: Case) -> None:
    compare_image_to_image(sigma, picture(56, 40))


@pytest.mark.slow
def test_alpha_redraws_a_picture_as_diffusers_other_pipelines_do(alpha: Case) -> None:
    compare_image_to_image(alpha, picture(96, 64))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'",
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_are_built_without_a_gpu(alpha: Case, precision: str) -> None:
    """All that is asked for is built, and its pictures are near the plain graphs'."""
    engine = build_engine(
        alpha.bundle,
        backend="tensorrt-rtx",
        precision=precision,
        compute_capabilities=("8.9",),
        calibration=CalibrationOptions(samples=4, evaluations=2, steps=4),
        threads=1,
    )
    record = engine.record
    assert {"text_encoder", "vae_encoder", "vae_decoder", "denoiser"} <= set(record.components)
    assert record.parity is not None and record.parity["passed"]
    # Sizes in pixels and the timestep go into sines and cosines in FP32: 1024 radians in FP16 are off by half of one.
    assert any("angles" in why for why in record.components["denoiser"].kept.values())


def test_a_long_prompt_is_cut_and_what_was_cut_is_said(sigma: Case) -> None:
    with pytest.warns(UserWarning, match=r"prompt: the text_encoder reads 300 tokens; left out: .*the end"):
        sigma.ours(prompt="a cat " * 130 + "the end", num_inference_steps=1, seed=0, output_type="latent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 36}, "height: 36 came, expected a multiple of 8 pixels"),
        ({"class_labels": 3}, "class_labels: this bundle's denoiser takes none"),
        ({"prompt": None}, "encoder_hidden_states: this bundle needs it, and none came; give a prompt"),
        ({"negative_prompt": ["a", "b", "c"]}, "negative_prompt: 3 came for 1 prompts"),
        ({"true_cfg_scale": 3.0}, "use guidance_scale"),
    ],
)
def test_bad_input_is_one_line(sigma: Case, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sigma.ours(**{"prompt": "a cat", "num_inference_steps": 1, **arguments})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pixart.sigma(tmp_path_factory.mktemp("saved") / "source")


def altered(saved: Path, folder: Path, file: str, **fields: Any) -> Path:
    """Copy the pipeline with other fields in one of its JSON files."""
    shutil.copytree(saved, folder)
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def test_the_transformers_former_class_is_known(saved: Path, tmp_path: Path) -> None:
    # The official folders name it, and have options of the class that it was.
    folder = altered(
        saved,
        tmp_path / "former",
        "transformer/config.json",
        _class_name="Transformer2DModel",
        only_cross_attention=False,
        num_vector_embeds=None,
        use_linear_projection=False,
    )
    assert open_source(folder).family == "pixart"


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, "holds a UNet2DModel; expected PixArtTransformer"),
        ("transformer/config.json", {"out_channels": 6}, "predicts 6 channels; expected 4, or 8 with learned variance"),
        ("transformer/config.json", {"cross_attention_dim": None}, "cross_attention_dim"),
        ("vae/config.json", {"shift_factor": 0.1}, "shift_factor 0.1, which PixArt's pipelines do not apply"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type 'score' .* is none of"),
    ],
)
def test_a_folder_that_cannot_be_exported(
    saved: Path, tmp_path: Path, file: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(altered(saved, tmp_path / "altered", file, **fields))


def test_weights_that_do_not_fit_are_found_when_they_are_loaded(saved: Path, tmp_path: Path) -> None:
    graph = denoiser(altered(saved, tmp_path / "deeper", "transformer/config.json", num_layers=3))
    with pytest.raises(SourceError, match=r"the weights do not fit their config\.json"):
        graph.build()


def test_a_text_encoder_of_another_width(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(saved, folder)
    pixart.transformer(text_width=24).save_pretrained(folder / "transformer")
    with pytest.raises(SourceError, match=r"makes 20 channels, .*transformer takes 24"):
        open_source(folder)


def test_size_conditions_may_be_asked_for_at_any_training_size(tmp_path: Path) -> None:
    """diffusers' pipelines give them at 128 latent pixels only, and fail with such a model; its transformer works."""
    folder = pixart.sigma(tmp_path / "source", use_additional_conditions=True)
    graph = denoiser(folder)
    trace(graph.build(), graph.component, tmp_path, graph.feeds)
    assert onnx_difference(tmp_path / graph.component.path, graph, [(1, 1, 1, 1), (3, 7, 2, 9), (2, 5, 6, 6)]) <= 1e-4


def test_the_bundle_says_what_the_pipelines_do(sigma: Case) -> None:
    manifest = Bundle.open(sigma.bundle.path).manifest
    assert (manifest.family, manifest.guidance.default_scale, manifest.scheduler.num_inference_steps) == (
        "pixart",
        4.5,
        20,
    )
    assert manifest.prompts is not None and manifest.prompts.negative == ""
    assert (manifest.latents.height, manifest.latents.spatial_compression) == (12, 4)
