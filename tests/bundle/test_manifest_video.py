"""What a manifest of videos refuses, and what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dit_deploy.bundle import Axis, Component, FileRecord, Latents, Manifest, TensorSpec, Tiling, bind_axes, shape_of
from dit_deploy.errors import InputError

from .conftest import BATCH, FIELDS, HEIGHT, WIDTH

PATCHED = (Axis(name="patch_height", multiple=2), Axis(name="patch_width", multiple=2))
FRAMES = Axis(name="patch_frames")
CAUSAL = Axis(name="latent_frames", multiple=4, offset=-3)
SMALL = (BATCH, 4, Axis(name="latent_frames"), HEIGHT, WIDTH)
LARGE = (
    BATCH,
    3,
    CAUSAL,
    *(Axis(name=f"latent_{side}", multiple=8) for side in ("height", "width")),
)
PATHS = ("denoiser", "denoiser_2", "vae_decoder", "vae_encoder", "pictures", "vision")
FILES = dict.fromkeys(
    (*(f"{name}/model.onnx" for name in PATHS), "scheduler/scheduler_config.json"), FileRecord(size=1, sha256="0" * 64)
)


def tensor(name: str, axes: tuple[int | Axis, ...], dtype: str = "float32") -> TensorSpec:
    return TensorSpec.model_validate({"name": name, "dtype": dtype, "axes": axes})


def component(name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> Component:
    return Component(path=f"{name}/model.onnx", inputs=inputs, outputs=outputs)


def denoiser(name: str = "denoiser", *more: TensorSpec, frames: Axis = FRAMES) -> Component:
    latents = (BATCH, 4, frames, *PATCHED)
    inputs = (
        tensor("latents", latents),
        tensor("timestep", (BATCH,)),
        tensor("class_labels", (BATCH,), "int64"),
        *more,
    )
    return component(name, inputs, (tensor("prediction", latents),))


DECODER = component("vae_decoder", (tensor("latents", SMALL),), (tensor("images", LARGE),))
PICTURE = component(
    "pictures",
    (tensor("images", LARGE), tensor("given", (BATCH, CAUSAL), "int64")),
    (tensor("image_latents", SMALL), tensor("image_mask", (BATCH, 1, Axis(name="latent_frames"), 1, 1))),
)
VISION = component(
    "vision",
    (tensor("images", (BATCH, Axis(name="pictures", maximum=2), 3, 224, 224)),),
    (tensor("image_embeds", (BATCH, Axis(name="pictures", multiple=7), 16)),),
)
CONDITIONS = (
    tensor("image_latents", (BATCH, 4, FRAMES, *PATCHED)),
    tensor("image_mask", (BATCH, 1, FRAMES, 1, 1)),
    tensor("image_embeds", (BATCH, Axis(name="image_tokens"), 16)),
)
BOTH = {"denoiser": denoiser("denoiser", *CONDITIONS), "pictures": PICTURE, "vision": VISION}
RECORD = {
    "component": "pictures",
    "kept": "image_latents",
    "mask": "image_mask",
    "encoder": {"component": "vision", "size": 224},
}


def manifest(components: dict[str, Component] | None = None, **changes: Any) -> Manifest:
    made = {"denoiser": denoiser(), "vae_decoder": DECODER, **(components or {})}
    latents = FIELDS["latents"].model_copy(update={"frames": 3, "temporal_compression": 4})
    return Manifest(**{**FIELDS, "files": FILES, "latents": latents, "components": made, **changes})


def test_a_manifest_of_videos_passes_and_comes_back() -> None:
    second = denoiser("denoiser_2", *CONDITIONS)
    made = manifest(
        {**BOTH, "denoiser_2": second},
        image_conditions=RECORD,
        experts={"component": "denoiser_2", "boundary": 0.875, "default_scale": 3.0},
        tiling=Tiling(tile_height=32, tile_width=32, stride_height=24, stride_width=24, tile_frames=4, stride_frames=3),
    )
    assert Manifest.model_validate_json(made.to_json(), strict=True) == made


def test_a_vae_of_pictures_takes_frame_by_frame() -> None:
    made = manifest({"vae_decoder": FIELDS["components"]["vae_decoder"]})
    assert made.latents.frames == 3


def test_offsets_are_part_of_every_shape() -> None:
    sizes = {"batch": 2, "latent_frames": 3, "latent_height": 4, "latent_width": 5}
    spec = tensor("images", LARGE)
    assert shape_of(spec, sizes) == (2, 3, 9, 32, 40)
    assert bind_axes([spec], {"images": np.zeros((2, 3, 9, 32, 40), np.float32)}) == sizes
    with pytest.raises(InputError, match=r"axis 2 is 8, expected 1 more than a multiple of 4 \(4 × latent_frames-3\)"):
        bind_axes([spec], {"images": np.zeros((2, 3, 8, 32, 40), np.float32)})
    few = tensor("images", (*LARGE[:2], CAUSAL.model_copy(update={"minimum": 2, "maximum": 3}), *LARGE[3:]))
    with pytest.raises(InputError, match=r"axis 2 is 1, expected 5 … 9 \(4 × latent_frames-3\)"):
        bind_axes([few], {"images": np.zeros((2, 3, 1, 32, 40), np.float32)})


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"name": "latent_frames", "multiple": 4, "offset": -4}, "its smallest size is 0, expected at least 1"),
        ({"name": "latent_frames", "offset": -1}, "its smallest size is 0"),
    ],
)
def test_axes_without_a_size(axis: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Axis.model_validate(axis)


@pytest.mark.parametrize(
    ("components", "changes", "message"),
    [
        ({}, {"latents": FIELDS["latents"]}, "latents.frames and a denoiser with latents of five axes go together"),
        ({"denoiser": FIELDS["components"]["denoiser"]}, {}, "latents.frames and a denoiser"),
        ({"denoiser": denoiser(frames=Axis(name="frames"))}, {}, "expected patch_frames as the third axis"),
        ({"denoiser": denoiser(frames=Axis(name="patch_frames", multiple=2))}, {}, "have 2·patch_frames, .* is 1"),
        (
            {
                "vae_decoder": component(
                    "vae_decoder",
                    (tensor("latents", (BATCH, 4, HEIGHT, WIDTH)),),
                    (tensor("images", (*LARGE[:2], 9, *LARGE[3:])),),
                )
            },
            {},
            "the vae_decoder is for videos, and not all of the bundle is",
        ),
        ({}, {"experts": {"component": "denoiser_2", "boundary": 0.9}}, "names the component denoiser_2"),
        (
            {"denoiser_2": denoiser("denoiser_2", *CONDITIONS)},
            {"experts": {"component": "denoiser_2", "boundary": 0.9}},
            "the denoiser_2 has other inputs or outputs than the denoiser",
        ),
        ({}, {"experts": {"component": "denoiser_2", "boundary": 1.0}}, "less than 1"),
        ({}, {"image_conditions": RECORD}, "names the component pictures"),
        ({**BOTH, "denoiser": denoiser()}, {"image_conditions": RECORD}, "makes image_latents, which is no condition"),
        (BOTH, {"image_conditions": {**RECORD, "mask": None}}, "kept and mask go together"),
        (
            BOTH,
            {"image_conditions": {**RECORD, "mask": "masks"}},
            "image_conditions.mask masks is no output of the pictures",
        ),
        (BOTH, {"image_conditions": {**RECORD, "encoder": {"component": "vision", "size": 336}}}, "takes no images"),
        (
            {**BOTH, "pictures": component("pictures", PICTURE.inputs[:1], PICTURE.outputs)},
            {"image_conditions": RECORD},
            "the pictures takes \\['images'\\], expected images, given",
        ),
        (
            {},
            {"tiling": {"tile_height": 8, "tile_width": 8, "stride_height": 9, "stride_width": 8}},
            "stride_height 9 is above tile_height 8",
        ),
        (
            {},
            {"tiling": {"tile_height": 8, "tile_width": 8, "stride_height": 8, "stride_width": 8, "tile_frames": 4}},
            "tile_frames and stride_frames go together",
        ),
        (
            {},
            {
                "tiling": {
                    "tile_height": 8,
                    "tile_width": 8,
                    "stride_height": 8,
                    "stride_width": 8,
                    "always_in_time": True,
                }
            },
            "always_in_time needs tile_frames",
        ),
    ],
)
def test_manifests_that_do_not_fit(components: dict[str, Component], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        manifest(components, **changes)


def test_a_frame_rate_is_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Latents.model_validate({**FIELDS["latents"].model_dump(), "frames": 3, "frame_rate": 0})
