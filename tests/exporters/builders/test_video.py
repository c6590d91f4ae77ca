"""Engines of videos: sizes with frames, and builds of whole bundles for TensorRT-RTX and the CPU."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dit_deploy import Bundle, Pipeline
from dit_deploy.bundle import Manifest
from dit_deploy.bundle.engine import Profile
from dit_deploy.errors import InputError
from dit_deploy.exporters import export
from dit_deploy.exporters.builders import CalibrationOptions, build_engine
from dit_deploy.exporters.builders.extents import parse_extent
from dit_deploy.exporters.builders.profiles import input_shapes, plan_profiles, range_profiles

FEW = CalibrationOptions(samples=2, evaluations=2, steps=3)
RTX = importlib.util.find_spec("tensorrt_rtx") is not None
needs_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx is not installed: pip install 'dit-deploy[tensorrt-rtx]'")


@pytest.fixture(scope="module")
def bundle(tiny_video_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """9 frames of 24 × 20 pixels: 3 × 6 × 5 latents of 4 × 4 × 4; two experts, pictures as conditions."""
    return Bundle.open(shutil.copytree(tiny_video_bundle, tmp_path_factory.mktemp("video") / "tiny"))


@pytest.fixture
def manifest(bundle: Bundle) -> Manifest:
    return bundle.manifest


def ranges(profile: Profile) -> dict[str, tuple[int, int, int]]:
    return {name: (one.minimum, one.optimum, one.maximum) for name, one in profile.sizes.items()}


class TestProfiles:
    def test_the_usual_video_is_the_default(self, manifest: Manifest) -> None:
        profiles = range_profiles(manifest)
        patches = {"patch_frames": (3, 3, 3), "patch_height": (6, 6, 6), "patch_width": (5, 5, 5)}
        assert ranges(*profiles["denoiser"]) == {"batch": (1, 2, 8), **patches}
        assert profiles["denoiser_2"] == profiles["denoiser"]
        latents = {"latent_frames": (3, 3, 3), "latent_height": (6, 6, 6), "latent_width": (5, 5, 5)}
        for name in ("vae_encoder", "vae_decoder", "image_conditions"):
            assert ranges(*profiles[name]) == {"batch": (1, 1, 4), **latents}

    def test_frames_become_latent_frames_by_the_axes_offset(self, manifest: Manifest) -> None:
        ends = {"minimum": "1x1x16x16", "optimum": "1x9x24x20", "maximum": "2x17x32x32"}
        profiles = range_profiles(manifest, **{name: parse_extent(text) for name, text in ends.items()})
        assert ranges(*profiles["denoiser"])["patch_frames"] == (1, 3, 5)
        shapes = input_shapes(manifest.components["vae_encoder"], *profiles["vae_encoder"])
        assert shapes["images"] == ((1, 3, 1, 16, 16), (1, 3, 9, 24, 20), (2, 3, 17, 32, 32))
        shapes = input_shapes(manifest.components["image_conditions"], *profiles["image_conditions"])
        assert shapes["given"] == ((1, 1), (1, 9), (2, 17))
        assert shapes["noise"][2] == (2, 6, 5, 8, 8)

    @pytest.mark.parametrize(
        ("ends", "frames"),
        [
            ({"maximum": "1x5x24x20"}, (2, 2, 2)),  # the usual length, moved into the range
            ({"minimum": "1x13x24x20"}, (4, 4, 4)),
            ({"minimum": "1x1x24x20"}, (1, 3, 3)),
            ({"minimum": "1x24x20", "maximum": "1x17x24x20"}, (3, 3, 5)),
        ],
    )
    def test_frames_left_open(self, manifest: Manifest, ends: dict[str, str], frames: tuple[int, int, int]) -> None:
        profiles = range_profiles(manifest, **{name: parse_extent(text) for name, text in ends.items()})
        assert ranges(*profiles["denoiser"])["patch_frames"] == frames

    def test_a_profile_for_each_length(self, manifest: Manifest) -> None:
        asked = [parse_extent(text) for text in ("1x9x24x20", "1x17x24x20", "32x32")]
        plan = plan_profiles(manifest, asked)["denoiser"]
        assert [ranges(one)["patch_frames"] for one in plan] == [(3, 3, 3), (5, 5, 5), (3, 3, 3)]
        (merged,) = plan_profiles(manifest, asked, limit=1)["denoiser"]
        assert ranges(merged)["patch_frames"] == (3, 3, 5)
        fallback = (parse_extent("1x1x16x16"), parse_extent("1x21x32x32"))
        assert ranges(plan_profiles(manifest, asked[:1], fallback=fallback)["vae_decoder"][-1]) == {
            "batch": (1, 1, 4),
            "latent_frames": (1, 3, 6),
            "latent_height": (4, 6, 8),
            "latent_width": (4, 5, 8),
        }

    def test_frames_that_do_not_fit_name_the_nearest(self, manifest: Manifest) -> None:
        with pytest.raises(InputError, match=r"num_frames: 10 came.*nearest are 9 and 13"):
            range_profiles(manifest, maximum=parse_extent("1x10x24x20"))
        with pytest.raises(InputError, match="frames: minimum 17"):
            range_profiles(manifest, minimum=parse_extent("1x17x24x20"), maximum=parse_extent("1x9x24x20"))

    def test_pictures_have_no_frames(self, tiny_bundle: Path) -> None:
        with pytest.raises(InputError, match="1x9x64x64: frames came, but this bundle draws pictures"):
            range_profiles(Bundle.open(tiny_bundle).manifest, maximum=parse_extent("1x9x64x64"))


@pytest.mark.slow
@needs_rtx
def test_every_component_is_built_for_rtx(bundle: Bundle) -> None:
    engine = build_engine(
        bundle,
        backend="tensorrt-rtx",
        precision="fp16",
        compute_capabilities=("8.9",),
        minimum="1x1x16x16",
        maximum="2x17x32x32",
        calibration=FEW,
        threads=1,
    )
    parts = {"denoiser", "denoiser_2", "vae_encoder", "vae_decoder", "image_conditions", "solver"}
    assert set(engine.record.components) == parts
    assert engine.record.parity is not None
    assert engine.record.parity["passed"], engine.record.parity
    assert engine.record.parity["pictures"] == 2 * 9  # two videos of nine frames


@pytest.fixture(scope="module", params=["latte", "wan", "spacetime_dit"])
def family(traced_once: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param)
    return export(_MAKERS[request.param](folder / "source"), folder / "bundle")


@pytest.mark.slow
class TestFamilies:
    """FP16 and INT8 engines of whole families: text encoder, both halves of the VAE, denoiser."""

    @needs_rtx
    @pytest.mark.parametrize("precision", ["fp16", "int8"])
    def test_tensorrt_rtx_builds_every_component_without_a_gpu(self, family: Bundle, precision: str) -> None:
        low, best, high = _SIZES[family.manifest.family]
        engine = build_engine(
            family,
            backend="tensorrt-rtx",
            precision=precision,
            compute_capabilities=("8.9",),
            minimum=low,
            optimum=best,
            maximum=high,
            calibration=FEW,
            check=False,
            threads=1,
        )
        assert set(engine.record.components) == {*family.manifest.components, "solver"}
        frames = engine.record.components["denoiser"].profiles[0].sizes["patch_frames"]
        assert frames.minimum < frames.maximum

    def test_int8_runs_on_the_cpu(self, family: Bundle) -> None:
        engine = build_engine(family, precision="int8", kernels="onnxruntime", calibration=FEW, threads=1)
        record = engine.record
        assert record.parity is not None and record.parity["passed"], record.parity
        graph = onnx.load(engine.file("denoiser"), load_external_data=False).graph
        operators = [node.op_type for node in graph.node]
        assert operators.count("MatMulIntegerToFloat") >= 8
        size = [int(part) for part in _SIZES[family.manifest.family][0].split("x")]
        asked = {
            "prompt": ["a red square", "two blue circles"],
            "num_inference_steps": 2,
            "seed": 3,
            "num_frames": size[1],
            "height": size[2],
            "width": size[3],
            "output_type": "numpy",
        }
        plain = Pipeline(family, "onnx", threads=1)(**asked)
        made = Pipeline(family, engine.name, threads=1)(**asked)
        assert np.asarray(made.frames).shape == (2, *size[1:], 3)
        difference = float(np.abs(made.latents - plain.latents).max() / np.abs(plain.latents).max())
        assert 1e-6 < difference < 0.2  # another arithmetic, and the same video


def _latte(folder: Path) -> Path:
    from tests.families.latte import make_latte

    return make_latte(folder)


def _wan(folder: Path) -> Path:
    from tests.families.wan import make_wan

    return make_wan(folder)


def _spacetime(folder: Path) -> Path:
    from tests.families.spacetime_dit import make_spacetime_dit

    return make_spacetime_dit(folder)


_MAKERS: dict[str, Callable[[Path], Path]] = {"latte": _latte, "wan": _wan, "spacetime_dit": _spacetime}
#: Smallest, best and largest size of each family's engine, B × F × H × W.
_SIZES = {
    "latte": ("1x3x64x48", "1x7x128x128", "2x7x256x256"),
    "wan": ("1x5x48x64", "1x9x64x96", "2x13x96x128"),
    "spacetime_dit": ("1x5x48x64", "1x9x64x64", "2x13x96x128"),
}
