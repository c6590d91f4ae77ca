"""The pipeline against diffusers' own DiTPipeline, and what it says to bad input."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.errors import BackendError, Cancelled, InputError
from dit_deploy.sampling import NoiseSource
from dit_deploy.sampling import noise as seeded_noise


@pytest.fixture(scope="module")
def pipe(tiny_bundle: Path) -> Pipeline:
    return Pipeline(Bundle.open(tiny_bundle), threads=1)


@pytest.fixture(scope="module")
def theirs(tiny_source: Path) -> DiTPipeline:
    """diffusers' pipeline, with its hard-coded null class 1000 led to this model's own."""
    pipeline = DiTPipeline.from_pretrained(tiny_source, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)

    def lead_null_class(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        labels = kwargs["class_labels"]
        return args, {**kwargs, "class_labels": torch.where(labels == 1000, 17, labels)}

    pipeline.transformer.register_forward_pre_hook(lead_null_class, with_kwargs=True)
    return pipeline


def diffusers_latents(pipeline: DiTPipeline, **arguments: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the latents that the pipeline decodes (unscaled as it had them) and its pictures."""
    decoded: list[torch.Tensor] = []
    original = pipeline.vae.decode

    def decode(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        decoded.append(latents)
        return original(latents, *args, **kwargs)

    pipeline.vae.decode = decode
    try:
        images = pipeline(**arguments, output_type="np").images
    finally:
        pipeline.vae.decode = original
    return (decoded[0] * pipeline.vae.config.scaling_factor).numpy(), images


def test_same_seed_same_picture_as_diffusers(pipe: Pipeline, theirs: DiTPipeline) -> None:
    latents, images = diffusers_latents(
        theirs,
        class_labels=[3, 11],
        num_inference_steps=50,
        guidance_scale=4.0,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    ours = pipe(class_labels=[3, 11], num_inference_steps=50, guidance_scale=4.0, seed=7, output_type="numpy")
    assert isinstance(ours.images, np.ndarray)
    assert images.std() > 0.05
    # A random network is no denoiser: its latents grow to some hundreds, so the limit is relative to them.
    # tests/examples holds the trained model to 1e-3 itself.
    assert np.abs(ours.latents - latents).max() <= 1e-5 * np.abs(latents).max()
    assert np.abs(ours.images - images).max() <= 1 / 255


def test_a_list_of_seeds_is_a_generator_for_each_picture(pipe: Pipeline, theirs: DiTPipeline) -> None:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (1, 2**40 + 5)]
    latents, _ = diffusers_latents(theirs, class_labels=[0, 16], num_inference_steps=4, generator=generators)
    ours = pipe(class_labels=[0, 16], num_inference_steps=4, seed=[1, 2**40 + 5])
    assert np.abs(ours.latents - latents).max() <= 1e-5 * np.abs(latents).max()
    alone = pipe(class_labels=16, num_inference_steps=4, seed=2**40 + 5)
    assert np.abs(alone.latents[0] - ours.latents[1]).max() <= 1e-4


def test_without_guidance_the_null_class_is_not_asked(pipe: Pipeline, theirs: DiTPipeline) -> None:
    generator = torch.Generator("cpu").manual_seed(0)
    latents, _ = diffusers_latents(
        theirs, class_labels=[5], num_inference_steps=6, guidance_scale=1.0, generator=generator
    )
    ours = pipe(class_labels=5, num_inference_steps=6, guidance_scale=1.0, seed=0)
    assert np.abs(ours.latents - latents).max() <= 1e-5 * np.abs(latents).max()


@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "PNDMScheduler"])
def test_other_schedulers_by_name(pipe: Pipeline, theirs: DiTPipeline, scheduler: str) -> None:
    import diffusers

    before = theirs.scheduler
    theirs.scheduler = getattr(diffusers, scheduler).from_config(before.config)
    try:
        generator = torch.Generator("cpu").manual_seed(3)
        latents, _ = diffusers_latents(theirs, class_labels=[2], num_inference_steps=8, generator=generator)
    finally:
        theirs.scheduler = before
    ours = pipe(class_labels=2, num_inference_steps=8, seed=3, scheduler=scheduler)
    assert np.abs(ours.latents - latents).max() <= 1e-5 * np.abs(latents).max()


def test_two_calls_equal_one_batch(pipe: Pipeline) -> None:
    batched = pipe(class_labels=[1, 2, 3], num_inference_steps=5, seed=0, output_type="latent")
    twice = pipe(class_labels=[1, 2, 3], num_inference_steps=5, seed=0, output_type="latent", guidance_batched=False)
    assert np.abs(batched.latents - twice.latents).max() <= 1e-4
    assert batched.images == []


def test_given_noise_is_used_instead_of_the_seeds(pipe: Pipeline) -> None:
    given = seeded_noise(9, (1, 6, 16, 16))
    with_noise = pipe(class_labels=4, num_inference_steps=3, noise=given, seed=0)
    with_seed = pipe(class_labels=4, num_inference_steps=3, seed=9)
    assert np.array_equal(with_noise.latents, with_seed.latents)
    assert not np.array_equal(with_seed.latents, pipe(class_labels=4, num_inference_steps=3, seed=10).latents)


def test_a_random_seed_is_said_and_repeats_the_picture(pipe: Pipeline) -> None:
    first = pipe(class_labels=4, num_inference_steps=2)
    again = pipe(class_labels=4, num_inference_steps=2, seed=first.seed)
    assert np.array_equal(first.latents, again.latents)
    assert pipe(class_labels=4, num_inference_steps=2).seed != first.seed


def test_any_size_that_is_a_multiple(pipe: Pipeline) -> None:
    out = pipe(class_labels=[1, 2], num_inference_steps=2, seed=0, height=48, width=112)
    assert [image.size for image in out.images] == [(112, 48)] * 2  # type: ignore[union-attr]
    assert out.latents.shape == (2, 6, 12, 28)


def test_guidance_options_change_the_picture_and_only_where_they_should(pipe: Pipeline) -> None:
    def latents(**options: Any) -> np.ndarray:
        return pipe(class_labels=1, num_inference_steps=6, seed=0, output_type="latent", **options).latents

    plain = latents()
    for options in ({"guidance_channels": 3}, {"guidance_interval": (0.0, 0.5)}, {"guidance_rescale": 0.7}):
        assert np.abs(latents(**options) - plain).max() > 1e-4, options
    assert np.array_equal(latents(guidance_interval=(0.0, 1.0)), plain)
    assert np.allclose(latents(guidance_interval=(1.0, 1.0)), latents(guidance_scale=1.0), atol=1e-5)


def test_image_to_image_keeps_more_at_less_strength(pipe: Pipeline) -> None:
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3)))
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255
    original = pipe.encode(pixels, 1, NoiseSource(0))
    near = pipe(class_labels=1, num_inference_steps=20, seed=0, image=picture, strength=0.05).latents
    far = pipe(class_labels=1, num_inference_steps=20, seed=0, image=picture, strength=1.0).latents
    assert near.shape == far.shape == original.shape
    assert np.abs(near - original).mean() < 0.5 * np.abs(far - original).mean()
    several = pipe(class_labels=[1, 2], num_inference_steps=4, seed=0, image=[picture, picture], strength=0.5)
    assert len(several.images) == 2


def test_image_sets_the_size(pipe: Pipeline) -> None:
    out = pipe(class_labels=1, num_inference_steps=2, seed=0, image=Image.new("RGB", (100, 50)), strength=0.5)
    assert out.images[0].size == (96, 48)  # type: ignore[union-attr]


def test_callback_sees_every_step_and_can_cancel(pipe: Pipeline) -> None:
    seen: list[tuple[int, int]] = []
    final: list[np.ndarray] = []

    def watch(step: int, steps: int, latents: np.ndarray) -> None:
        assert not latents.flags.writeable
        seen.append((step, steps))
        final[:] = [latents.copy()]

    out = pipe(class_labels=1, num_inference_steps=4, seed=0, callback=watch, scheduler="heun")
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert np.array_equal(final[0], out.latents)
    with pytest.raises(Cancelled, match="after step 2 of 4"):
        pipe(class_labels=1, num_inference_steps=4, callback=lambda step, steps, latents: step < 1)


def test_threads_share_a_pipeline(pipe: Pipeline) -> None:
    expected = {seed: pipe(class_labels=seed, num_inference_steps=3, seed=seed).latents for seed in range(4)}
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(5):
            if not np.array_equal(pipe(class_labels=seed, num_inference_steps=3, seed=seed).latents, expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in expected for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_buffers_are_bound_once_and_reused(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(class_labels=1, num_inference_steps=2, seed=0)
    runner = pipe.pool("denoiser").runner
    monkeypatch.setattr(runner, "bind", lambda sizes: pytest.fail(f"bound again for {sizes}"))
    pipe(class_labels=2, num_inference_steps=5, seed=1)


def test_a_bundle_without_a_vae_gives_latents(tiny_source: Path, tmp_path: Path) -> None:
    from dit_deploy.exporters import export

    shutil.copytree(tiny_source / "transformer", tmp_path / "alone")
    pipe = Pipeline(export(tmp_path / "alone", tmp_path / "bundle"), threads=1)
    assert pipe(class_labels=1, num_inference_steps=2, output_type="latent").latents.shape == (1, 6, 16, 16)
    with pytest.raises(InputError, match="this bundle has no VAE decoder"):
        pipe(class_labels=1, num_inference_steps=2)


PICTURE = Image.new("RGB", (64, 64))
BAD: list[tuple[dict[str, Any], str]] = [
    ({"height": 40}, r"height: 40 came, expected a multiple of 16 pixels; the nearest is 32|nearest is 48"),
    ({"width": 0}, "width: 0 came, expected a multiple of 16"),
    ({"height": "64"}, "height: '64' came"),
    ({"class_labels": 18}, "class_labels: 18 is outside 0 … 17"),
    ({"class_labels": -1}, "class_labels: -1 is outside 0 … 17"),
    ({"class_labels": []}, "class_labels: "),
    ({"class_labels": 1.5}, "class_labels: 1.5 came, expected an integer"),
    ({"class_labels": None}, "class_labels: this bundle needs it"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": 1001}, "num_inference_steps"),
    ({"guidance_scale": math.nan}, "scale"),
    ({"guidance_scale": math.inf}, "scale"),
    ({"seed": -1}, "seed"),
    ({"seed": [1, 2]}, "2 seeds came for 1 pictures"),
    ({"seed": 1.5}, "seed: 1.5 came"),
    ({"seed": [1.9]}, "seed: 1.9 came"),
    ({"seed": [True]}, "seed: True came"),
    ({"seed": True}, "seed: True came"),
    ({"seed": "12", "class_labels": [1, 2]}, "seed: '12' came"),
    ({"seed": b"12", "class_labels": [1, 2]}, "seed: b'12' came"),
    ({"seed": np.array(3)}, "seed: array"),
    ({"class_labels": [[1], [2, 3]]}, r"class_labels: \[\[1\], \[2, 3\]\] came, expected an integer"),
    ({"class_labels": True}, "class_labels: True came"),
    ({"class_labels": [True, 2]}, r"class_labels: \[True, 2\] came"),
    ({"class_labels": "3"}, "class_labels: '3' came"),
    ({"noise": np.zeros((1, 6, 16, 16))}, "noise: float64"),
    ({"noise": np.zeros((1, 6, 16, 8), np.float32)}, r"noise: float32\[1, 6, 16, 8\] came"),
    ({"noise": np.full((1, 6, 16, 16), np.nan, np.float32)}, "noise: holds NaN"),
    ({"strength": 0.5}, "came without an image"),
    ({"image": Image.new("RGB", (64, 64)), "strength": 1.5}, "strength"),
    ({"image": np.zeros((64, 64, 4), np.uint8)}, r"image: shape \(1, 64, 64, 4\) came"),
    ({"image": np.full((64, 64, 3), 7.0)}, "values 7 … 7 came, expected 0 … 1"),
    ({"image": "nowhere.png"}, "image: nowhere.png does not exist"),
    ({"image": PICTURE, "height": -16}, "height: -16 came, expected a multiple of 16"),
    ({"image": PICTURE, "height": "64"}, "height: '64' came"),
    ({"image": PICTURE, "width": 64.0}, "width: 64.0 came"),
    ({"image": 5}, "image: 5 came, expected a path"),
    ({"image": [5]}, "image: 5 came, expected a path"),
    ({"image": [np.zeros((64, 64, 3), np.uint8)]}, "image: ndarray came, .*stack arrays"),
    ({"image": np.zeros((0, 0, 3), np.uint8)}, r"image: shape \(1, 0, 0, 3\) came"),
    ({"image": Image.new("RGB", (0, 5)), "height": 64, "width": 64}, "has 0×5 pixels"),
    ({"scheduler": "magic"}, "magic"),
    (
        {"scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}},
        "takes the model's output for v_prediction, but this bundle's denoiser predicts epsilon",
    ),
    ({"scheduler": "flow-euler"}, "output for flow_prediction, but this bundle's denoiser predicts epsilon"),
    ({"output_type": "jpeg"}, "output_type: 'jpeg' came"),
    ({"guidance_interval": 0.5}, "guidance interval: 0.5 came"),
    ({"conditions": 3}, "conditions: 3 came, expected numpy arrays by name"),
    ({"unconditional": [3]}, r"unconditional: \[3\] came, expected numpy arrays by name"),
    ({"callback": 3}, "callback: 3 came, expected a function"),
    ({"progress": 3}, "progress: 3 came, expected true, false or a function"),
    ({"scheduler": {"_class_name": "DDPMScheduler", "variance_type": "learned"}}, "learned"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_bad_input_is_one_line(pipe: Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pipe(**{"class_labels": 1, "num_inference_steps": 2, **arguments})
    assert "\n" not in str(caught.value)


def test_an_unreadable_image(pipe: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    with pytest.raises(InputError, match=r"broken\.png cannot be read as a picture"):
        pipe(class_labels=1, image=tmp_path / "broken.png")


def test_an_unknown_engine_names_those_there_are(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="'fast' came; this bundle has onnx"):
        Pipeline(Bundle.open(tiny_bundle), engine="fast")


def test_a_whole_config_without_a_prediction_type_means_epsilon(pipe: Pipeline) -> None:
    assert pipe(class_labels=1, num_inference_steps=2, scheduler={"_class_name": "DDIMScheduler"}).images


class Poisoned:
    """A component that computes what the pipeline's own does, with one NaN in the output ``name``."""

    def __init__(self, pipe: Pipeline, component: str, name: str) -> None:
        self.component = pipe.bundle.component(component)
        self._bind, self._name = pipe.pool(component).runner.bind, name

    def bind(self, sizes: Any) -> Any:
        binding, name = self._bind(sizes), self._name
        run: Callable[[], None] = binding.run

        class Binding:
            inputs, outputs = binding.inputs, binding.outputs

            def run(self) -> None:
                run()
                self.outputs[name][0, 0, 0, 0] = np.nan

        return Binding()


@pytest.mark.parametrize(
    ("component", "output", "message"),
    [
        ("denoiser", "prediction", "the latents hold NaN or infinite values after step 1 of 3"),
        ("vae_decoder", "images", "the VAE decoder's pictures hold NaN or infinite values"),
        ("vae_encoder", "mean", "the VAE encoder's mean holds NaN or infinite values"),
        ("vae_encoder", "std", "the VAE encoder's std holds NaN or infinite values"),
    ],
)
def test_nan_is_an_error_and_never_a_picture(pipe: Pipeline, component: str, output: str, message: str) -> None:
    broken = Pipeline(pipe.bundle, runners={component: Poisoned(pipe, component, output)})
    with pytest.raises(BackendError, match=message):
        broken(class_labels=1, num_inference_steps=3, seed=0, image=PICTURE, strength=1.0)
