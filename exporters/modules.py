"""Build the networks of a diffusers folder around their weights on disk, without a second copy of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from dit_deploy.errors import SourceError
from dit_deploy.exporters.weights import folder_tensors, read_json

__all__ = [
    "check_class",
    "empty_diffusers",
    "load_diffusers",
    "load_transformers",
    "parameters_without_storage",
    "read_config",
]

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def parameters_without_storage() -> Iterator[None]:
    """Give parameters that are registered meanwhile no memory; buffers, such as position tables, are real."""
    register = nn.Module.register_parameter

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def check_class(folder: Path, *names: str) -> dict[str, Any]:
    """Return the ``config.json`` of a diffusers model folder; :class:`SourceError` for another class than ``names``."""
    config = read_json(folder / "config.json")
    if config.get("_class_name") not in names:
        raise SourceError(f"{folder} holds a {config.get('_class_name')}; expected {' or '.join(names)}")
    return config


def empty_diffusers(kind: type[Module], folder: Path, *also: str) -> Module:
    """Return the diffusers model that the ``config.json`` of ``folder`` describes, on torch's meta device.

    No weight is read, and nothing is allocated.

    Args:
        also: names that ``kind`` had when older folders were saved.

    Raises:
        SourceError: the folder holds another class, or the class refuses its config.
    """
    config = check_class(folder, kind.__name__, *also)
    try:
        with torch.device("meta"):
            return _from_config(kind, config)
    except Exception as error:  # the classes check their fields with errors of several kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{folder}/config.json: {reason}") from error


def read_config(kind: type[nn.Module], folder: Path, *also: str) -> dict[str, Any]:
    """Return the config of a diffusers model folder with its class's defaults filled in, as :func:`empty_diffusers`."""
    model: Any = empty_diffusers(kind, folder, *also)
    return dict(model.config)


def _from_config(kind: type[Module], config: Mapping[str, Any]) -> Module:
    """Return a model of ``kind``; what diffusers itself wrote into ``config`` begins with an underscore."""
    untyped: Any = kind  # no diffusers class is typed
    made: Module = untyped.from_config({name: value for name, value in config.items() if not name.startswith("_")})
    return made


def load_diffusers(kind: type[Module], folder: Path, *also: str) -> Module:
    """Return the diffusers model in ``folder``, in float32; weights that are float32 on disk stay mapped from it.

    Args:
        also: names that ``kind`` had when older folders were saved.

    Raises:
        SourceError: the folder holds another class, or its weights do not fit its config.
    """
    config = check_class(folder, kind.__name__, *also)
    tensors = folder_tensors(folder)
    try:
        with parameters_without_storage():
            model = _from_config(kind, config)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise SourceError(f"{folder}: the weights do not fit their config.json: {reason}") from error
    return model.eval().requires_grad_(False)


def load_transformers(kind: type[Any], folder: Path, **options: Any) -> Any:
    """Return the transformers model in ``folder``, in float32.

    Args:
        options: further arguments of ``from_pretrained``, such as ``attn_implementation``.

    Raises:
        SourceError: it cannot be loaded, or a weight is missing, which transformers would fill with random numbers.
    """
    try:
        model, info = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SourceError(f"{folder} cannot be loaded as {kind.__name__}: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise SourceError(f"{folder} lacks {missing[0]}, and {len(missing) - 1} more tensors: no whole {kind.__name__}")
    return model.eval().requires_grad_(False)
