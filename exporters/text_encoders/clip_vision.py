"""The image encoder of CLIP (Radford et al. 2021), read for what its last layer but one makes of each patch.

Cutting a picture to the encoder's size is left to whoever runs the graph; bringing it to CLIP's mean and deviation is
inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit_deploy.bundle.manifest import Axis, Component, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters.modules import load_transformers
from dit_deploy.exporters.source import Graph
from dit_deploy.exporters.text_encoders import _parts as parts
from dit_deploy.exporters.text_encoders.clip import Layer
from dit_deploy.exporters.weights import read_json

__all__ = ["CLIPVision", "graph"]

#: What ``CLIPImageProcessor`` does where its config leaves a word out.
_PROCESSOR: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,  # Pillow's bicubic
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def graph(folder: Path, processor: Path, component: str, *, pictures: int, output: str) -> tuple[Graph, int]:
    """Return the graph of the CLIP image encoder in ``folder``, and the side of its pictures in pixels.

    Args:
        processor: the folder of its ``CLIPImageProcessor``.
        component: its name in the bundle.
        pictures: how many there are to a sample.
        output: the name of the hidden states [batch, pictures · (patches + 1), width], ``hidden_states[-2]`` of
            transformers; those of a sample's pictures follow each other.

    Raises:
        SourceError: a folder is missing or holds something else, or pictures are prepared in another way than CLIP's.
    """
    for one in (folder, processor):
        if not one.is_dir():
            raise SourceError(f"{one} is missing; the pipeline cannot look at pictures without it")
    config = parts.read_config(folder, "clip_vision_model", "clip")
    config = getattr(config, "vision_config", config)
    size = int(config.image_size)
    statistics = _statistics(processor / "preprocessor_config.json", size)
    batch = Axis(name="batch")
    images = TensorSpec(name="images", dtype="float32", axes=(batch, pictures, 3, size, size), minimum=0, maximum=1)
    tokens = (size // config.patch_size) ** 2 + 1
    states = TensorSpec(name=output, dtype="float32", axes=(batch, pictures * tokens, config.hidden_size))
    made = Graph(
        component,
        Component(path=f"{component}/model.onnx", inputs=(images,), outputs=(states,)),
        lambda: parts.load(
            lambda: CLIPVision(config, statistics), folder, lambda key: key.removeprefix("vision_model.")
        ),
        {"batch": 4},  # 2 is what it is traced at
        reference=lambda: _Reference(folder, statistics),
    )
    return made, size


def _statistics(file: Path, size: int) -> Tensor:
    """Return mean and deviation of the pictures' channels, [2, 3, 1, 1], as CLIP's image processor applies them."""
    config = {**_PROCESSOR, **read_json(file)}
    # Older configs say a number for either.
    sizes = {"size": [{"shortest_edge": size}, size], "crop_size": [{"height": size, "width": size}, size]}
    for name, usual in _PROCESSOR.items():
        allowed = sizes.get(name, [usual])
        if name not in ("image_mean", "image_std") and config[name] not in allowed:
            raise SourceError(f"{file}: {name} is {config[name]}; expected {allowed[0]} of an encoder of {size} pixels")
    return torch.tensor([config["image_mean"], config["image_std"]], dtype=torch.float32)[..., None, None]


class CLIPVision(nn.Module):
    """``images`` [batch, pictures, 3, size, size] in 0 … 1 → hidden states [batch, pictures · tokens, width]."""

    statistics: Tensor

    def __init__(self, config: Any, statistics: Tensor) -> None:
        super().__init__()
        self.register_buffer("statistics", statistics, persistent=False)
        self.embeddings = _Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # so spelled in checkpoints
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(config, causal=False) for _ in range(config.num_hidden_layers - 1))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        batch, pictures = images.shape[:2]
        x = self.pre_layrnorm(self.embeddings((images.flatten(0, 1) - self.statistics[0]) / self.statistics[1]))
        layers: Any = self.encoder.layers
        for layer in layers:
            x = layer(x)  # [batch · pictures, tokens, width]
        return (x.reshape(batch, pictures * x.shape[1], x.shape[2]),)


class _Embeddings(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _Reference(nn.Module):
    """The vision model of transformers, called as the pipeline calls it."""

    def __init__(self, folder: Path, statistics: Tensor) -> None:
        super().__init__()
        from transformers import CLIPVisionModel

        self.model = load_transformers(CLIPVisionModel, folder)
        self.statistics = statistics

    def forward(self, images: Tensor) -> tuple[Tensor]:
        pixels = (images.flatten(0, 1) - self.statistics[0]) / self.statistics[1]
        states = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        return (states.unflatten(0, images.shape[:2]).flatten(1, 2),)
