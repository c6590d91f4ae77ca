"""What families declare alike: latents, timestep, text conditions, guidance, outputs; inputs for the proof."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from dit_deploy.bundle.manifest import Axis, Prediction, TensorSpec
from dit_deploy.errors import SourceError

if TYPE_CHECKING:  # the DiT's own module runs where safetensors is not installed, see dit_deploy.bench.gpu
    from dit_deploy.exporters.source import Feeds

__all__ = [
    "guidance_feeds",
    "guidance_tensor",
    "latents_tensor",
    "mask_feeds",
    "mask_tensor",
    "output_tensors",
    "pooled_tensor",
    "read_prediction",
    "sigma_tensor",
    "text_tensor",
    "timestep_tensor",
    "video_outputs",
    "video_tensor",
]

_BATCH = Axis(name="batch")
_TOKENS = Axis(name="sequence_length")


def latents_tensor(
    channels: int, patch_size: int, name: str = "latents", description: str = "", *, limit: int | None = None
) -> TensorSpec:
    """Declare latents, float32 [batch, channels, patch_size · patch_height, patch_size · patch_width].

    ``limit`` is how many patches a side may have, where a table of positions ends.
    """
    height, width = (Axis(name=f"patch_{side}", multiple=patch_size, maximum=limit) for side in ("height", "width"))
    return TensorSpec(name=name, dtype="float32", axes=(_BATCH, channels, height, width), description=description)


def video_tensor(
    channels: int,
    patch_size: int,
    name: str = "latents",
    description: str = "",
    *,
    temporal_patch_size: int = 1,
    frames_limit: int | None = None,
    limit: int | None = None,
) -> TensorSpec:
    """Declare latents of a video, float32 [batch, channels, frames, height, width], each axis a number of patches.

    ``frames_limit`` and ``limit`` are how many patches there may be in time and along a side, where tables end.
    """
    frames = Axis(name="patch_frames", multiple=temporal_patch_size, maximum=frames_limit)
    picture = latents_tensor(channels, patch_size, name, description, limit=limit)
    return picture.model_copy(update={"axes": (*picture.axes[:2], frames, *picture.axes[2:])})


def timestep_tensor(scheduler_config: Mapping[str, Any]) -> TensorSpec:
    """Declare the timestep as a training index, float32 [batch], as far as the scheduler config counts."""
    last = int(scheduler_config.get("num_train_timesteps", 1000))
    return TensorSpec(name="timestep", dtype="float32", axes=(_BATCH,), unit="training index", minimum=0, maximum=last)


def sigma_tensor() -> TensorSpec:
    """Declare the timestep as a share of noise, float32 [batch] in 0 … 1."""
    return TensorSpec(name="timestep", dtype="float32", axes=(_BATCH,), unit="sigma", minimum=0, maximum=1)


def text_tensor(width: int, name: str = "encoder_hidden_states", tokens: int | Axis = _TOKENS) -> TensorSpec:
    """Declare a text encoder's hidden states, float32 [batch, ``tokens``, width]; any number of tokens by default."""
    return TensorSpec(name=name, dtype="float32", axes=(_BATCH, tokens, width))


def mask_tensor(
    name: str = "encoder_attention_mask", tokens: int | Axis = _TOKENS, description: str = "1 where a token is"
) -> TensorSpec:
    """Declare the mask of hidden states, int64 [batch, ``tokens``]; see :func:`text_tensor`."""
    return TensorSpec(name=name, dtype="int64", axes=(_BATCH, tokens), minimum=0, maximum=1, description=description)


def pooled_tensor(width: int) -> TensorSpec:
    """Declare what text encoders make of a whole text, float32 [batch, width]."""
    return TensorSpec(name="pooled_projections", dtype="float32", axes=(_BATCH, width))


def guidance_tensor() -> TensorSpec:
    """Declare the scale of a guidance that is embedded, float32 [batch]."""
    return TensorSpec(
        name="guidance",
        dtype="float32",
        axes=(_BATCH,),
        unit="guidance scale",
        minimum=0,
        description="what the model was distilled to do without an unguided half",
    )


def guidance_feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return scales for :func:`guidance_tensor`."""
    return {"guidance": np.random.default_rng(seed).uniform(1.0, 8.0, sizes["batch"])}


def output_tensors(
    channels: int, patch_size: int, *, variance: bool = False, limit: int | None = None
) -> tuple[TensorSpec, ...]:
    """Declare ``prediction`` and, where the model learns one, ``variance``; both are shaped like the latents."""
    prediction = latents_tensor(channels, patch_size, "prediction", "what the model predicts", limit=limit)
    if not variance:
        return (prediction,)
    described = "-1 … 1 from the smallest to the largest log-variance, not clipped"
    return prediction, latents_tensor(channels, patch_size, "variance", described, limit=limit)


def video_outputs(
    channels: int,
    patch_size: int,
    *,
    variance: bool = False,
    temporal_patch_size: int = 1,
    frames_limit: int | None = None,
    limit: int | None = None,
) -> tuple[TensorSpec, ...]:
    """Declare ``prediction`` and perhaps ``variance``, shaped like :func:`video_tensor` of the same arguments."""
    pictures = output_tensors(channels, patch_size, variance=variance)
    latents = video_tensor(
        channels, patch_size, temporal_patch_size=temporal_patch_size, frames_limit=frames_limit, limit=limit
    )
    axes = latents.axes
    return tuple(tensor.model_copy(update={"axes": axes}) for tensor in pictures)


def read_prediction(scheduler_config: Mapping[str, Any], *, variance: bool = False) -> Prediction:
    """Return what the output means, as the scheduler config says it, with the timestep as a training index.

    Raises:
        SourceError: it is a type that no sampler here knows.
    """
    known = get_args(Prediction.model_fields["type"].annotation)
    found = scheduler_config.get("prediction_type", "epsilon")
    if found not in known:
        raise SourceError(f"prediction_type {found!r} of the scheduler config is none of {', '.join(known)}")
    return Prediction.model_validate({"type": found, "learned_range_variance": variance})


def mask_feeds(name: str = "encoder_attention_mask", length: str = "sequence_length") -> Feeds:
    """Return a maker of masks of texts of 1 token to all, different lengths, padded on the right; one is whole."""

    def feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
        lengths = np.random.default_rng(seed).integers(1, sizes[length], sizes["batch"], endpoint=True)
        lengths[-1] = sizes[length]
        return {name: (np.arange(sizes[length])[None, :] < lengths[:, None]).astype(np.int64)}

    return feeds
