"""Videos through the pipeline: frames, two denoisers, pictures as conditions, windows, pieces in time."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Tiling
from dit_deploy.errors import InputError
from dit_deploy.exporters import export
from dit_deploy.runtimes.autoencoder import Compression, decode, encode
from dit_deploy.runtimes.experts import ExpertDenoiser
from dit_deploy.runtimes.frames import latent_frames, pixel_frames
from dit_deploy.runtimes.tiling import Pieces, Span
from dit_deploy.runtimes.video import read_video, write_video
from dit_deploy.runtimes.windows import weights
from dit_deploy.sampling import NoiseSource
from tests import video_models as models

FAST: dict[str, Any] = {"class_labels": [3, 1], "seed": 5, "output_type": "numpy"}
NOTHING = {
    "image_latents": np.zeros((2, models.CHANNELS, 3, 6, 5), np.float32),
    "image_mask": np.zeros((2, 1, 3, 6, 5), np.float32),
}


@pytest.fixture(scope="module")
def bundle(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two experts and pictures as conditions, and pieces of 2 latent frames, each 1 after the other."""
    tiling = Tiling(tile_height=4, tile_width=3, stride_height=3, stride_width=2, tile_frames=2, stride_frames=1)
    made = models.source(experts=True, pictures=True, tiling=tiling)
    return export(made, tmp_path_factory.mktemp("video") / "both")


@pytest.fixture(scope="module")
def pipe(bundle: Bundle) -> Pipeline:
    return Pipeline(bundle, threads=1)


def expected_latents(
    noise: np.ndarray, steps: int, conditions: dict[str, np.ndarray], scales: tuple[float, float]
) -> Any:
    """The loop of diffusers' WanPipeline over the torch networks."""
    networks = {True: models.Denoiser(1).eval(), False: models.Denoiser(2).eval()}
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(models.SCHEDULER)
    scheduler.set_timesteps(steps)
    sample, given = torch.from_numpy(noise), [torch.from_numpy(one) for one in conditions.values()]
    labels = torch.tensor(FAST["class_labels"])
    with torch.no_grad():
        for t in scheduler.timesteps:
            high = bool(t >= 700)
            call = networks[high]
            time = t.expand(2)
            conditional, plain = (call(sample, time, one, *given)[0] for one in (labels, torch.zeros_like(labels)))
            guided = plain + scales[0 if high else 1] * (conditional - plain)
            sample = scheduler.step(guided, t, sample).prev_sample
    return sample.numpy()


def test_two_denoisers_take_turns_at_the_boundary(pipe: Pipeline) -> None:
    noise = NoiseSource(5).draw((2, models.CHANNELS, 3, 6, 5))
    for scales, more in (((2.0, 1.5), {}), ((3.0, 4.0), {"guidance_scale": 3.0, "guidance_scale_2": 4.0})):
        out = pipe(num_inference_steps=6, **more, **FAST)
        expected = expected_latents(noise, 6, NOTHING, scales)
        np.testing.assert_allclose(out.latents, expected, atol=2e-6)
        decoded = models.Decoder()(torch.from_numpy(expected))[0].detach().clamp(0, 1).movedim(1, -1).numpy()
        np.testing.assert_allclose(out.frames, decoded, atol=1e-5)
        assert np.asarray(out.frames).shape == (2, 9, 24, 20, 3)
        assert (out.images, out.frame_rate) == ([], 8.0)


def test_a_timestep_at_the_boundary_is_the_firsts() -> None:
    """As diffusers' pipelines decide it: ``t >= boundary_ratio * num_train_timesteps``, with a tensor."""
    timesteps, boundary = [900.0, float(np.float32(833.3)), 800.0], 0.8333 * 1000
    assert timesteps[1] < boundary
    asked: list[bool] = []

    class Either:
        seconds = 0.0

        def __init__(self, first: bool) -> None:
            self.first = first

        def __enter__(self) -> Either:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def __call__(self, state: Any, row: int) -> Any:
            asked.append(self.first)

    both = ExpertDenoiser(lambda: Either(True), lambda: Either(False), boundary)
    for row in range(3):
        both(SimpleNamespace(table=SimpleNamespace(timesteps=timesteps)), row)
    assert asked == [bool(t >= boundary) for t in torch.tensor(timesteps)] == [True, True, False]


def test_one_denoiser_at_a_time_draws_the_same(bundle: Bundle, pipe: Pipeline) -> None:
    alone = Pipeline(bundle, threads=1, low_memory=True)
    for _ in range(2):  # what was forgotten is loaded again
        np.testing.assert_array_equal(alone(**FAST).frames, pipe(**FAST).frames)
    assert alone._components._pools == {}


def test_a_first_and_a_last_picture(pipe: Pipeline) -> None:
    """They stay what they are, and lead what is between."""
    first, last = (np.random.default_rng(seed).random((24, 20, 3), np.float32) for seed in (1, 2))
    out = pipe(image=first, last_image=last, num_inference_steps=6, **FAST)
    images, given = np.zeros((2, 3, 9, 24, 20), np.float32), np.zeros((2, 9), np.int64)
    images[:, :, 0], images[:, :, 8] = first.transpose(2, 0, 1), last.transpose(2, 0, 1)
    given[:, [0, 8]] = 1
    source = NoiseSource(5)
    # One draw a picture comes before the latents' own.
    drawn = np.repeat(source.draw((1, models.CHANNELS, 3, 6, 5)), 2, axis=0)
    arguments = [torch.from_numpy(one) for one in (images, given, drawn)]
    made = [one.detach().numpy() for one in models.Conditioner()(*arguments)]
    expected = expected_latents(
        source.draw((2, models.CHANNELS, 3, 6, 5)), 6, dict(zip(NOTHING, made, strict=True)), (2.0, 1.5)
    )
    np.testing.assert_allclose(out.latents[:, :, [0, 2]], made[0][:, :, [0, 2]], atol=1e-6)
    np.testing.assert_allclose(out.latents[:, :, 1], expected[:, :, 1], atol=2e-6)


def test_a_picture_of_another_aspect_is_stretched_and_it_is_said(pipe: Pipeline) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8))
    with pytest.warns(UserWarning, match="image: a picture of 60×30 pixels was stretched to 20×24; cut it"):
        stretched = pipe(image=picture, **FAST)
    asked = np.asarray(picture.resize((20, 24), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(stretched.latents, pipe(image=asked, **FAST).latents)


@pytest.mark.parametrize(("frames", "latent"), [(1, 1), (5, 2), (9, 3), (41, 11)])
def test_frames_from_one_graph(bundle: Bundle, pipe: Pipeline, frames: int, latent: int) -> None:
    assert latent_frames(bundle.manifest, frames) == latent
    assert pixel_frames(bundle.manifest, latent) == frames
    out = pipe(num_frames=frames, height=16, width=24, **FAST)
    assert np.asarray(out.frames).shape == (2, frames, 16, 24, 3)


def test_windows_of_a_network_that_sees_frame_by_frame_change_nothing(pipe: Pipeline) -> None:
    whole = pipe(num_frames=41, **FAST)
    for window, overlap in ((17, 8), (13, 0), (21, None)):
        parts = pipe(num_frames=41, window_frames=window, window_overlap=overlap, **FAST)
        np.testing.assert_allclose(parts.latents, whole.latents, atol=1e-5)
    first = np.random.default_rng(1).random((24, 20, 3), np.float32)
    given = {"image": first, "num_frames": 41}
    np.testing.assert_allclose(
        pipe(window_frames=17, window_overlap=8, **given, **FAST).latents, pipe(**given, **FAST).latents, atol=1e-5
    )


def test_weights_of_windows_add_up() -> None:
    windows = [slice(0, 5), slice(3, 8), slice(6, 11)]
    total = np.zeros(11)
    for window, weight in zip(windows, made := weights(windows, 11), strict=True):
        total[window] += weight
        assert (weight > 0).all()
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    np.testing.assert_allclose(made[0][3:], [2 / 3, 1 / 3], atol=1e-6)


def test_a_video_to_start_from(pipe: Pipeline, tmp_path: Path) -> None:
    frames = np.random.default_rng(3).random((9, 24, 20, 3), np.float32)
    out = pipe(video=frames, strength=0.5, **FAST)
    source = NoiseSource(5)
    mean, std = (one.detach().numpy() for one in models.Encoder()(torch.from_numpy(frames.transpose(3, 0, 1, 2)[None])))
    clean = mean + std * source.draw(mean.shape)
    noise = source.draw((2, *mean.shape[1:]))
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(models.SCHEDULER)
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[2:3]
    start = scheduler.scale_noise(torch.from_numpy(np.repeat(clean, 2, axis=0)), t, torch.from_numpy(noise))
    zero = pipe(video=frames, strength=0.5, num_inference_steps=4, **{**FAST, "output_type": "latent"})
    assert np.abs(zero.latents - start.numpy()).max() < 3  # one of two steps away
    assert np.asarray(out.frames).shape == (2, 9, 24, 20, 3)
    # as pictures, and as an array of eight bits
    pixels = (frames * 255).round().astype(np.uint8)
    listed = pipe(video=[Image.fromarray(one) for one in pixels], strength=0.5, **FAST)
    np.testing.assert_array_equal(listed.latents, pipe(video=pixels, strength=0.5, **FAST).latents)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """One denoiser, no pictures as conditions; noise is drawn with frames before channels."""
    made = models.source(noise_axes="frames_channels")
    return Pipeline(export(made, tmp_path_factory.mktemp("video") / "plain"), threads=1)


def test_noise_with_frames_before_channels(plain: Pipeline) -> None:
    conditions = {name: array[:, :, :, :4, :4] for name, array in NOTHING.items()}
    request = {"conditions": conditions, "height": 16, "width": 16, **FAST, "output_type": "latent"}
    drawn = NoiseSource(5).draw((2, 3, models.CHANNELS, 4, 4)).swapaxes(1, 2)
    given = plain(noise=np.ascontiguousarray(drawn), **request)
    np.testing.assert_array_equal(plain(**request).latents, given.latents)


class TestPieces:
    """An autoencoder that sees one latent frame and the one before: pieces in time differ in that one alone."""

    def test_decoding(self, pipe: Pipeline) -> None:
        latents = np.random.default_rng(0).standard_normal((1, models.CHANNELS, 8, 6, 5)).astype(np.float32)
        pool, unit = pipe.pool("vae_decoder"), Compression(models.SPACE, models.TIME)
        whole = decode(pool, latents, unit)[0]
        seen: list[tuple[int, int]] = []
        pieces = Pieces(frames=Span(3, 2))
        parts = decode(pool, latents, unit, pieces, lambda done, total: seen.append((done, total)))[0]
        assert whole.shape == parts.shape == (1, 29, 24, 20, 3)
        assert seen == [(index, 4) for index in range(1, 5)]
        # By hand: pieces of 3 + 1 latent frames, every 2; of later ones the first picture is dropped, 4 are blended.
        rows: list[np.ndarray] = []
        for start in range(0, 8, 2):
            piece = decode(pool, latents[:, :, start : start + 4], unit)[0]
            rows.append(piece[:, 1:] if start else piece)
        expected = [rows[0][:, :9]]
        for before, piece in itertools.pairwise(rows):
            count = min(4, piece.shape[1])
            for index in range(count):
                share = index / count
                piece[:, index] = before[:, before.shape[1] - count + index] * (1 - share) + piece[:, index] * share
            expected.append(piece[:, :8])
        # What is clipped to 0 … 1 before the blending here is so after it there.
        inside = (np.concatenate(expected, axis=1)[:, :29] > 0.02) & (np.concatenate(expected, axis=1)[:, :29] < 0.98)
        difference = np.abs(np.concatenate(expected, axis=1)[:, :29] - parts)[inside]
        assert np.median(difference) < 1e-6

    def test_encoding(self, pipe: Pipeline) -> None:
        images = np.random.default_rng(1).random((1, 3, 29, 24, 20), np.float32)
        pool, unit, shape = pipe.pool("vae_encoder"), Compression(models.SPACE, models.TIME), (1, 6, 8, 6, 5)
        whole = encode(pool, images, shape, NoiseSource(0), compression=unit)[0]
        parts = encode(pool, images, shape, NoiseSource(0), Pieces(frames=Span(3, 2)), unit)[0]
        np.testing.assert_allclose(parts, whole, atol=1e-5)  # this one looks no further back than a piece does

    def test_the_family_s_own(self, pipe: Pipeline) -> None:
        request = {**FAST, "num_frames": 17}
        whole, parts = pipe(**request), pipe(vae_tile="model", **request)
        np.testing.assert_array_equal(whole.latents, parts.latents)
        assert np.abs(np.asarray(whole.frames) - np.asarray(parts.frames)).max() > 0


def test_progress_counts_steps_and_pieces(pipe: Pipeline) -> None:
    seen: list[tuple[str, int, int]] = []
    pipe(vae_tile="model", num_inference_steps=2, progress=lambda *one: seen.append(one), **FAST)
    assert seen[:2] == [("denoising", 1, 2), ("denoising", 2, 2)]
    pieces = [one for one in seen if one[0] == "decoding"]
    assert pieces == [("decoding", index, len(pieces)) for index in range(1, len(pieces) + 1)]
    assert len(pieces) > 4


class TestFiles:
    def test_a_video_comes_back(self, tmp_path: Path) -> None:
        across, down = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 24))
        frames = np.stack([np.stack([across, down, np.full_like(down, k / 9)], axis=-1) for k in range(9)])
        write_video(frames.astype(np.float32), tmp_path / "a.mp4", 8)
        read = read_video(tmp_path / "a.mp4", multiple=4, channels=3, frames=None, height=None, width=None)
        assert read.shape == (1, 3, 9, 24, 32)
        assert np.abs(read[0].transpose(1, 2, 3, 0) - frames).mean() < 0.02
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]

    @pytest.mark.parametrize("suffix", [".gif", ".webp"])
    def test_moving_pictures(self, tmp_path: Path, suffix: str) -> None:
        frames = [Image.new("RGB", (8, 6), (40 * k, 0, 0)) for k in range(5)]
        write_video(frames, tmp_path / f"a{suffix}", 10)
        with Image.open(tmp_path / f"a{suffix}") as opened:
            assert getattr(opened, "n_frames", 1) == 5

    def test_a_file_that_is_none(self, pipe: Pipeline, tmp_path: Path) -> None:
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"\0\0\0\x18ftypmp42" + b"nothing" * 20)
        with pytest.raises(InputError, match=r"video: .*broken.mp4 cannot be read as a video"):
            pipe(video=broken, **FAST)
        with pytest.raises(InputError, match="does not exist"):
            pipe(video=tmp_path / "none.mp4", **FAST)
        with pytest.raises(InputError, match="cannot be written"):
            write_video([Image.new("RGB", (8, 8))], tmp_path / "no" / "a.mp4")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"num_frames": 10},
            r"num_frames: 10 came, .*\(expected 1 more than a multiple of 4\); the nearest are 9 and 13",
        ),
        ({"num_frames": 0}, "the nearest are 1 and 5"),
        ({"num_frames": True}, "num_frames: True came, an integer was expected"),
        ({"frame_rate": 0}, "frame_rate: 0 came, expected pictures a second"),
        ({"window_frames": 10}, "window_frames: 10 came, .*the nearest are 9 and 13"),
        ({"window_frames": 9, "window_overlap": 3}, "window_overlap: 3 came, expected a multiple of 4 pictures"),
        ({"window_frames": 5, "window_overlap": 8}, "window_overlap: 8 came, expected less than a window's 5"),
        ({"window_overlap": 8}, "window_overlap: came without window_frames"),
        ({"last_image": Image.new("RGB", (20, 24))}, "last_image: came without an image"),
        ({"video": np.zeros((9, 20, 20, 3))}, "came, but height|no multiple|20"),
        ({"video": np.zeros((10, 24, 20, 3))}, "video: 10 came, .*the nearest are 9 and 13; cut it to one of these"),
        ({"video": np.zeros((9, 24, 20, 3)), "num_frames": 13}, "video: 9 frames came, num_frames is 13"),
        ({"strength": 0.5}, "strength: 0.5 came without an image or a video"),
        ({"decode_timestep": 0.1}, "decode_timestep: this bundle's VAE decoder takes none"),
        ({"vae_tile": 12}, "vae_tile: 12 came, expected a multiple of 16 pixels"),
    ],
)
def test_requests_that_do_not_fit(pipe: Pipeline, request_: dict[str, Any], message: str) -> None:
    if request_.get("video") is not None and request_["video"].shape[1] == 20:
        request_ = {**request_, "height": 24}
    with pytest.raises(InputError, match=message):
        pipe(**{**FAST, **request_})


def test_what_a_bundle_of_pictures_says_to_videos(tiny_bundle: Path) -> None:
    pipe = Pipeline(Bundle.open(tiny_bundle), threads=1)
    for given, message in (
        ({"num_frames": 9}, "num_frames: 9 came, but this bundle draws pictures"),
        ({"video": np.zeros((9, 64, 64, 3))}, "video: this bundle draws pictures; give image="),
        ({"last_image": Image.new("RGB", (64, 64))}, "last_image: this bundle makes no video of pictures"),
        ({"guidance_scale_2": 2.0}, "guidance_scale_2: this bundle has one denoiser"),
        ({"frame_rate": 8}, "frame_rate: 8 came, but this bundle draws pictures"),
    ):
        with pytest.raises(InputError, match=message):
            pipe(class_labels=1, **given)


def test_a_bundle_without_pictures_as_conditions(plain: Pipeline) -> None:
    with pytest.raises(InputError, match="image: this bundle makes videos; give video="):
        plain(image=Image.new("RGB", (20, 24)), conditions=NOTHING, **FAST)
