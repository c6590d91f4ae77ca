"""Export a network of your own, and draw with it.

python examples/own_network.py BUNDLE OUT.png

`source()` is all that an export needs to know: the graphs with their inputs and outputs, and what these mean. This
network has no training behind it: it believes that every picture is a disc, and a label is the disc's colour.
"""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dit_deploy import Pipeline
from dit_deploy.bundle import Axis, Component, Latents, Prediction, Scheduler, TensorSpec
from dit_deploy.exporters import Graph, Source, export

COLOURS = [[0.9, -0.6, -0.7], [-0.5, 0.8, -0.6], [-0.7, -0.3, 0.9]]


class Discs(nn.Module):
    """Noisy latents, timestep and label → the clean latents: a disc in the middle, grainy while there is noise."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Embedding.from_pretrained(torch.tensor(COLOURS))
        self.grain = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        height, width = latents.shape[2:]  # kept symbolic: no size is baked into the graph
        y, x = ((torch.arange(size) + 0.5) / size * 2 - 1 for size in (height, width))
        inside = torch.sigmoid(20 * (0.7 - (y[:, None] ** 2 + x[None, :] ** 2).sqrt()))
        grain = self.grain(latents) * (timestep / 1000)[:, None, None, None]
        return (self.colours(class_labels)[:, :, None, None] * inside + grain,)


class Decoder(nn.Module):
    """Latents → pictures in 0 … 1. Here latents are pixels in −1 … 1; a VAE would stand in this place."""

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        return ((latents / 2 + 0.5).clamp(0, 1),)


def source(network: nn.Module) -> Source:
    """Declare `network`: what goes in and comes out, with which axes, and how its pictures are sampled."""

    def pixels(name: str, unit: str) -> TensorSpec:
        axes = (Axis(name="batch"), 3, Axis(name=f"{unit}_height"), Axis(name=f"{unit}_width"))
        return TensorSpec(name=name, dtype="float32", axes=axes)

    timestep = TensorSpec(name="timestep", dtype="float32", axes=(Axis(name="batch"),), minimum=0, maximum=999)
    label = TensorSpec(name="class_labels", dtype="int64", axes=(Axis(name="batch"),), minimum=0, maximum=2)
    denoiser = Component(
        path="denoiser/model.onnx",
        inputs=(pixels("latents", "patch"), timestep, label),
        outputs=(pixels("prediction", "patch"),),
    )
    decoder = Component(
        path="vae_decoder/model.onnx", inputs=(pixels("latents", "latent"),), outputs=(pixels("images", "latent"),)
    )
    return Source(
        family="own",
        kind="example",
        name="discs",
        graphs=(
            Graph("denoiser", denoiser, lambda: network, {"batch": 2, "patch_height": 32, "patch_width": 32}),
            Graph("vae_decoder", decoder, Decoder, {"batch": 2, "latent_height": 32, "latent_width": 32}),
        ),
        latents=Latents(channels=3, height=96, width=96, patch_size=1, spatial_compression=1),
        prediction=Prediction(type="sample"),
        scheduler_config={"_class_name": "DDIMScheduler", "prediction_type": "sample", "clip_sample": False},
        scheduler=Scheduler(num_inference_steps=20),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="the folder to write the bundle in")
    parser.add_argument("out", help="the picture to write")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    bundle = export(source(Discs().eval()), arguments.bundle, progress=print)
    pictures = Pipeline(bundle)(class_labels=[0, 1, 2], seed=0, height=64, width=96, output_type="numpy").images
    row = np.concatenate(list(pictures), axis=1)  # [64, 3 · 96, 3] in 0 … 1
    Image.fromarray((row * 255).round().astype(np.uint8)).save(arguments.out)
    print(f"{arguments.out}: {len(pictures)} pictures")


if __name__ == "__main__":
    main()
