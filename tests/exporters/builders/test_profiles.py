"""Sizes in pixels → profiles of each component."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_deploy.bundle import Bundle, Manifest
from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.errors import InputError
from dit_deploy.exporters.builders.extents import Extent, parse_extent
from dit_deploy.exporters.builders.profiles import (
    input_shapes,
    plan_profiles,
    range_profiles,
)


@pytest.fixture(scope="module")
def manifest(tiny_bundle: Path) -> Manifest:
    """Trained at 64 × 64 pixels: 16 × 16 latents of 4 × 4 tokens, so sizes are multiples of 16; guided."""
    return Bundle.open(tiny_bundle).manifest


def ranges(profile: Profile) -> dict[str, tuple[int, int, int]]:
    return {name: (one.minimum, one.optimum, one.maximum) for name, one in profile.sizes.items()}


def unguided(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"guidance": type(manifest.guidance)()})


@pytest.mark.parametrize(
    ("text", "extent"),
    [
        ("2x256x512", Extent(256, 512, 2)),
        ("256x512", Extent(256, 512, None)),
        (" 1X64x32 ", Extent(64, 32, 1)),
        ("2x17x256x512", Extent(256, 512, 2, 17)),
    ],
)
def test_parse(text: str, extent: Extent) -> None:
    assert parse_extent(text) == extent


@pytest.mark.parametrize(
    "text", ["", "256", "256x", "0x64x64", "1x2x3x4x5", "-1x64x64", "64x64.5", "64×64", "1x64x9999999"]
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(InputError, match=r"--opt: .* came, expected BxHxW or HxW"):
        parse_extent(text, "--opt")


def test_default_is_the_training_size(manifest: Manifest) -> None:
    profiles = range_profiles(manifest)
    assert set(profiles) == {"denoiser", "vae_encoder", "vae_decoder"}
    denoiser = ranges(*profiles["denoiser"])
    # Guidance doubles the batch: half of the usual one without it, up to twice four pictures with it.
    assert denoiser == {"batch": (1, 2, 8), "patch_height": (4, 4, 4), "patch_width": (4, 4, 4)}
    for name in ("vae_encoder", "vae_decoder"):
        assert ranges(*profiles[name]) == {
            "batch": (1, 1, 4),
            "latent_height": (16, 16, 16),
            "latent_width": (16, 16, 16),
        }


def test_no_guidance_no_doubling(manifest: Manifest) -> None:
    for profiles in (range_profiles(unguided(manifest)), range_profiles(manifest, batched_guidance=False)):
        assert ranges(*profiles["denoiser"])["batch"] == (1, 1, 4)


def test_range_in_pixels(manifest: Manifest) -> None:
    profiles = range_profiles(
        manifest,
        minimum=parse_extent("1x32x48"),
        optimum=parse_extent("2x64x64"),
        maximum=parse_extent("3x128x96"),
    )
    assert ranges(*profiles["denoiser"]) == {
        "batch": (1, 4, 6),
        "patch_height": (2, 4, 8),
        "patch_width": (3, 4, 6),
    }
    assert ranges(*profiles["vae_decoder"]) == {
        "batch": (1, 2, 3),
        "latent_height": (8, 16, 32),
        "latent_width": (12, 16, 24),
    }


@pytest.mark.parametrize(
    ("given", "batch"),
    [
        ({"optimum": "2x64x64"}, (1, 2, 2)),
        ({"maximum": "3x64x64"}, (1, 1, 3)),
        ({"minimum": "2x64x64", "maximum": "3x64x64"}, (2, 2, 3)),
        ({"optimum": "64x64"}, (1, 1, 4)),
    ],
)
def test_open_batches(manifest: Manifest, given: dict[str, str], batch: tuple[int, int, int]) -> None:
    profiles = range_profiles(manifest, **{name: parse_extent(text) for name, text in given.items()})
    assert ranges(*profiles["vae_encoder"])["batch"] == batch


def test_optimum_follows_the_range(manifest: Manifest) -> None:
    profiles = range_profiles(manifest, minimum=parse_extent("96x96"), maximum=parse_extent("128x128"))
    assert ranges(*profiles["denoiser"])["patch_height"] == (6, 6, 8)
    profiles = range_profiles(manifest, minimum=parse_extent("16x16"), maximum=parse_extent("32x128"))
    assert ranges(*profiles["denoiser"])["patch_height"] == (1, 2, 2)
    assert ranges(*profiles["denoiser"])["patch_width"] == (1, 4, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"minimum": "128x64", "maximum": "64x64"}, "height: minimum 128, optimum 64, maximum 64 came"),
        ({"minimum": "3x64x64", "maximum": "2x64x64"}, "batch: minimum 3, optimum 3, maximum 2 came"),
        ({"optimum": "64x70"}, "width: 70 came, expected a multiple of 16 pixels; the nearest is 64"),
        ({"minimum": "8x64"}, "height: 8 came, expected a multiple of 16 pixels; the nearest is 16"),
    ],
)
def test_range_refuses(manifest: Manifest, given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        range_profiles(manifest, **{name: parse_extent(text) for name, text in given.items()})
    assert "\n" not in str(caught.value)


def test_beyond_the_axis(manifest: Manifest) -> None:
    record = manifest.model_dump()
    for tensor in (*record["components"]["denoiser"]["inputs"], *record["components"]["denoiser"]["outputs"]):
        for axis in tensor["axes"]:
            if isinstance(axis, dict) and axis["name"] == "patch_height":
                axis["maximum"] = 8
    limited = Manifest.model_validate(record)
    range_profiles(limited, optimum=parse_extent("128x64"))
    with pytest.raises(InputError, match=r"patch_height 9 … 9 came, expected sizes in 1 … 8"):
        range_profiles(limited, optimum=parse_extent("144x64"))


def test_plan_is_tight_and_keeps_the_order(manifest: Manifest) -> None:
    plan = plan_profiles(manifest, [parse_extent("64x64"), parse_extent("128x32"), parse_extent("64x64")])
    assert [ranges(profile) for profile in plan["denoiser"]] == [
        {"batch": (1, 2, 8), "patch_height": (4, 4, 4), "patch_width": (4, 4, 4)},
        {"batch": (1, 2, 8), "patch_height": (8, 8, 8), "patch_width": (2, 2, 2)},
    ]
    assert len(plan["vae_encoder"]) == 2


def test_plan_merges_the_most_alike(manifest: Manifest) -> None:
    asked = [parse_extent(text) for text in ("64x64", "512x512", "80x64", "512x576", "16x16")]
    plan = plan_profiles(manifest, asked, limit=4)
    sizes = [(ranges(one)["patch_height"], ranges(one)["patch_width"]) for one in plan["denoiser"]]
    assert sizes == [
        ((4, 4, 4), (4, 4, 4)),  # the hot one is not merged, although 80x64 is near
        ((32, 32, 32), (32, 32, 36)),  # fastest at the one that came first
        ((5, 5, 5), (4, 4, 4)),
        ((1, 1, 1), (1, 1, 1)),
    ]


def test_plan_of_one_profile_holds_all(manifest: Manifest) -> None:
    plan = plan_profiles(manifest, [parse_extent("64x64"), parse_extent("128x32")], limit=1)
    assert [ranges(one) for one in plan["denoiser"]] == [
        {"batch": (1, 2, 8), "patch_height": (4, 4, 8), "patch_width": (2, 4, 4)}
    ]


def test_plan_with_a_fallback(manifest: Manifest) -> None:
    fallback = (parse_extent("16x16"), parse_extent("128x128"))
    plan = plan_profiles(manifest, [parse_extent("2x64x64"), parse_extent("128x32")], limit=2, fallback=fallback)
    first, last = (ranges(one) for one in plan["denoiser"])
    assert first == {"batch": (1, 4, 8), "patch_height": (4, 4, 8), "patch_width": (2, 4, 4)}
    assert last == {"batch": (1, 4, 8), "patch_height": (1, 4, 8), "patch_width": (1, 4, 8)}


def test_plan_refuses(manifest: Manifest) -> None:
    with pytest.raises(InputError, match="resolutions: none came"):
        plan_profiles(manifest, [])
    with pytest.raises(InputError, match="limit: 0 came"):
        plan_profiles(manifest, [parse_extent("64x64")], limit=0)
    with pytest.raises(InputError, match="fallback height: minimum 128"):
        plan_profiles(manifest, [parse_extent("64x64")], fallback=(parse_extent("128x64"), parse_extent("64x64")))


def test_shapes_of_inputs(manifest: Manifest) -> None:
    [profile] = range_profiles(manifest, maximum=parse_extent("3x128x64"))["denoiser"]
    assert input_shapes(manifest.components["denoiser"], profile) == {
        "latents": ((1, 6, 16, 16), (2, 6, 16, 16), (6, 6, 32, 16)),
        "timestep": ((1,), (2,), (6,)),
        "class_labels": ((1,), (2,), (6,)),
    }
    short = Profile(sizes={"batch": SizeRange(minimum=1, optimum=1, maximum=1)})
    with pytest.raises(InputError, match="patch_height"):
        input_shapes(manifest.components["denoiser"], short)
