"""Random DiT checkpoints in the format of facebookresearch/DiT, so that anyone can repeat a measurement.

A freshly constructed DiT is adaLN-Zero: it outputs zeros, and a compiler could find that out. Here every parameter
is non-zero and scaled so that activations and outputs stay near 1. Written tensor by tensor: DiT-XL/2 needs
2.7 GB of disk, and no more memory than its largest tensor.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import InputError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["checkpoint_shapes", "write_random_autoencoder", "write_random_checkpoint"]

Floats = NDArray[np.float32]

CHANNELS, COMPRESSION, FREQUENCIES = 4, 8, 256


def write_random_checkpoint(
    folder: Path, arch: str, image_size: int = 256, num_classes: int = 1000, seed: int = 0
) -> Path:
    """Write ``folder / "DiT-B-2.safetensors"`` (for ``arch`` ``"DiT-B/2"``) and return its path.

    Args:
        folder: exists; a file of that name in it is replaced.
        arch: one of the twelve models of the paper, ``"DiT-S/8"`` … ``"DiT-XL/2"``.
        image_size: pixels; a multiple of 8 times the patch size.
        num_classes: without the null class.
        seed: the same seed gives the same bytes.

    Raises:
        InputError: no such model, or a size that it cannot have.
    """
    shapes = checkpoint_shapes(arch, image_size, num_classes)
    generator = np.random.default_rng(seed)
    path = folder / f"{arch.replace('/', '-')}.safetensors"
    _write_safetensors(path, shapes, (_values(name, shape, generator) for name, shape in shapes.items()))
    return path


def checkpoint_shapes(arch: str, image_size: int = 256, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor, in the names of facebookresearch/DiT, ``models.py``."""
    hidden, depth, patch = _architecture(arch)
    if image_size < 1 or image_size % (COMPRESSION * patch):
        raise InputError(
            f"image size: {image_size} came, expected a multiple of {COMPRESSION * patch} pixels for {arch}"
        )
    if num_classes < 1:
        raise InputError(f"number of classes: {num_classes} came, at least 1 was expected")
    tokens = (image_size // COMPRESSION // patch) ** 2
    linears: dict[str, tuple[int, ...]] = {
        "x_embedder.proj": (hidden, CHANNELS, patch, patch),
        "t_embedder.mlp.0": (hidden, FREQUENCIES),
        "t_embedder.mlp.2": (hidden, hidden),
    }
    for index in range(depth):
        linears |= {
            f"blocks.{index}.attn.qkv": (3 * hidden, hidden),
            f"blocks.{index}.attn.proj": (hidden, hidden),
            f"blocks.{index}.mlp.fc1": (4 * hidden, hidden),
            f"blocks.{index}.mlp.fc2": (hidden, 4 * hidden),
            f"blocks.{index}.adaLN_modulation.1": (6 * hidden, hidden),
        }
    linears |= {
        "final_layer.linear": (patch * patch * 2 * CHANNELS, hidden),
        "final_layer.adaLN_modulation.1": (2 * hidden, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, tokens, hidden),
        "y_embedder.embedding_table.weight": (num_classes + 1, hidden),
    }
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def _architecture(arch: str) -> tuple[int, int, int]:
    """Return hidden size, depth and patch size."""
    # Only here: importing it imports torch.
    from dit_deploy.exporters.families.dit import ARCHITECTURES

    if arch not in ARCHITECTURES:
        raise InputError(f"arch: {arch!r} came, expected one of {', '.join(ARCHITECTURES)}")
    hidden, depth, _, patch = ARCHITECTURES[arch]
    return hidden, depth, patch


def _values(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    if name == "pos_embed":
        return _sincos(math.isqrt(shape[1]), shape[2])
    values = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias"):
        return values * np.float32(0.02)
    if name.startswith("y_embedder"):
        return values * np.float32(0.5)
    # Keeps the size of what goes in (LeCun); modulations are smaller, because they multiply block after block.
    scale = 0.3 if "adaLN" in name else 1.0
    return values * np.float32(scale / math.sqrt(math.prod(shape[1:])))


def _sincos(grid: int, hidden: int) -> Floats:
    """Return the sin-cos position table [1, grid², hidden]; the first half encodes the column ("here w goes first")."""
    frequencies = 10000.0 ** (-np.arange(hidden // 4) / (hidden // 4))
    angles = np.arange(grid)[:, None] * frequencies  # [grid, hidden / 4]
    encoded = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # [grid, hidden / 2]
    column = np.broadcast_to(encoded[None, :, :], (grid, grid, hidden // 2))
    row = np.broadcast_to(encoded[:, None, :], (grid, grid, hidden // 2))
    return np.concatenate([column, row], axis=2).reshape(1, grid * grid, hidden).astype(np.float32)


def _write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], tensors: Iterator[Floats]) -> None:
    """Write float32 tensors one at a time: length of the header (little endian, 8 bytes), header (JSON), data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors:
                file.write(np.ascontiguousarray(tensor, dtype="<f4").data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_random_autoencoder(folder: Path, seed: int = 0) -> Path:
    """Save a small random ``AutoencoderKL`` of 8× compression and 4 latent channels in ``folder``, and return it.

    It costs a small part of what Stable Diffusion's does: a timing of a whole run with it is about the denoiser.
    """
    import torch
    from diffusers import AutoencoderKL

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae: AutoencoderKL = AutoencoderKL(
            latent_channels=CHANNELS,
            block_out_channels=(16, 24, 24, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=8,
            scaling_factor=0.18215,
        )
        for parameter in vae.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    vae.save_pretrained(folder)
    return folder
