"""Video models by formula, against torch's count of diffusers' own classes at their full size, without weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LatteTransformer3DModel,
    LTXVideoTransformer3DModel,
    WanTransformer3DModel,
)
from torch.utils.flop_counter import FlopCounterMode

from dit_deploy.errors import InputError
from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig
from dit_deploy.planning import (
    ARCHITECTURES,
    DEVICES,
    Device,
    Gpus,
    Grid,
    gpus_needed,
    patch_grid,
    plan_architecture,
    transformer_costs,
)
from dit_deploy.planning.architectures import Architecture

Feeds = Callable[[Architecture, Grid], dict[str, Any]]


def _latents(one: Architecture, grid: Grid, channels: int) -> torch.Tensor:
    return torch.empty(1, channels, grid.frames, grid.rows * one.patch_size, grid.columns * one.patch_size)


def _wan(channels: int = 16, token_timesteps: bool = False) -> Feeds:
    return lambda one, grid: {
        "hidden_states": _latents(one, grid, channels),
        "timestep": torch.empty(1, grid.tokens) if token_timesteps else torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 512, 4096),
    }


def _latte(one: Architecture, grid: Grid) -> dict[str, Any]:
    text = torch.empty(1, 120, 4096)
    return {"hidden_states": _latents(one, grid, 4), "timestep": torch.empty(1), "encoder_hidden_states": text}


def _cogvideox(rotary: bool) -> Feeds:
    def feeds(one: Architecture, grid: Grid) -> dict[str, Any]:
        assert one.video is not None
        frames = grid.frames * one.video.temporal_patch_size
        return {
            "hidden_states": torch.empty(1, frames, 16, grid.rows * 2, grid.columns * 2),
            "timestep": torch.empty(1),
            "encoder_hidden_states": torch.empty(1, 226, 4096),
            **({"image_rotary_emb": (torch.empty(grid.tokens, 64),) * 2} if rotary else {}),
        }

    return feeds


def _ltx(one: Architecture, grid: Grid) -> dict[str, Any]:
    return {
        "hidden_states": torch.empty(1, grid.tokens, 128),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 128, 4096),
        "encoder_attention_mask": torch.empty(1, 128),
        "num_frames": grid.frames,
        "height": grid.rows,
        "width": grid.columns,
    }


def _hunyuan(one: Architecture, grid: Grid) -> dict[str, Any]:
    return {
        "hidden_states": _latents(one, grid, 16),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, 256, 4096),
        "encoder_attention_mask": torch.empty(1, 256),
        "pooled_projections": torch.empty(1, 768),
        "guidance": torch.empty(1),
    }


def _spacetime(one: Architecture, grid: Grid) -> dict[str, Any]:
    return {
        "latents": torch.empty(1, 16, 2 * grid.frames - 1, grid.rows * 2, grid.columns * 2),
        "timestep": torch.empty(1),
        "encoder_hidden_states": torch.empty(1, one.text_tokens, 512),
        "encoder_attention_mask": torch.empty(1, one.text_tokens, dtype=torch.int64),
    }


_OWN = SpacetimeDiTConfig(hidden_size=1152, depth=28, num_heads=16, patch_size=(2, 2, 2))

#: name → class of diffusers, its config where it is not the class's default, and what it is fed.
PUBLISHED: dict[str, tuple[type[torch.nn.Module], dict[str, Any], Feeds]] = {
    "Latte-1": (
        LatteTransformer3DModel,
        {
            "num_attention_heads": 16,
            "attention_head_dim": 72,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 28,
            "cross_attention_dim": 1152,
            "attention_bias": True,
            "patch_size": 2,
            "activation_fn": "gelu-approximate",
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": False,
            "caption_channels": 4096,
        },
        _latte,
    ),
    "CogVideoX-2B": (CogVideoXTransformer3DModel, {}, _cogvideox(False)),
    "CogVideoX-5B": (
        CogVideoXTransformer3DModel,
        {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True},
        _cogvideox(True),
    ),
    "CogVideoX1.5-5B": (
        CogVideoXTransformer3DModel,
        {
            "num_attention_heads": 48,
            "num_layers": 42,
            "patch_size_t": 2,
            "sample_height": 96,
            "sample_width": 170,
            "sample_frames": 81,
            "patch_bias": False,
            "use_rotary_positional_embeddings": True,
        },
        _cogvideox(True),
    ),
    "Wan2.1-1.3B": (WanTransformer3DModel, {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, _wan()),
    "Wan2.1-14B": (WanTransformer3DModel, {}, _wan()),
    "Wan2.2-A14B": (WanTransformer3DModel, {}, _wan()),
    "Wan2.2-5B": (
        WanTransformer3DModel,
        {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
        _wan(48, token_timesteps=True),
    ),
    "LTX-Video": (LTXVideoTransformer3DModel, {}, _ltx),
    "HunyuanVideo": (HunyuanVideoTransformer3DModel, {}, _hunyuan),
    "SpacetimeDiT-XL/2": (SpacetimeDiT, {"config": _OWN}, _spacetime),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_video_models_cost_what_diffusers_classes_do(name: str) -> None:
    kind, config, feeds = PUBLISHED[name]
    one = ARCHITECTURES[name]
    assert one.video is not None
    grid = patch_grid(one.height, one.width, one.patch_size * one.compression, one.video.frames, one.video)
    with torch.device("meta"), torch.no_grad():
        model = kind(**config).to("meta")
        given = feeds(one, grid)
        with FlopCounterMode(display=False) as counter:
            model(**given)
    costs = transformer_costs(one, 1, grid, 2)
    # embedders and the last layer are left out
    assert costs.operations == pytest.approx(counter.get_total_flops(), rel=2e-3)
    assert costs.weights == pytest.approx(sum(parameter.numel() for parameter in model.parameters()), rel=1e-2)


def test_a_window_makes_attention_linear() -> None:
    one = ARCHITECTURES["SpacetimeDiT-XL/2"]
    grids = [Grid(frames, 32, 32, frames, 512, 512) for frames in (4, 16)]
    whole = [transformer_costs(one, 1, grid, 2) for grid in grids]
    narrow = [transformer_costs(one, 1, grid, 2, window=512) for grid in grids]
    text = 4.0 * one.hidden * one.depth * one.text_tokens  # a patch's share for reading the text
    own = [
        [costs.attention - text * grid.tokens for costs, grid in zip(each, grids, strict=True)]
        for each in (whole, narrow)
    ]
    assert own[0][1] == pytest.approx(16 * own[0][0])
    assert own[1][1] == pytest.approx(4 * own[1][0])
    assert narrow[0].weights == whole[0].weights
    assert transformer_costs(one, 1, grids[0], 2, window=10**6) == whole[0]


def test_what_a_window_and_fewer_steps_change_is_said() -> None:
    plan = plan_architecture("Wan2.1-14B", window=4096, steps=10, device=DEVICES["H100"])
    assert [one.what for one in plan.compared] == ["attention to all patches instead", "the usual 50 steps instead"]
    whole, usual = plan.compared
    assert plan.seconds is not None and usual.seconds is not None and whole.seconds is not None
    assert usual.operations == pytest.approx(5 * plan.operations)
    assert usual.seconds == pytest.approx(5 * plan.seconds)
    assert whole.operations == plan_architecture("Wan2.1-14B", steps=10).operations
    assert whole.seconds > plan.seconds
    assert plan_architecture("Wan2.1-14B").compared == ()


def test_two_experts_are_held_both_or_one_at_a_time() -> None:
    both = plan_architecture("Wan2.2-A14B")
    one = plan_architecture("Wan2.2-A14B", experts="one")
    assert both.components[0].weights == 2 * one.components[0].weights
    assert both.operations == one.operations
    assert "2 in memory at once" in both.notes[0] and "1 in memory at once" in one.notes[0]
    with pytest.raises(InputError, match=r"experts: one came, but Wan2\.1-14B has a single transformer"):
        plan_architecture("Wan2.1-14B", experts="one")
    with pytest.raises(InputError, match="experts: 'three' came, expected both or one"):
        plan_architecture("Wan2.2-A14B", experts="three")


def test_gpus_that_hold_a_run() -> None:
    # 100 of weights in parts; 10 of a block and 20 of activations whole: 40 - 30 = 10 are left for the weights
    assert gpus_needed(40, 100, 10, 20) == Gpus(40, 10, 4)
    assert gpus_needed(120, 100, 10, 20) == Gpus(120, 1, 1)
    assert gpus_needed(119, 100, 10, 20) == Gpus(119, 2, 2)
    assert gpus_needed(25, 100, 10, 20) == Gpus(25, None, 8)
    assert gpus_needed(9, 100, 10, 20) == Gpus(9, None, None)
    plan = plan_architecture("Wan2.2-A14B", device=Device("small", memory=24e9))
    assert plan.fits is False
    assert plan.gpus is not None and plan.gpus.weights_sharded is not None and plan.gpus.tokens_split is not None
    assert 1 < plan.gpus.tokens_split <= plan.gpus.weights_sharded
    assert plan.seconds is None  # of a device without a speed nothing is known


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("Latte-1", {"window": 16}, "window: this model attends within a frame and across frames in turn"),
        ("Wan2.1-14B", {"window": 0}, "window: 0 came, an integer of 1 or more"),
        ("Wan2.1-14B", {"frames": 0}, "frames: 0 came, an integer of 1 or more"),
        ("FLUX.1", {"frames": 9}, "frames: 9 came for a model that draws pictures"),
    ],
)
def test_bad_input_is_one_line(name: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        plan_architecture(name, **asked)
    assert "\n" not in str(caught.value)
