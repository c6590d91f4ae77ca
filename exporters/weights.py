"""Checkpoint files: safetensors, sharded safetensors, and ``.pt`` files that hold tensors and nothing else.

Tensors are mapped from the file, not read: a 12-billion-parameter checkpoint costs no memory until a
tensor is used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dit_deploy.errors import SourceError

__all__ = ["checkpoint_tensors", "digest", "float32_bytes", "folder_files", "folder_tensors", "read_json"]

_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; :class:`SourceError` where the file is missing or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SourceError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds a {type(value).__name__}; expected a JSON object")
    return value


def folder_files(folder: Path) -> list[Path]:
    """List the safetensors files of a diffusers or transformers model folder, in the order of their shards."""
    for name in _NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise SourceError(f"{index} has no weight_map")
            shards = sorted({str(shard) for shard in weight_map.values()})
            for shard in shards:
                if Path(shard).name != shard:
                    raise SourceError(f"{index} names the shard {shard!r}; expected a file of the same folder")
                if not (folder / shard).is_file():
                    raise SourceError(f"{folder} lacks the shard {shard} that {index.name} names")
            return [folder / shard for shard in shards]
    other = sorted(path.name for path in folder.glob("*.bin"))
    mend = f"; it has {', '.join(other)}: save it again with safe_serialization=True" if other else ""
    raise SourceError(f"{folder} holds no safetensors weights ({' or '.join(_NAMES)}){mend}")


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Map every tensor of a model folder by name."""
    tensors: dict[str, Tensor] = {}
    for path in folder_files(folder):
        tensors |= _safetensors(path)
    return tensors


def float32_bytes(*folders: Path) -> int:
    """Return how many bytes the tensors of model folders take as float32, by their files' headers."""
    total = 0
    for path in (file for folder in folders for file in folder_files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                total += sum(4 * math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise SourceError(f"{path} is no whole safetensors file: {_first_line(error)}") from error
    return total


def checkpoint_tensors(path: Path) -> dict[str, Tensor]:
    """Map the tensors of one checkpoint file, ``.safetensors`` or a ``.pt`` that torch can open without running code.

    A ``.pt`` file holds a ``state_dict`` or ``{"ema": state_dict, …}``, as facebookresearch/DiT saves them: its
    training checkpoints carry the ``argparse.Namespace`` of their run too, which is allowed beside tensors.
    """
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if not zipfile.is_zipfile(path):
        raise SourceError(f"{path} cannot be opened as a PyTorch checkpoint: it is no whole zip file of torch.save")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            value = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise SourceError(
            f"{path} wants to run code while it is opened, and was not opened; load it where you trust it "
            "and save its state_dict as safetensors"
        ) from error
    except Exception as error:  # a damaged archive makes torch raise almost anything
        raise SourceError(f"{path} cannot be opened as a PyTorch checkpoint: {_first_line(error)}") from error
    if isinstance(value, dict) and isinstance(value.get("ema"), dict):
        value = value["ema"]
    if not isinstance(value, dict) or not value or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise SourceError(f'{path} holds no state_dict; expected {{name: tensor}} or {{"ema": {{name: tensor}}}}')
    return value


def digest(files: Sequence[Path]) -> str:
    """Return the SHA-256 over the bytes of ``files``, in order."""
    sha256 = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                sha256.update(chunk)
    return sha256.hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path} is no whole safetensors file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
