"""Our DiT against diffusers' DiT, both checkpoint formats."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel

from dit_deploy.errors import SourceError
from dit_deploy.exporters.families import dit_weights
from dit_deploy.exporters.families.dit import ARCHITECTURES, DiT, geometric_frequencies, sincos_positions
from dit_deploy.exporters.families.dit_reference import DiffusersDiT
from tests.models import make_original, make_transformer

GRIDS = [(1, 1), (1, 3), (4, 4), (7, 2), (9, 9), (3, 16)]


def inputs(model: DiTTransformer2DModel, grid: tuple[int, int], batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    patch, config = model.config.patch_size, model.config
    return (
        torch.randn(batch, config.in_channels, grid[0] * patch, grid[1] * patch, generator=generator),
        torch.rand(batch, generator=generator) * 999,
        torch.randint(0, config.num_embeds_ada_norm + 1, (batch,), generator=generator),
    )


def assert_same(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0.1  # an output of zeros would prove nothing
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("shared_embedder", [True, False])
@pytest.mark.parametrize("learned_variance", [True, False])
@torch.no_grad()
def test_equals_diffusers_at_any_grid(shared_embedder: bool, learned_variance: bool) -> None:
    model = make_transformer(shared_embedder=shared_embedder, learned_variance=learned_variance)
    config, weights = dit_weights.from_diffusers(model.config, model.state_dict())
    assert config.shared_embedder is shared_embedder
    assert config.learned_variance is learned_variance
    ours, theirs = dit_weights.load(config, weights), DiffusersDiT(model)
    for grid in GRIDS:
        feeds = inputs(model, grid)
        assert_same(ours(*feeds), theirs(*feeds))


@torch.no_grad()
def test_reference_for_oblong_grids_equals_diffusers_own_forward_on_square_ones() -> None:
    model = make_transformer()
    feeds = inputs(model, (5, 5))
    theirs = model(feeds[0], timestep=feeds[1], class_labels=feeds[2]).sample
    assert_same((DiffusersDiT(model).forward_oblong(*feeds),), (theirs,))


@torch.no_grad()
def test_original_format_equals_diffusers_with_the_originals_two_numbers() -> None:
    # diffusers differs from facebookresearch/DiT in the frequency shift and in the second norm's epsilon;
    # with both set back it is an independent reference for the original.
    model = make_transformer(sample_size=8, patch_size=2, heads=6, head_dim=64, layers=12, in_channels=4)
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    config, weights = dit_weights.from_original(make_original(model), "DiT-S/2", 64)
    assert (config.num_heads, config.sample_size, config.num_classes) == (6, 8, 17)
    ours = dit_weights.load(config, weights)
    for grid in [(4, 4), (3, 6)]:
        feeds = inputs(model, grid)
        assert_same(ours(*feeds), DiffusersDiT(model)(*feeds))


@torch.no_grad()
def test_the_two_formats_differ_where_they_should() -> None:
    model = make_transformer(sample_size=8, patch_size=2, heads=6, head_dim=64, layers=12, in_channels=4)
    ours = dit_weights.load(*dit_weights.from_original(make_original(model)))
    feeds = inputs(model, (4, 4))
    assert (ours(*feeds)[0] - DiffusersDiT(model)(*feeds)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("image_size", "num_classes", "learned"), [(256, 1000, True), (512, 10, False)])
def test_all_twelve_models_are_recognised_by_their_tensors(
    arch: str, image_size: int, num_classes: int, learned: bool
) -> None:
    hidden, depth, heads, patch = ARCHITECTURES[arch]
    grid = image_size // 8 // patch
    with torch.device("meta"):  # sizes only: XL/2 would be 2.7 GB
        network = DiT(
            dit_weights.DiTConfig(hidden, depth, heads, patch, 4, 8 if learned else 4, image_size // 8, num_classes)
        )
    weights = to_original(network)
    weights["pos_embed"] = sincos_positions(grid, grid, geometric_frequencies(hidden // 4), grid)
    config, translated = dit_weights.from_original(weights, arch, image_size)
    assert config == network.config
    assert {name: t.shape for name, t in translated.items()} == {
        name: t.shape for name, t in network.state_dict().items()
    }


def to_original(network: DiT) -> dict[str, torch.Tensor]:
    """Name a DiT's tensors as facebookresearch/DiT does, shapes only."""
    names = {
        "patch_embed": "x_embedder.proj",
        "embedders.0.timestep_in": "t_embedder.mlp.0",
        "embedders.0.timestep_out": "t_embedder.mlp.2",
        "embedders.0.class_table": "y_embedder.embedding_table",
        "final_modulation": "final_layer.adaLN_modulation.1",
        "final_linear": "final_layer.linear",
    }
    inner = {"modulation": "adaLN_modulation.1", "to_out": "attn.proj", "mlp_in": "mlp.fc1", "mlp_out": "mlp.fc2"}
    weights = {}
    for name, tensor in network.state_dict().items():
        owner, part = name.rsplit(".", 1)
        if owner in names:
            weights[f"{names[owner]}.{part}"] = tensor
        elif owner.rsplit(".", 1)[1] in inner:
            block, layer = owner.rsplit(".", 1)
            weights[f"{block}.{inner[layer]}.{part}"] = tensor
        elif owner.endswith("to_q"):
            weights[f"{owner.rsplit('.', 1)[0]}.attn.qkv.{part}"] = torch.cat([tensor] * 3)
    return weights


def test_a_trained_position_table_is_refused() -> None:
    model = make_transformer(sample_size=8, patch_size=2, heads=6, head_dim=64, layers=12, in_channels=4)
    weights = make_original(model)
    weights["pos_embed"] += 0.1
    with pytest.raises(SourceError, match=r"pos_embed differs from the sin-cos table by 0\.1"):
        dit_weights.from_original(weights)


def test_wrong_sizes_and_strangers_are_named() -> None:
    weights = make_original(
        make_transformer(sample_size=8, patch_size=2, heads=6, head_dim=64, layers=12, in_channels=4)
    )
    with pytest.raises(SourceError, match=r"--arch DiT-B/2: the checkpoint has hidden size 384.*which is DiT-S/2"):
        dit_weights.from_original(weights, "DiT-B/2")
    with pytest.raises(SourceError, match="--arch 'DiT-M/2' is not one of DiT-S/2"):
        dit_weights.from_original(weights, "DiT-M/2")
    with pytest.raises(SourceError, match=r"--image-size 256: this checkpoint's position table is for 64 pixels"):
        dit_weights.from_original(weights, image_size=256)
    with pytest.raises(SourceError, match=r"1 tensors that a DiT does not use \(stranger"):
        dit_weights.from_original({**weights, "stranger": torch.zeros(1)})
    del weights["blocks.3.attn.qkv.weight"]
    with pytest.raises(SourceError, match=r"lacks the tensor blocks\.3\.attn\.qkv\.weight"):
        dit_weights.from_original(weights)


def test_options_that_change_the_network_are_errors() -> None:
    model = make_transformer()
    with pytest.raises(SourceError, match="activation_fn='geglu' of a DiTTransformer2DModel is not supported"):
        dit_weights.from_diffusers({**model.config, "activation_fn": "geglu"}, model.state_dict())
