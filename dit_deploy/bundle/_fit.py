"""Hold the parts of a manifest against the signatures that every runtime relies on; videos: ``_fit_video``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ._text import range_text, shape_text

if TYPE_CHECKING:
    from .manifest import Component, Guidance, Latents, Prediction, Prompts, TensorSpec

__all__ = ["check_decoder", "check_denoiser", "check_encoder", "check_guidance", "check_prompts"]

_INTEGERS = ("int64", "int32")


def check_denoiser(denoiser: Component, latents: Latents, prediction: Prediction) -> None:
    """Raise ``ValueError`` where the denoiser is not one that a runtime can feed."""
    inputs = {tensor.name: tensor for tensor in denoiser.inputs}
    outputs = {tensor.name: tensor for tensor in denoiser.outputs}
    if missing := ({"latents", "timestep"} - set(inputs)) | ({"prediction"} - set(outputs)):
        raise ValueError(f"the denoiser lacks {sorted(missing)} among its inputs and outputs")
    axes = inputs["latents"].axes
    if len(axes) not in (4, 5) or axes[1] != latents.channels:
        raise ValueError(f"the denoiser's latents have no [batch, {latents.channels}, …, height, width]")
    if prediction.learned_range_variance != ("variance" in outputs):
        raise ValueError("learned_range_variance and the denoiser's output variance go together")
    for tensor in denoiser.inputs:
        _begins_with_batch("the denoiser's", tensor)
    _names_sizes("the denoiser's", inputs["latents"], "patch", latents.patch_size)
    for name in ("prediction", "variance"):
        if name in outputs:
            _same_axes("the denoiser's", outputs[name], inputs["latents"])


def check_prompts(prompts: Prompts, components: Mapping[str, Component], files: Collection[str]) -> set[str]:
    """Return the denoiser's conditions that prompts make; ``ValueError`` where the text encoders do not make them."""
    made: dict[str, TensorSpec] = {}
    for encoder in prompts.encoders:
        if encoder.component not in components:
            raise ValueError(f"prompts name the component {encoder.component}, which there is none of")
        for tokenizer in filter(None, (encoder.tokenizer, encoder.negative_tokenizer)):
            if tokenizer not in files:
                raise ValueError(f"{tokenizer} is named but has no record under files")
        component = components[encoder.component]
        inputs = {tensor.name: tensor for tensor in component.inputs}
        if "input_ids" not in inputs or set(inputs) - {"input_ids", "attention_mask"}:
            raise ValueError(
                f"the {encoder.component} takes {sorted(inputs)}, expected input_ids and perhaps attention_mask"
            )
        for tensor in component.inputs:
            _begins_with_batch(f"the {encoder.component}'s", tensor)
            if tensor.dtype not in _INTEGERS or len(tensor.axes) != 2:
                raise ValueError(f"the {encoder.component}'s {tensor.name} is no integer [batch, tokens]")
        for tensor in component.outputs:
            if tensor.name in made:
                raise ValueError(f"two text encoders make {tensor.name}; names of their outputs must differ")
            made[tensor.name] = tensor
    if prompts.join is not None:
        if prompts.join not in components:
            raise ValueError(f"prompts.join names the component {prompts.join}, which there is none of")
        joined = components[prompts.join]
        if missing := {tensor.name for tensor in joined.inputs} - set(made):
            raise ValueError(f"the {prompts.join} takes {sorted(missing)}, which no text encoder makes")
        made = {tensor.name: tensor for tensor in joined.outputs}
    conditions = {tensor.name: tensor for tensor in components["denoiser"].inputs}
    if unknown := set(made) - (set(conditions) - {"latents", "timestep"}):
        raise ValueError(f"prompts make {sorted(unknown)}, which are no conditions of the denoiser")
    for name, tensor in made.items():
        if tensor.dtype != conditions[name].dtype or len(tensor.axes) != len(conditions[name].axes):
            raise ValueError(
                f"prompts make {name} as {tensor.dtype} {shape_text(tensor)}, the denoiser takes "
                f"{conditions[name].dtype} {shape_text(conditions[name])}"
            )
    return set(made)


def check_guidance(
    guidance: Guidance, denoiser: Component, latents: Latents, from_prompts: Collection[str] = ()
) -> None:
    """Raise ``ValueError`` where the denoiser cannot be guided as ``guidance`` says.

    ``from_prompts`` are the conditions that have a value of their own for the unguided half.
    """
    inputs = {tensor.name: tensor for tensor in denoiser.inputs if tensor.name not in ("latents", "timestep")}
    if unknown := set(guidance.unconditional) - set(inputs):
        raise ValueError(f"guidance.unconditional names no condition of the denoiser: {sorted(unknown)}")
    if guidance.kind == "classifier_free" and not guidance.unconditional and not from_prompts:
        raise ValueError(
            "guidance.unconditional is empty, classifier_free needs the value of a condition there; "
            f"the denoiser's conditions: {sorted(inputs)}"
        )
    for name, value in guidance.unconditional.items():
        _takes_value(inputs[name], value)
    if guidance.channels is not None and guidance.channels > latents.channels:
        raise ValueError(f"guidance.channels {guidance.channels} exceeds {latents.channels} channels")
    if (guidance.kind == "embedded") != (guidance.input is not None):
        raise ValueError("guidance.input is the condition that embedded guidance feeds; one needs the other")
    if guidance.input is not None and guidance.input not in inputs:
        raise ValueError(f"guidance.input {guidance.input} is no condition of the denoiser: {sorted(inputs)}")
    if (skip := guidance.skip_layers) is not None:
        if skip not in inputs:
            raise ValueError(f"guidance.skip_layers {skip} is no condition of the denoiser: {sorted(inputs)}")
        if inputs[skip].dtype != "int64" or len(inputs[skip].axes) != 2 or not isinstance(inputs[skip].axes[1], int):
            raise ValueError(
                f"guidance.skip_layers {skip} is {inputs[skip].dtype} {shape_text(inputs[skip])}, "
                "expected int64 [batch, number of blocks]"
            )


def check_encoder(encoder: Component, latents: Latents) -> None:
    """Raise ``ValueError`` where the VAE encoder does not turn ``images`` into ``mean``."""
    images, mean = _pair("vae_encoder", encoder, "images", "mean")
    _check_autoencoder("the vae_encoder's", images, mean, latents)
    for tensor in encoder.outputs:
        if tensor.name == "std":
            _same_axes("the vae_encoder's", tensor, mean)


def check_decoder(decoder: Component, latents: Latents) -> None:
    """Raise ``ValueError`` where the VAE decoder does not turn ``latents`` into ``images``."""
    small, images = _pair("vae_decoder", decoder, "latents", "images")
    _check_autoencoder("the vae_decoder's", images, small, latents)


def _pair(name: str, component: Component, given: str, made: str) -> tuple[TensorSpec, TensorSpec]:
    inputs = {tensor.name: tensor for tensor in component.inputs}
    outputs = {tensor.name: tensor for tensor in component.outputs}
    if given not in inputs or made not in outputs:
        raise ValueError(
            f"the {name} takes {sorted(inputs)} and gives {sorted(outputs)}, expected {given!r} and {made!r} among them"
        )
    return inputs[given], outputs[made]


def _check_autoencoder(whose: str, images: TensorSpec, small: TensorSpec, latents: Latents) -> None:
    _begins_with_batch(whose, images)
    _begins_with_batch(whose, small)
    _names_sizes(whose, images, "latent", latents.spatial_compression)
    _names_sizes(whose, small, "latent", 1)
    if small.axes[1] != latents.channels:
        raise ValueError(f"{whose} {small.name} has {shape_text(small)}, expected {latents.channels} channels")


def _names_sizes(whose: str, tensor: TensorSpec, unit: str, multiple: int) -> None:
    """Require the last two of four or five axes to be ``multiple`` × ``UNIT_height`` and ``UNIT_width``."""
    expected = [(f"{unit}_height", multiple, 0), (f"{unit}_width", multiple, 0)]
    found = [(axis.name, axis.multiple, axis.offset) for axis in tensor.axes[-2:] if not isinstance(axis, int)]
    if len(tensor.axes) not in (4, 5) or found != expected:
        times = "" if multiple == 1 else f"{multiple}·"
        frames = "frames, " if len(tensor.axes) == 5 else ""
        raise ValueError(
            f"{whose} {tensor.name} has {shape_text(tensor)}, "
            f"expected [batch, channels, {frames}{times}{unit}_height, {times}{unit}_width]"
        )


def _begins_with_batch(whose: str, tensor: TensorSpec) -> None:
    first = tensor.axes[0] if tensor.axes else 0
    if isinstance(first, int) or (first.name, first.multiple, first.offset) != ("batch", 1, 0):
        raise ValueError(f"{whose} {tensor.name} has {shape_text(tensor)}, expected batch as the first axis")


def _same_axes(whose: str, tensor: TensorSpec, like: TensorSpec) -> None:
    if tensor.axes != like.axes:
        raise ValueError(
            f"{whose} {tensor.name} has {shape_text(tensor)}, expected the axes of {like.name}: {shape_text(like)}"
        )


def _takes_value(tensor: TensorSpec, value: float) -> None:
    said = f"guidance.unconditional.{tensor.name}: {value} came, expected"
    if tensor.dtype in _INTEGERS and not isinstance(value, int):
        raise ValueError(f"{said} an integer, as the input is {tensor.dtype}")
    if tensor.dtype == "bool" and value not in (0, 1):
        raise ValueError(f"{said} 0 or 1, as the input is bool")
    if (tensor.minimum is not None and value < tensor.minimum) or (
        tensor.maximum is not None and value > tensor.maximum
    ):
        raise ValueError(f"{said} a value of the input's {range_text(tensor)}")
