"""What the reference is asked to draw, whoever draws it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dit_deploy.bundle import Latents
from dit_deploy.runtimes.image_conditions import Pictures
from dit_deploy.sampling import NoiseSource

__all__ = ["Drawing", "TorchNoise", "arranged", "draw_noise", "generators"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Drawing:
    """One run, checked and with every default filled in; names are those of :meth:`dit_deploy.Pipeline.__call__`.

    Attributes:
        subjects: ``class_labels``, or ``prompt`` and, where there is one, ``negative_prompt``; one a sample.
        guidance_scale: the family's main knob.
        shape: of the latents, [batch, channels, …, height, width].
        height, width: pixels.
        num_frames: of a video; ``None`` for pictures.
        image: float32 [batch or 1, height, width, channels] in 0 … 1, to start from.
        pictures: what a video shall contain, as the bundle's conditions are made of it; ``None``: nothing.
        files: the same as it came, for a pipeline that reads it itself, ``image`` and perhaps ``last_image``; nothing
            where they were arrays.
    """

    subjects: dict[str, list[Any]]
    num_inference_steps: int
    guidance_scale: float
    guidance_channels: int | None
    guidance_interval: tuple[float, float]
    guidance_rescale: float
    seed: int | Sequence[int]
    shape: tuple[int, ...]
    height: int
    width: int
    num_frames: int | None
    eta: float
    noise: Floats | None
    image: Floats | None
    strength: float
    pictures: Pictures | None
    files: dict[str, list[Image.Image]]

    @property
    def batch(self) -> int:
        """How many samples there are."""
        return self.shape[0]


class TorchNoise(NoiseSource):
    """The same draws from torch's own generators; ``generator`` goes on where they end."""

    def __init__(self, seed: int | Sequence[int]) -> None:
        super().__init__(seed)
        self.generator = generators(seed)

    def copy(self) -> Any:
        """Return generators that go on from here, and leave these where they are."""
        if isinstance(self.generator, list):
            return [one.clone_state() for one in self.generator]
        return self.generator.clone_state()

    def draw(self, shape: Sequence[int]) -> Floats:
        """Return the next draw of ``shape``, float32."""
        drawn: Floats = randn_tensor(tuple(shape), generator=self.generator, dtype=torch.float32).numpy()
        return drawn

    def draw_for_all(self, shape: Sequence[int]) -> Floats:
        """Return the next draw of ``shape`` that all samples have in common: the first generator's."""
        first = self.generator[0] if isinstance(self.generator, list) else self.generator
        drawn: Floats = torch.randn(tuple(shape), generator=first, dtype=torch.float32).numpy()
        return drawn


def generators(seed: int | Sequence[int]) -> Any:
    """One generator for the batch, or one a sample, as diffusers' pipelines take them."""
    if isinstance(seed, (int, np.integer)):
        return torch.Generator("cpu").manual_seed(int(seed))
    return [torch.Generator("cpu").manual_seed(int(one)) for one in seed]


def arranged(latents: Latents, tensor: Tensor) -> Tensor:
    """Exchange channels and frames where the family's pipeline has frames first; its own inverse."""
    return tensor.transpose(1, 2) if latents.noise_axes == "frames_channels" else tensor


def draw_noise(latents: Latents, shape: tuple[int, ...], generator: Any) -> Tensor:
    """Return noise in the order of axes in which the family's pipeline has it; ``shape`` is in the bundle's."""
    drawn: Tensor = randn_tensor(
        tuple(arranged(latents, torch.empty(shape, device="meta")).shape), generator=generator, dtype=torch.float32
    )
    return drawn
