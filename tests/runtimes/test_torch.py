"""The reference against itself: diffusers' pipeline and the loop, single components, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiTPipeline

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import InputError
from dit_deploy.runtimes.torch import Sampled, TorchReference, TorchRunner
from dit_deploy.runtimes.torch._pipeline import OwnPipeline
from dit_deploy.sampling import noise
from tests.parity.altered import latents_only

LABELS = [3, 16]


@pytest.fixture(scope="module")
def reference(tiny_source: Path) -> TorchReference:
    return TorchReference.open(tiny_source)


def draw(reference: TorchReference, **arguments: Any) -> Sampled:
    return reference.sample(LABELS, **{"num_inference_steps": 5, **arguments})


@pytest.mark.parametrize("seed", [0, [4, 5]])
@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
@pytest.mark.parametrize("scheduler", [None, "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_the_loop_is_the_pipeline(reference: TorchReference, seed: Any, guidance_scale: float, scheduler: Any) -> None:
    arguments = {"seed": seed, "guidance_scale": guidance_scale, "scheduler": scheduler}
    pipeline, loop = draw(reference, **arguments), draw(reference, own_loop=True, **arguments)
    assert pipeline.implementation == "diffusers DiTPipeline"
    assert loop.implementation.startswith("the loop")
    assert len(pipeline.evaluations) == len(loop.evaluations) == 5
    assert [one.timestep for one in pipeline.evaluations] == [one.timestep for one in loop.evaluations]
    for one, other in zip(pipeline.evaluations, loop.evaluations, strict=True):
        for name in ("sample", "prediction", "next_sample"):
            np.testing.assert_allclose(
                getattr(one, name), getattr(other, name), rtol=0, atol=1e-4 * np.abs(loop.latents).max()
            )
    assert pipeline.images is not None
    assert loop.images is not None
    np.testing.assert_allclose(pipeline.images, loop.images, atol=1e-5)


def test_evaluations_follow_each_other(reference: TorchReference) -> None:
    drawn = draw(reference)
    np.testing.assert_allclose(drawn.evaluations[0].sample, noise(0, drawn.latents.shape), atol=1e-6)
    for one, after in zip(drawn.evaluations, drawn.evaluations[1:], strict=False):
        assert np.array_equal(one.next_sample, after.sample)
    assert np.array_equal(drawn.evaluations[-1].next_sample, drawn.latents)
    assert drawn.images is not None
    assert drawn.images.shape == (2, 64, 64, 3)


def test_the_null_class_is_the_model_s_own(reference: TorchReference, tiny_source: Path) -> None:
    """A model of 1000 classes would need no mapping: so compare with the predictions for class 17 by hand."""
    first = draw(reference).evaluations[0]
    feeds = {"latents": first.sample, "timestep": np.full(2, first.timestep, np.float32)}
    text = reference.run("denoiser", {**feeds, "class_labels": np.array(LABELS)})["prediction"]
    null = reference.run("denoiser", {**feeds, "class_labels": np.array([17, 17])})["prediction"]
    np.testing.assert_allclose(first.prediction, null + 4 * (text - null), atol=1e-5)
    with pytest.raises(IndexError):
        DiTPipeline.from_pretrained(tiny_source, low_cpu_mem_usage=False)([3], num_inference_steps=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"scheduler": "EulerDiscreteScheduler"},
        {"scheduler": "DDPMScheduler"},
        {"scheduler": "dpmsolver++sde"},
        {"eta": 0.5},
        {"height": 96},
        {"noise": noise(1, (2, 6, 16, 16))},
        {"guidance_channels": 3},
        {"guidance_interval": (0.2, 0.8)},
        {"guidance_rescale": 0.7},
    ],
)
def test_the_solver_apart_from_the_network(reference: TorchReference, tiny_bundle: Path, arguments: Any) -> None:
    """With torch on both sides, what is left is the solver, the noise and the guidance."""
    bundle = Bundle.open(tiny_bundle)
    runners = {name: TorchRunner(reference, name, part) for name, part in bundle.manifest.components.items()}
    ours = Pipeline(bundle, runners=runners)(
        class_labels=LABELS, num_inference_steps=5, guidance_scale=4.0, seed=0, output_type="numpy", **arguments
    )
    theirs = draw(reference, **arguments)
    assert theirs.implementation.startswith("the loop"), "DiTPipeline would draw something else"
    np.testing.assert_allclose(ours.latents, theirs.latents, rtol=0, atol=1e-5 * np.abs(theirs.latents).max())
    assert theirs.images is not None
    np.testing.assert_allclose(ours.images, theirs.images, atol=1e-5)


@pytest.mark.parametrize("seed", [0, [4, 5]])
@pytest.mark.parametrize("pictures", [1, 2])
def test_image_to_image(reference: TorchReference, tiny_bundle: Path, seed: Any, pictures: int) -> None:
    image = np.random.default_rng(0).random((pictures, 64, 64, 3)).astype(np.float32)
    ours = Pipeline(Bundle.open(tiny_bundle), threads=1)(
        class_labels=LABELS,
        num_inference_steps=5,
        guidance_scale=4.0,
        seed=seed,
        image=image,
        strength=0.6,
        output_type="numpy",
    )
    theirs = draw(reference, seed=seed, image=image, strength=0.6)
    assert len(theirs.evaluations) == 3
    np.testing.assert_allclose(ours.latents, theirs.latents, rtol=0, atol=1e-4 * np.abs(theirs.latents).max())


def test_learned_range_variance(reference: TorchReference, tiny_bundle: Path) -> None:
    config = {**reference.source.scheduler_config, "_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    config.pop("set_alpha_to_one", None)
    theirs = draw(reference, scheduler=config)
    ours = Pipeline(Bundle.open(tiny_bundle), threads=1)(
        class_labels=LABELS, num_inference_steps=5, guidance_scale=4.0, seed=0, scheduler=config, output_type="latent"
    )
    assert theirs.latents.shape == theirs.evaluations[0].prediction.shape == (2, 6, 16, 16)
    np.testing.assert_allclose(ours.latents, theirs.latents, rtol=0, atol=1e-4 * np.abs(theirs.latents).max())
    fixed = draw(reference, scheduler={**config, "variance_type": "fixed_small"})
    assert np.abs(theirs.latents - fixed.latents).max() > 1e-3 * np.abs(theirs.latents).max()


def test_components_are_what_diffusers_computes(reference: TorchReference, tiny_source: Path) -> None:
    """The VAE called and scaled as diffusers' pipelines do it, in words of its own."""
    vae = DiTPipeline.from_pretrained(tiny_source, low_cpu_mem_usage=False).vae
    generator = np.random.default_rng(0)
    images = generator.random((2, 3, 32, 64)).astype(np.float32)
    latents = generator.standard_normal((2, 6, 8, 16)).astype(np.float32)
    encoded = reference.run("vae_encoder", {"images": images})
    decoded = reference.run("vae_decoder", {"latents": latents})
    scale = vae.config.scaling_factor
    with torch.no_grad():
        posterior = vae.encode(2.0 * torch.from_numpy(images) - 1.0).latent_dist
        expected = vae.decode(1 / scale * torch.from_numpy(latents)).sample / 2 + 0.5
    for found, wanted in (
        (encoded["mean"], posterior.mean * scale),
        (encoded["std"], posterior.std * scale),
        (decoded["images"], expected),
    ):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


def test_what_is_missing_is_said(reference: TorchReference) -> None:
    with pytest.raises(InputError, match="the reference has vae_encoder, vae_decoder, denoiser"):
        reference.run("text_encoder", {})
    bare = TorchReference(latents_only(reference.source))
    assert draw(bare).images is None
    with pytest.raises(InputError, match="component: 'vae_decoder' came; the reference has denoiser"):
        bare.run("vae_decoder", {"latents": np.zeros((1, 6, 4, 4), np.float32)})
    with pytest.raises(InputError, match="image: str came, expected float32"):
        draw(reference, image="picture.png")
    with pytest.raises(InputError, match="NoneSuchScheduler"):
        draw(reference, scheduler={"_class_name": "NoneSuchScheduler"})


def test_progress_counts_evaluations(reference: TorchReference) -> None:
    seen: list[tuple[int, int]] = []
    draw(reference, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_identity(reference: TorchReference, tiny_bundle: Path) -> None:
    assert reference.kind == "diffusers_pipeline"
    assert reference.sha256 == Bundle.open(tiny_bundle).manifest.source.sha256
    assert set(reference.versions) == {"torch", "diffusers", "python"}


@pytest.mark.parametrize(
    ("saved", "of_text", "of_pictures"),
    [
        ("LTXPipeline", "LTXPipeline", "LTXImageToVideoPipeline"),
        ("LTXImageToVideoPipeline", "LTXPipeline", "LTXImageToVideoPipeline"),
        ("WanPipeline", "WanPipeline", "WanImageToVideoPipeline"),
        ("CogVideoXImageToVideoPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXImageToVideoPipeline"),
    ],
)
def test_the_class_of_diffusers_is_that_of_what_is_given(saved: str, of_text: str, of_pictures: str) -> None:
    pipeline = OwnPipeline(Path("somewhere"), getattr(diffusers, saved), {})
    for pictures, name in ((None, of_text), (object(), of_pictures)):
        drawing: Any = SimpleNamespace(pictures=pictures)
        assert pipeline.for_drawing(drawing).name == name
