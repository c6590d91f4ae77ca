"""Hold what a manifest says of videos against the signatures that a runtime relies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._text import shape_text

if TYPE_CHECKING:
    from ._video import Experts, ImageConditions
    from .manifest import Axis, Component, Latents, TensorSpec

__all__ = ["check_experts", "check_frames", "check_image_conditions"]


def check_frames(components: Mapping[str, Component], latents: Latents) -> None:
    """Raise ``ValueError`` where frames of the latents, of the denoiser and of the VAE do not go together.

    A denoiser of videos may have a VAE of pictures, which then takes frame by frame.
    """
    tensor = components["denoiser"].input("latents")
    video = len(tensor.axes) == 5
    if video != (latents.frames is not None):
        raise ValueError("latents.frames and a denoiser with latents of five axes go together")
    if video:
        _begins_with("the denoiser's", tensor, "patch_frames")
        axis = tensor.axes[2]
        assert not isinstance(axis, int)
        if axis.multiple != latents.temporal_patch_size:
            raise ValueError(
                f"the denoiser's latents have {axis.multiple}·patch_frames, latents.temporal_patch_size is "
                f"{latents.temporal_patch_size}"
            )
    for name, given, made in (("vae_encoder", "images", "mean"), ("vae_decoder", "latents", "images")):
        if name not in components:
            continue
        component = components[name]
        ranks = {len(component.input(given).axes), len(component.output(made).axes)}
        if ranks == {4}:
            continue
        if ranks != {5} or not video:
            raise ValueError(f"the {name} is for videos, and not all of the bundle is")
        for tensor in (component.input(given), component.output(made)):
            _begins_with(f"the {name}'s", tensor, "latent_frames")


def check_image_conditions(record: ImageConditions, components: Mapping[str, Component]) -> None:
    """Raise ``ValueError`` where pictures do not become the denoiser's conditions as ``record`` says."""
    denoiser = {tensor.name: tensor for tensor in components["denoiser"].inputs}
    component = _component(record.component, components)
    inputs = {tensor.name: tensor for tensor in component.inputs}
    if not {"images", "given"} <= set(inputs) or set(inputs) - {"images", "given", "noise"}:
        raise ValueError(f"the {record.component} takes {sorted(inputs)}, expected images, given, and perhaps noise")
    if len(inputs["images"].axes) != 5 or inputs["given"].dtype != "int64" or len(inputs["given"].axes) != 2:
        raise ValueError(f"the {record.component} takes no images of five axes and int64 given [batch, frames]")
    made = {tensor.name: tensor for tensor in component.outputs}
    makers = [(record.component, made)]
    if record.encoder is not None:
        encoder = _component(record.encoder.component, components)
        images = {tensor.name: tensor for tensor in encoder.inputs}.get("images")
        size = record.encoder.size
        if images is None or len(encoder.inputs) != 1 or images.axes[2:] != (3, size, size):
            raise ValueError(
                f"the {record.encoder.component} takes no images [batch, pictures, 3, {size}, {size}] alone"
            )
        makers.append((record.encoder.component, {tensor.name: tensor for tensor in encoder.outputs}))
    for maker, outputs in makers:
        for name, tensor in outputs.items():
            condition = denoiser.get(name)
            if condition is None or name in ("latents", "timestep"):
                raise ValueError(f"the {maker} makes {name}, which is no condition of the denoiser")
            if condition.dtype != tensor.dtype or len(condition.axes) != len(tensor.axes):
                raise ValueError(
                    f"the {maker} makes {name} as {tensor.dtype} {shape_text(tensor)}, the denoiser takes "
                    f"{condition.dtype} {shape_text(condition)}"
                )
    for what, output in (("kept", record.kept), ("mask", record.mask)):
        if output is not None and output not in made:
            raise ValueError(f"image_conditions.{what} {output} is no output of the {record.component}")


def check_experts(experts: Experts, components: Mapping[str, Component]) -> None:
    """Raise ``ValueError`` where the second denoiser cannot stand for the first."""
    first, second = components["denoiser"], _component(experts.component, components)
    if (first.inputs, first.outputs) != (second.inputs, second.outputs):
        raise ValueError(f"the {experts.component} has other inputs or outputs than the denoiser")


def _component(name: str, components: Mapping[str, Component]) -> Component:
    if name not in components:
        raise ValueError(f"the manifest names the component {name}, which there is none of")
    return components[name]


def _begins_with(whose: str, tensor: TensorSpec, frames: str) -> None:
    axis: int | Axis = tensor.axes[2]
    if isinstance(axis, int) or axis.name != frames:
        raise ValueError(f"{whose} {tensor.name} has {shape_text(tensor)}, expected {frames} as the third axis")
