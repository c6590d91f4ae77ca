"""SpacetimeDiT against a second computation of it: every pair of patches, one token and one head at a time."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dit_deploy.errors import SourceError
from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig, rotary_angles, rotate, windows
from tests.families.spacetime_dit import CHANNELS, TEXT_WIDTH, make_network

#: Frames, rows and columns of latents for patches of (1, 2, 2); the first is a picture.
SIZES = [(1, 6, 10), (3, 2, 8), (7, 10, 6)]


def inputs(size: tuple[int, int, int], batch: int = 2, tokens: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[0, 3:] = 0
    return (
        torch.randn(batch, CHANNELS, *size, generator=generator),
        torch.rand(batch, generator=generator) * 1000,
        torch.randn(batch, tokens, TEXT_WIDTH, generator=generator),
        mask,
    )


def sees(grid: tuple[int, int, int], window: tuple[int, int, int] | None, axes: str) -> Tensor:
    """Which patch (row) attends to which (column), by the words of the config: bool [patches, patches]."""

    def along(query: int, key: int, length: int, side: int) -> bool:
        if side == 1:
            return query == key
        block = side // 2
        first = min(max(query // block * block - block // 2, 0), max(length - side, 0))
        return first <= key < first + side

    def seen(query: tuple[int, ...], key: tuple[int, ...]) -> bool:
        if (axes == "space" and query[0] != key[0]) or (axes == "time" and query[1:] != key[1:]):
            return False
        ours = {"all": (0, 1, 2), "space": (1, 2), "time": (0,)}[axes]
        return window is None or all(along(query[axis], key[axis], grid[axis], window[axis]) for axis in ours)

    places = list(product(*map(range, grid)))
    return torch.tensor([[seen(query, key) for key in places] for query in places])


def angles_at(place: tuple[int, ...], pairs: tuple[int, int, int]) -> Tensor:
    """The angle of each pair of channels at a patch, float64 [pairs]: position · 10000^(−i / pairs of its axis)."""
    along = zip(place, pairs, strict=True)
    return torch.tensor(
        [position * 10000.0 ** (-i / count) for position, count in along for i in range(count)]
    ).double()


def turned(x: Tensor, place: tuple[int, ...], pairs: tuple[int, int, int]) -> Tensor:
    """One patch's head [head_dim] turned by complex numbers, in float64."""
    result = torch.complex(*x.double().chunk(2)) * torch.exp(1j * angles_at(place, pairs))
    return torch.cat([result.real, result.imag])


def dense(network: SpacetimeDiT, latents: Tensor, timestep: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """The whole network for one sample at a time, with N × N scores, in float64."""
    config, w = network.config, {name: value.double() for name, value in network.state_dict().items()}
    p_t, p_h, p_w = config.patch_size
    heads, hidden = config.num_heads, config.hidden_size

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def normal(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def counts(total: int) -> tuple[int, int, int]:
        space = max(1, 3 * total // 8)
        return total - 2 * space, space, space

    outputs = []
    for video, time, states, seen in zip(latents.double(), timestep.double(), text.double(), mask, strict=True):
        video = torch.cat([video[:, :1]] * (p_t - 1) + [video], dim=1)
        grid = (video.shape[1] // p_t, video.shape[2] // p_h, video.shape[3] // p_w)
        places = list(product(*map(range, grid)))
        x = torch.stack(
            [
                video[:, f * p_t : (f + 1) * p_t, r * p_h : (r + 1) * p_h, c * p_w : (c + 1) * p_w].flatten()
                for f, r, c in places
            ]
        )
        x = linear("patch_in", x)
        if config.positions != "rotary":
            angles = torch.stack([angles_at(place, counts(hidden // 2)) for place in places])
            x = x + torch.cat([angles.sin(), angles.cos()], dim=1)
        frequencies = torch.tensor([10000.0 ** (-i / 128) for i in range(128)]).double() * time
        condition = linear("timestep_in", torch.cat([frequencies.cos(), frequencies.sin()]))
        states = linear("text_out", F.gelu(linear("text_in", states), approximate="tanh"))[seen.bool()]
        condition = F.silu(linear("timestep_out", F.silu(condition)) + linear("text_mean", states.mean(dim=0)))
        for layer in range(config.depth):
            name = f"blocks.{layer}"
            shift, scale, gate, shift2, scale2, gate2 = linear(f"{name}.modulation", condition).chunk(6)
            y = normal(x) * (1 + scale) + shift
            allowed = sees(grid, config.window, config.axes_of(layer))
            attended = []
            for head in range(heads):
                part = slice(head * config.head_dim, (head + 1) * config.head_dim)
                q, k, v = (linear(f"{name}.attention.to_{one}", y)[:, part] for one in "qkv")
                q, k = (
                    one
                    / (one.square().mean(-1, keepdim=True) + 1e-6).sqrt()
                    * w[f"{name}.attention.norm_{which}.weight"]
                    for one, which in ((q, "q"), (k, "k"))
                )
                if config.positions != "sincos":
                    pairs = counts(config.head_dim // 2)
                    q, k = (
                        torch.stack([turned(*each, pairs) for each in zip(one, places, strict=False)]) for one in (q, k)
                    )
                scores = (q @ k.T / math.sqrt(config.head_dim)).masked_fill(~allowed, -math.inf)
                attended.append(scores.softmax(-1) @ v)
            x = x + gate * linear(f"{name}.attention.to_out", torch.cat(attended, dim=1))
            y = normal(x) * w[f"{name}.cross_norm.weight"] + w[f"{name}.cross_norm.bias"]
            attended = []
            for head in range(heads):
                part = slice(head * config.head_dim, (head + 1) * config.head_dim)
                q = linear(f"{name}.cross_attention.to_q", y)[:, part]
                k, v = (linear(f"{name}.cross_attention.to_{one}", states)[:, part] for one in "kv")
                attended.append((q @ k.T / math.sqrt(config.head_dim)).softmax(-1) @ v)
            x = x + linear(f"{name}.cross_attention.to_out", torch.cat(attended, dim=1))
            y = F.gelu(linear(f"{name}.mlp_in", normal(x) * (1 + scale2) + shift2), approximate="tanh")
            x = x + gate2 * linear(f"{name}.mlp_out", y)
        shift, scale = linear("final_modulation", condition).chunk(2)
        patches = linear("patch_out", normal(x) * (1 + scale) + shift)
        result = torch.empty_like(video)
        for (f, r, c), patch in zip(places, patches, strict=True):
            rows, columns = slice(r * p_h, (r + 1) * p_h), slice(c * p_w, (c + 1) * p_w)
            result[:, f * p_t : (f + 1) * p_t, rows, columns] = patch.view(-1, p_t, p_h, p_w)
        outputs.append(result[:, p_t - 1 :])
    return torch.stack(outputs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positions": "sincos"},
        {"attention": "factorised"},
        {"window": (2, 4, 2)},
        {"window": (4, 1, 2), "positions": "sincos"},
        {"window": (2, 2, 4), "attention": "factorised"},
        {"patch_size": (2, 2, 1), "positions": "both"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "joint rotary",
)
def test_the_network_is_what_its_docstrings_say(options: dict[str, Any]) -> None:
    network = make_network(**options)
    for size in SIZES:
        given = inputs(size)
        found, expected = network(*given)[0], dense(network, *given)
        assert found.shape == expected.shape == given[0].shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_window_as_large_as_the_video_sees_everything() -> None:
    everything, windowed = make_network(), make_network(window=(8, 6, 6))
    given = inputs(SIZES[2])
    assert torch.allclose(everything(*given)[0], windowed(*given)[0], atol=1e-5)
    narrow = make_network(window=(2, 2, 2))
    assert (everything(*given)[0] - narrow(*given)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("grid", [(1, 1, 1), (5, 7, 9), (2, 16, 3)])
def test_every_patch_sees_equally_many_of_which_it_is_one(grid: tuple[int, int, int]) -> None:
    found = windows(grid, (2, 4, 6))
    patches, seen = math.prod(grid), min(2, grid[0]) * min(4, grid[1]) * min(6, grid[2])
    queries, keys = found.queries.view(-1, found.block), found.keys.view(-1, found.seen)
    assert found.seen == seen and len(queries) == len(keys)
    assert torch.equal(found.queries[found.back], torch.arange(patches))
    for block, those in zip(queries, keys, strict=True):
        assert len(set(those.tolist())) == seen
        assert set(block.tolist()) <= set(those.tolist())


def test_rotation_is_a_product_of_complex_numbers_and_keeps_lengths() -> None:
    frequencies = (torch.tensor([1.0, 0.1]), torch.tensor([1.0]), torch.tensor([0.5, 0.05, 0.005]))
    angles = rotary_angles((2, 3, 4), frequencies)
    assert angles[1 * 12 + 2 * 4 + 3].tolist() == pytest.approx([1.0, 0.1, 2.0, 1.5, 0.15, 0.015])
    x = torch.randn(2, 24, 3, 12, generator=torch.Generator().manual_seed(0))
    both = [torch.cat([one, one], dim=1)[:, None] for one in (angles.cos(), angles.sin())]
    found = rotate(x, *both)
    expected = torch.complex(x[..., :6], x[..., 6:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
    assert torch.allclose(found, torch.cat([expected.real, expected.imag], dim=3), atol=1e-6)
    assert torch.allclose(found.norm(dim=3), x.norm(dim=3), atol=1e-5)


def test_a_fresh_network_predicts_zero_and_learns() -> None:
    torch.manual_seed(0)
    network = SpacetimeDiT(SpacetimeDiTConfig(24, 2, 2, in_channels=CHANNELS, text_width=TEXT_WIDTH))
    given, target = inputs((2, 4, 4)), torch.randn(2, CHANNELS, 2, 4, 4)
    assert not network(*given)[0].any()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(network(*given)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 50}, "must be a multiple of 8 and of the 3 heads"),
        ({"num_heads": 24}, "2 each; rotary"),
        ({"patch_size": [1, 2]}, r"patch_size \[1, 2\] is not three numbers"),
        ({"window": [2, 3, 4]}, r"window \[2, 3, 4\] must have even sides"),
        ({"attention": "axial"}, "attention 'axial' is none of joint, factorised"),
        ({"positions": "learned"}, "positions 'learned' is none of"),
        ({"heads": 3}, "a SpacetimeDiT has no 'heads'"),
        ({"depth": None}, None),
    ],
)
def test_a_config_that_does_not_fit_is_refused(options: dict[str, Any], message: str | None) -> None:
    values = {"_class_name": "SpacetimeDiT", "hidden_size": 48, "depth": 2, "num_heads": 3, **options}
    if message is None:
        values.pop("depth")
        message = "missing 1 required positional argument: 'depth'"
    with pytest.raises(SourceError, match=message):
        SpacetimeDiTConfig.from_dict(values)


def test_a_config_survives_its_file() -> None:
    config = make_network(window=(2, 4, 4), attention="factorised").config
    assert SpacetimeDiTConfig.from_dict(config.to_dict()) == config
