"""Plans of bundles that draw videos: frames, two experts, pieces in time, and a VAE of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_deploy import Bundle
from dit_deploy.bundle import Tiling
from dit_deploy.errors import InputError
from dit_deploy.exporters import export
from dit_deploy.planning import Device, plan_bundle
from tests import video_models

#: The family's own pieces are the smallest that there are: 4 × 4 latents of one frame, and one more.
_TILING = Tiling(tile_height=4, tile_width=4, stride_height=3, stride_width=3, tile_frames=1, stride_frames=1)


@pytest.fixture(scope="module")
def bundle(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """9 frames of 24 × 20 pixels: 3 × 6 × 5 latents of 4 × 4 × 4 in patches of one; two experts, 4 steps."""
    return export(video_models.source(experts=True, tiling=_TILING), tmp_path_factory.mktemp("plan") / "video")


def test_a_video_is_planned_component_by_component(bundle: Bundle) -> None:
    plan = plan_bundle(bundle, precision="fp32")
    assert plan.subject == "tests, 9 frames of 24 × 20 pixels, batch 1, 4 steps"
    assert plan.tokens == 3 * 6 * 5
    first, second, decoder = plan.components
    assert [first.name, second.name, decoder.name] == ["denoiser", "denoiser_2", "vae_decoder"]
    assert (first.calls + second.calls, decoder.calls) == (4, 1)
    # a 1 × 1 × 1 convolution of 13 channels to 6, for two halves, and the labels' embedding, which is no product
    assert first.operations == 2 * 2 * 13 * 6 * plan.tokens
    # the decoder's: 6 channels to 12, of 2 × 3 × 3 latents
    assert decoder.operations == 2 * 12 * plan.tokens * 6 * 2 * 3 * 3
    longer = plan_bundle(bundle, frames=17, precision="fp32")
    assert longer.tokens == 5 * 6 * 5
    with pytest.raises(InputError, match=r"num_frames: 10 came.*nearest are 9 and 13"):
        plan_bundle(bundle, frames=10)


def test_experts_are_called_as_the_schedule_says(bundle: Bundle) -> None:
    # with shift 3 the four steps are at 1000, 858, 602 and 9; the second expert's are below 700
    first, second, _ = plan_bundle(bundle).components
    assert (first.calls, second.calls) == (2, 2)
    both, one = plan_bundle(bundle, precision="fp32"), plan_bundle(bundle, precision="fp32", experts="one")
    assert both.memory - one.memory == second.weights * 2  # of fp32, not of fp16


def test_pieces_in_space_then_the_models_own_in_time(bundle: Bundle) -> None:
    size = {"height": 64, "width": 64, "frames": 33, "precision": "fp32"}
    whole = plan_bundle(bundle, **size)
    weights = sum(one.weights for one in whole.components)
    denoiser, decoder = whole.components[0].activations, whole.components[-1].activations
    assert decoder > 2 * denoiser
    roomy = plan_bundle(bundle, **size, device=Device("roomy", memory=weights + decoder / 2))
    assert roomy.fits and roomy.vae_tile in (16, 32)
    assert roomy.gpus is not None and roomy.gpus.weights_sharded == 1
    wide = {**size, "height": 16, "width": 16, "frames": 129}
    long = plan_bundle(bundle, **wide)
    tight = Device("tight", memory=sum(one.weights for one in long.components) + long.components[0].activations)
    assert plan_bundle(bundle, **wide, device=tight).vae_tile == "model"


def test_one_denoiser_is_no_expert(tiny_bundle: Path) -> None:
    with pytest.raises(InputError, match="experts: one came, but this bundle has a single denoiser"):
        plan_bundle(Bundle.open(tiny_bundle), experts="one")
    with pytest.raises(InputError, match="frames: 9 came, but this bundle draws pictures"):
        plan_bundle(Bundle.open(tiny_bundle), frames=9)
