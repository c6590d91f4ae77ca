"""Weights of the two DiT checkpoint formats under the names of :class:`~dit_deploy.exporters.families.dit.DiT`.

Nothing is copied: a fused query-key-value matrix becomes three views of its rows, so a checkpoint that is
mapped from disk stays there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dit_deploy.errors import SourceError
from dit_deploy.exporters.families.dit import ARCHITECTURES, DiT, DiTConfig, geometric_frequencies, sincos_positions

__all__ = ["from_diffusers", "from_original", "load", "parameter_count"]

Tensors = Mapping[str, Tensor]

_LINEARS = ("weight", "bias")

#: our name → the name in each format; {i} counts blocks. Every entry stands for a weight and a bias.
_DIFFUSERS_BLOCK = {
    "modulation": "norm1.linear",
    "to_q": "attn1.to_q",
    "to_k": "attn1.to_k",
    "to_v": "attn1.to_v",
    "to_out": "attn1.to_out.0",
    "mlp_in": "ff.net.0.proj",
    "mlp_out": "ff.net.2",
}
_DIFFUSERS_EMBEDDER = {
    "timestep_in": "timestep_embedder.linear_1",
    "timestep_out": "timestep_embedder.linear_2",
}
_DIFFUSERS_OUTER = {"patch_embed": "pos_embed.proj", "final_modulation": "proj_out_1", "final_linear": "proj_out_2"}

_ORIGINAL_BLOCK = {
    "modulation": "adaLN_modulation.1",
    "to_out": "attn.proj",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
_ORIGINAL_EMBEDDER = {"timestep_in": "t_embedder.mlp.0", "timestep_out": "t_embedder.mlp.2"}
_ORIGINAL_OUTER = {
    "patch_embed": "x_embedder.proj",
    "final_modulation": "final_layer.adaLN_modulation.1",
    "final_linear": "final_layer.linear",
}


class _Reader:
    """Takes tensors by name and remembers what was taken, so that a left-over is noticed."""

    def __init__(self, tensors: Tensors, what: str) -> None:
        self.tensors, self.what = tensors, what
        self.left = set(tensors)

    def take(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise SourceError(f"{self.what} lacks the tensor {name}; is it the checkpoint of another model?")
        self.left.discard(name)
        return self.tensors[name]

    def linears(self, names: Mapping[str, str], ours: str = "", theirs: str = "") -> dict[str, Tensor]:
        return {
            f"{ours}{our}.{part}": self.take(f"{theirs}{their}.{part}")
            for our, their in names.items()
            for part in _LINEARS
        }

    def finish(self) -> None:
        if self.left:
            some = ", ".join(sorted(self.left)[:3])
            raise SourceError(
                f"{self.what} has {len(self.left)} tensors that a DiT does not use ({some}, …); "
                "exporting it as a DiT would draw other pictures"
            )


def from_diffusers(config: Mapping[str, Any], tensors: Tensors) -> tuple[DiTConfig, dict[str, Tensor]]:
    """Translate a diffusers ``DiTTransformer2DModel``: its ``config.json`` and its tensors.

    Raises :class:`SourceError` for an option that changes the network in a way this exporter lacks.
    """
    merged = {**_DIFFUSERS_DEFAULTS, **{key: value for key, value in config.items() if key in _DIFFUSERS_DEFAULTS}}
    for key, allowed in _DIFFUSERS_SUPPORTED.items():
        if merged[key] not in allowed:
            raise SourceError(
                f"{key}={merged[key]!r} of a DiTTransformer2DModel is not supported; supported: {allowed}"
            )
    for key in _WHOLE_NUMBERS:
        if not isinstance(merged[key], int) or merged[key] < 1:
            raise SourceError(f"{key}={merged[key]!r} of a DiTTransformer2DModel is not a whole number of 1 or more")
    reader = _Reader(tensors, "the DiTTransformer2DModel")
    depth = merged["num_layers"]
    prefix = "transformer_blocks.{}.norm1.emb.".format
    embedders = [
        {
            **reader.linears(_DIFFUSERS_EMBEDDER, theirs=prefix(i)),
            "class_table.weight": reader.take(prefix(i) + "class_embedder.embedding_table.weight"),
        }
        for i in range(depth)
    ]
    shared = all(torch.equal(other[name], first) for other in embedders[1:] for name, first in embedders[0].items())
    weights = reader.linears(_DIFFUSERS_OUTER)
    for i in range(depth):
        weights |= reader.linears(_DIFFUSERS_BLOCK, f"blocks.{i}.", f"transformer_blocks.{i}.")
    for i, embedder in enumerate(embedders[:1] if shared else embedders):
        weights |= {f"embedders.{i}.{name}": tensor for name, tensor in embedder.items()}
    reader.finish()
    dit_config = DiTConfig(
        hidden_size=merged["num_attention_heads"] * merged["attention_head_dim"],
        depth=depth,
        num_heads=merged["num_attention_heads"],
        patch_size=merged["patch_size"],
        in_channels=merged["in_channels"],
        out_channels=merged["out_channels"] or merged["in_channels"],
        sample_size=merged["sample_size"],
        num_classes=merged["num_embeds_ada_norm"],
        shared_embedder=shared,
        frequency_shift=1.0,
        mlp_norm_eps=merged["norm_eps"],
        approximate_gelu=merged["activation_fn"] == "gelu-approximate",
    )
    return dit_config, weights


_DIFFUSERS_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "attention_bias": True,
    "sample_size": 32,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
_WHOLE_NUMBERS = (
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "num_layers",
    "sample_size",
    "patch_size",
    "num_embeds_ada_norm",
)
_DIFFUSERS_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (True,),
    "activation_fn": ("gelu-approximate", "gelu"),
    "norm_type": ("ada_norm_zero",),
    "norm_elementwise_affine": (False,),
}


def from_original(
    tensors: Tensors, arch: str | None = None, image_size: int | None = None
) -> tuple[DiTConfig, dict[str, Tensor]]:
    """Translate a facebookresearch/DiT ``state_dict``.

    All sizes but the number of heads follow from the tensors; the heads follow from the hidden size, as
    the paper's table 1 ties them. ``arch`` (``"DiT-XL/2"``) and ``image_size`` (pixels, at 8× compression)
    are checked against the tensors where they are given.
    """
    reader = _Reader(tensors, "the DiT checkpoint")
    hidden, in_channels, patch_size, _ = _shape(reader.take("x_embedder.proj.weight"), 4)
    positions = reader.take("pos_embed")
    grid = int(_shape(positions, 3)[1] ** 0.5)
    depth = 1 + max((int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    name = _architecture(hidden, depth, patch_size, arch)
    table = reader.take("y_embedder.embedding_table.weight")
    out_channels, remainder = divmod(_shape(reader.take("final_layer.linear.weight"), 2)[0], patch_size**2)
    if remainder:
        raise SourceError(f"final_layer.linear has {remainder} rows over a multiple of patch size² = {patch_size**2}")
    config = DiTConfig(
        hidden_size=hidden,
        depth=depth,
        num_heads=ARCHITECTURES[name][2],
        patch_size=patch_size,
        in_channels=in_channels,
        out_channels=out_channels,
        sample_size=grid * patch_size,
        num_classes=table.shape[0] - 1,
    )
    if image_size is not None and image_size != config.sample_size * 8:
        raise SourceError(
            f"--image-size {image_size}: this checkpoint's position table is for {config.sample_size * 8} pixels; "
            "leave the option out"
        )
    _check_positions(positions, config, grid)
    weights = reader.linears(_ORIGINAL_OUTER) | reader.linears(_ORIGINAL_EMBEDDER, "embedders.0.")
    weights["embedders.0.class_table.weight"] = table
    for i in range(depth):
        block, theirs = f"blocks.{i}.", f"blocks.{i}."
        weights |= reader.linears(_ORIGINAL_BLOCK, block, theirs)
        for part in _LINEARS:
            rows = reader.take(f"{theirs}attn.qkv.{part}").chunk(3, dim=0)
            weights |= {f"{block}to_{which}.{part}": row for which, row in zip("qkv", rows, strict=True)}
    reader.finish()
    return config, weights


def _shape(tensor: Tensor, rank: int) -> tuple[int, ...]:
    if tensor.ndim != rank:
        raise SourceError(f"a tensor of the DiT checkpoint has shape {tuple(tensor.shape)}; expected {rank} axes")
    return tuple(tensor.shape)


def _architecture(hidden: int, depth: int, patch_size: int, arch: str | None) -> str:
    """Name the architecture of the paper that has these sizes; check it against ``arch``."""
    if arch is not None and arch not in ARCHITECTURES:
        raise SourceError(f"--arch {arch!r} is not one of {', '.join(ARCHITECTURES)}")
    found = next((n for n, (h, d, _, p) in ARCHITECTURES.items() if (h, d, p) == (hidden, depth, patch_size)), None)
    sizes = f"hidden size {hidden}, {depth} blocks, patch size {patch_size}"
    if found is None:
        raise SourceError(f"the checkpoint has {sizes}: none of {', '.join(ARCHITECTURES)}")
    if arch not in (None, found):
        raise SourceError(f"--arch {arch}: the checkpoint has {sizes}, which is {found}")
    return found


def _check_positions(positions: Tensor, config: DiTConfig, grid: int) -> None:
    """The graph computes positions; refuse a checkpoint whose stored table is another one."""
    if positions.shape != (1, grid * grid, config.hidden_size):
        raise SourceError(f"pos_embed has shape {tuple(positions.shape)}; expected [1, a square, {config.hidden_size}]")
    expected = sincos_positions(grid, grid, geometric_frequencies(config.hidden_size // 4), grid)
    difference = (positions.float() - expected).abs().max().item()
    if not difference < 1e-3:
        raise SourceError(
            f"pos_embed differs from the sin-cos table by {difference:.2g}: it was trained, "
            "and a trained table cannot serve other sizes"
        )


def parameter_count(config: DiTConfig) -> int:
    """Return how many parameters a DiT of these sizes has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in DiT(config).parameters())


def load(config: DiTConfig, weights: Mapping[str, Tensor]) -> DiT:
    """Build a :class:`DiT` around ``weights`` without copying those that are float32 already."""
    with torch.device("meta"):
        network = DiT(config)
    wanted = network.state_dict()
    for name, tensor in weights.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            raise SourceError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(wanted[name].shape)}")
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False)
