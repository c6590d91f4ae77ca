"""A tiny video model of the tests' own: two experts, pictures as conditions, a causal autoencoder; no family's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dit_deploy.bundle import (
    Axis,
    Component,
    Experts,
    Guidance,
    ImageConditions,
    Latents,
    Prediction,
    Scheduler,
    TensorSpec,
    Tiling,
)
from dit_deploy.exporters import Graph, Source

__all__ = ["CHANNELS", "SCHEDULER", "Conditioner", "Decoder", "Denoiser", "Encoder", "source"]

CHANNELS, CLASSES, SPACE, TIME = 6, 5, 4, 4
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
_BATCH = Axis(name="batch")


class Denoiser(nn.Module):
    """Mixes channels, frame by frame and pixel by pixel; what it makes of a frame depends on that frame alone."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.labels = nn.Embedding(CLASSES, CHANNELS)
        self.mix = nn.Conv3d(2 * CHANNELS + 1, CHANNELS, 1)

    def forward(
        self, latents: Tensor, timestep: Tensor, class_labels: Tensor, image_latents: Tensor, image_mask: Tensor
    ) -> tuple[Tensor]:
        x = torch.where(image_mask > 0, image_latents, latents)
        mixed = self.mix(torch.cat([x, image_latents, image_mask], dim=1))
        more = self.labels(class_labels) * (timestep / 1000)[:, None]
        return (torch.tanh(mixed + more[:, :, None, None, None]),)


class Encoder(nn.Module):
    """Videos [batch, 3, 4 · F - 3, 4 · h, 4 · w] in 0 … 1 → ``mean`` and ``std`` [batch, 6, F, h, w], causal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.conv = nn.Conv3d(3, 2 * CHANNELS, (5, SPACE, SPACE), stride=(TIME, SPACE, SPACE))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.conv(nn.functional.pad(images * 2 - 1, (0, 0, 0, 0, 4, 0))).chunk(2, dim=1)
        return mean, std.abs() / 10


class Decoder(nn.Module):
    """Latents [batch, 6, F, h, w] → videos [batch, 3, 4 · F - 3, 4 · h, 4 · w]; the first latent frame is one frame."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.conv = nn.Conv3d(CHANNELS, 3 * TIME, (2, 3, 3), padding=(0, 1, 1))

    def forward(self, latents: Tensor) -> tuple[Tensor]:
        x = self.conv(nn.functional.pad(latents, (0, 0, 0, 0, 1, 0)))
        x = x.unflatten(1, (3, TIME)).movedim(2, 3).flatten(2, 3)[:, :, TIME - 1 :]
        return (x.repeat_interleave(SPACE, dim=3).repeat_interleave(SPACE, dim=4) / 2 + 0.5,)


class Conditioner(nn.Module):
    """Given frames → the latents that they are, drawn from the posterior, and a mask of the frames that are whole."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, images: Tensor, given: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.encoder(images * given[:, None, :, None, None].float())
        # A latent frame is known where the last of its pictures is given.
        mask = given[:, None, ::TIME, None, None].float().expand(-1, 1, -1, *mean.shape[3:])
        return (mean + std * noise) * mask, mask


def _first_given(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    given = np.random.default_rng(seed).integers(0, 2, (sizes["batch"], TIME * sizes["latent_frames"] - TIME + 1))
    given[:, 0] = 1
    return {"given": given}


def source(*, experts: bool = False, pictures: bool = False, tiling: Tiling | None = None, **latents: object) -> Source:
    """Return the model, with a second denoiser, with pictures as conditions, or neither (they are then zeros)."""
    small = tuple(Axis(name=f"latent_{side}") for side in ("frames", "height", "width"))
    large = (
        Axis(name="latent_frames", multiple=TIME, offset=1 - TIME),
        *(Axis(name=f"latent_{side}", multiple=SPACE) for side in ("height", "width")),
    )
    patches = tuple(Axis(name=f"patch_{side}") for side in ("frames", "height", "width"))

    def tensor(name: str, channels: int, axes: tuple[Axis, ...], **more: object) -> TensorSpec:
        return TensorSpec(name=name, dtype="float32", axes=(_BATCH, channels, *axes), **more)

    denoiser = Component(
        path="denoiser/model.onnx",
        inputs=(
            tensor("latents", CHANNELS, patches),
            TensorSpec(name="timestep", dtype="float32", axes=(_BATCH,), minimum=0, maximum=1000),
            TensorSpec(name="class_labels", dtype="int64", axes=(_BATCH,), minimum=0, maximum=CLASSES - 1),
            tensor("image_latents", CHANNELS, patches),
            tensor("image_mask", 1, patches, minimum=0, maximum=1),
        ),
        outputs=(tensor("prediction", CHANNELS, patches),),
    )
    encoder = Component(
        path="vae_encoder/model.onnx",
        inputs=(tensor("images", 3, large, minimum=0, maximum=1),),
        outputs=(tensor("mean", CHANNELS, small), tensor("std", CHANNELS, small)),
    )
    decoder = Component(
        path="vae_decoder/model.onnx",
        inputs=(tensor("latents", CHANNELS, small),),
        outputs=(tensor("images", 3, large),),
    )
    graphs = [
        Graph("denoiser", denoiser, lambda: Denoiser(1).eval(), {"batch": 2}),
        Graph("vae_encoder", encoder, lambda: Encoder().eval(), {"batch": 2}),
        Graph("vae_decoder", decoder, lambda: Decoder().eval(), {"batch": 2}),
    ]
    if experts:
        second = denoiser.model_copy(update={"path": "denoiser_2/model.onnx"})
        graphs.append(Graph("denoiser_2", second, lambda: Denoiser(2).eval(), {"batch": 2}))
    if pictures:
        component = Component(
            path="image_conditions/model.onnx",
            inputs=(
                tensor("images", 3, large, minimum=0, maximum=1),
                TensorSpec(name="given", dtype="int64", axes=(_BATCH, large[0]), minimum=0, maximum=1),
                tensor("noise", CHANNELS, small),
            ),
            outputs=(tensor("image_latents", CHANNELS, small), tensor("image_mask", 1, small)),
        )
        graphs.append(
            Graph("image_conditions", component, lambda: Conditioner().eval(), {"batch": 2}, feeds=_first_given)
        )
    geometry = {
        "channels": CHANNELS,
        "frames": 3,
        "height": 6,
        "width": 5,
        "patch_size": 1,
        "spatial_compression": SPACE,
        "temporal_compression": TIME,
        "frame_rate": 8.0,
    }
    return Source(
        family="tests",
        kind="tests",
        name="video",
        graphs=tuple(graphs),
        latents=Latents.model_validate({**geometry, **latents}),
        prediction=Prediction(type="flow_prediction"),
        guidance=Guidance(kind="classifier_free", unconditional={"class_labels": 0}, default_scale=2.0),
        scheduler_config=SCHEDULER,
        scheduler=Scheduler(num_inference_steps=4),
        experts=Experts(component="denoiser_2", boundary=0.7, default_scale=1.5) if experts else None,
        image_conditions=ImageConditions(
            component="image_conditions", last_image=True, kept="image_latents", mask="image_mask"
        )
        if pictures
        else None,
        tiling=tiling,
    )
