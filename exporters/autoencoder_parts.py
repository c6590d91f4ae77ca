"""What the autoencoders share: how their halves are declared, and what lies between layers and latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, Component, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters.source import Graph

__all__ = [
    "Statistics",
    "bounded",
    "check_channels",
    "check_statistics",
    "decoder_component",
    "encoder_component",
    "halves",
    "images_tensor",
    "latents_tensor",
    "moments",
    "video_frames",
]

_BATCH = Axis(name="batch")


def check_channels(folder: Path, found: int, channels: int) -> None:
    """Raise :class:`SourceError` where the autoencoder in ``folder`` has other latents than the denoiser."""
    if found != channels:
        raise SourceError(f"{folder} has {found} latent channels, the denoiser {channels}; they do not belong together")


def check_statistics(folder: Path, config: Mapping[str, Any], channels: int) -> None:
    """Raise :class:`SourceError` where ``config`` has not a mean and a deviation for each channel."""
    for name in ("latents_mean", "latents_std"):
        if len(config[name]) != channels:
            raise SourceError(f"{folder}: {name} has {len(config[name])} numbers for {channels} channels")


def latents_tensor(name: str, channels: int, description: str = "", *, frames: Axis | None = None) -> TensorSpec:
    """Declare latents, float32 [batch, channels, latent_height, latent_width]; ``frames`` come before the height."""
    sides = (Axis(name="latent_height"), Axis(name="latent_width"))
    axes = (_BATCH, channels, *((frames,) if frames else ()), *sides)
    return TensorSpec(name=name, dtype="float32", axes=axes, description=description)


def images_tensor(channels: int, compression: int, *, frames: Axis | None = None) -> TensorSpec:
    """Declare pictures, float32 [batch, channels, height, width]; ``frames`` come before the height.

    ``compression`` is how many pixels a latent pixel stands for along a side.
    """
    sides = (Axis(name=f"latent_{side}", multiple=compression) for side in ("height", "width"))
    axes = (_BATCH, channels, *((frames,) if frames else ()), *sides)
    return TensorSpec(name="images", dtype="float32", axes=axes)


def video_frames(compression: int) -> Axis:
    """Return the frames of n latent ones, each for ``compression`` of them but the first, which is for one."""
    return Axis(name="latent_frames", multiple=compression, offset=1 - compression)


def bounded(images: TensorSpec) -> TensorSpec:
    """Declare that pictures lie in 0 … 1, as what is encoded does; what is decoded may lie beyond."""
    return images.model_copy(update={"minimum": 0.0, "maximum": 1.0})


def encoder_component(images: TensorSpec, latents: TensorSpec, *, deviation: bool = True) -> Component:
    """Declare an encoder: ``images`` → ``mean`` and, with ``deviation``, ``std`` of the latents' posterior."""
    described = {"mean": "of the latents' posterior, ready for the denoiser"}
    if deviation:
        described["std"] = "standard deviation of the latents' posterior"
    outputs = (latents.model_copy(update={"name": name, "description": text}) for name, text in described.items())
    return Component(path="vae_encoder/model.onnx", inputs=(bounded(images),), outputs=tuple(outputs))


def decoder_component(latents: TensorSpec, images: TensorSpec, *further: TensorSpec) -> Component:
    """Declare a decoder: ``latents``, and ``further`` inputs after them, → ``images``."""
    return Component(path="vae_decoder/model.onnx", inputs=(latents, *further), outputs=(images,))


def halves(
    components: tuple[Component, Component],
    ours: tuple[Callable[[Any], nn.Module], Callable[[Any], nn.Module]],
    references: tuple[Callable[[Any], nn.Module], Callable[[Any], nn.Module]],
    load: Callable[[], Any],
    typical: Mapping[str, int],
) -> list[Graph]:
    """Return the graphs of an encoder and a decoder, in this order in each pair.

    Args:
        components: their declarations.
        ours, references: what makes the network that is traced, and the one it is held against, of the autoencoder.
        load: returns the autoencoder, a new one each time.
        typical: sizes at which the halves are proved.
    """

    def graph(component: Component, make: Callable[[Any], nn.Module], refer: Callable[[Any], nn.Module]) -> Graph:
        name = component.path.split("/")[0]
        return Graph(name, component, lambda: make(load()), typical, reference=lambda: refer(load()))

    return [graph(*half) for half in zip(components, ours, references, strict=True)]


def moments(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of what an encoder gives, [batch, 2 · channels, …] with the log-variance behind.

    The limits are those of diffusers' ``DiagonalGaussianDistribution``.
    """
    mean, log_variance = encoded.chunk(2, dim=1)
    return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))


class Statistics(nn.Module):
    """Mean and deviation of the latents, [channels, 1, …], as ``latents_mean`` and ``latents_std`` of a config say.

    Args:
        axes: how many there are beside batch and channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Mapping[str, Any], axes: int) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = torch.tensor(config[f"latents_{name}"], dtype=torch.float32)
            self.register_buffer(name, values.reshape(-1, *(1,) * axes), persistent=False)

    def normalised(self, z: Tensor) -> Tensor:
        """Return ``z`` as the denoiser has it, with mean 0 and deviation 1."""
        return (z - self.mean) / self.std

    def back(self, latents: Tensor) -> Tensor:
        """Return the ``z`` that :meth:`normalised` makes ``latents`` of."""
        return latents * self.std + self.mean
