"""The size at which a bundle is tried out: the usual one, less of a large video, never less than its grid has."""

from __future__ import annotations

from typing import Any

import pytest

from dit_deploy.bundle import Axis, Bundle, Manifest
from dit_deploy.parity.request import Request, first_request
from dit_deploy.parity.sizes import tried_patches, tried_size


def usual(manifest: Manifest, frames: int, height: int, width: int, **grid: int) -> Manifest:
    """Return the manifest of a bundle of that usual size in latents; ``grid``: the only patches along an axis."""
    latents = manifest.latents.model_copy(update={"frames": frames, "height": height, "width": width})

    def fixed(axis: int | Axis) -> int | Axis:
        if isinstance(axis, int) or axis.name not in grid:
            return axis
        return axis.model_copy(update={"minimum": grid[axis.name], "maximum": grid[axis.name]})

    denoiser = manifest.components["denoiser"]
    inputs = tuple(one.model_copy(update={"axes": tuple(map(fixed, one.axes))}) for one in denoiser.inputs)
    components = {**manifest.components, "denoiser": denoiser.model_copy(update={"inputs": inputs})}
    return manifest.model_copy(update={"latents": latents, "components": components})


@pytest.mark.parametrize(
    ("size", "grid", "tried"),
    [
        ((3, 6, 5), {}, (9, 24, 20)),  # the usual size, small enough
        ((21, 60, 104), {}, (13, 28, 52)),  # 4 × 7 × 13 patches of 21 × 60 × 104
        ((21, 60, 104), {"patch_height": 60, "patch_width": 104}, (13, 240, 416)),  # a grid that is the only one
        ((1, 64, 64), {}, (1, 128, 128)),
    ],
)
def test_less_of_a_large_video(video: Bundle, size: tuple[int, int, int], grid: dict[str, int], tried: Any) -> None:
    manifest = usual(video.manifest, *size, **grid)
    assert tuple(tried_size(manifest).values()) == tried
    frames, height, width = tried
    assert tried_patches(manifest) == ((frames - 1) // 4 + 1) * (height // 4) * (width // 4)


def test_a_request_is_of_that_size_where_none_is_asked_for(
    video: Bundle, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("class_labels", "prompts", "negative_prompt", "num_inference_steps", "guidance_scale", "scheduler")
    )

    def sides(of: Bundle, **asked: int | None) -> tuple[int | None, ...]:
        sizes = {"num_frames": None, "height": None, "width": None, **asked}
        request: Request = first_request(of, seed=0, **nothing, **sizes)
        return request.num_frames, request.height, request.width

    assert sides(bundle) == (None, 64, 64)
    large = Bundle(video.path, usual(video.manifest, 21, 60, 104), digest="")
    assert sides(large) == (13, 28, 52)
    assert sides(large, num_frames=81, height=240) == (81, 240, 52)
