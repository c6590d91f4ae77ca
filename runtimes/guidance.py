"""The guidance of a run, from what a caller asks for and what the manifest says of the family."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from dit_deploy.bundle import Manifest
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown
from dit_deploy.sampling import Guidance, SkipLayerGuidance

__all__ = ["read_guidance", "say_without_effect"]


def read_guidance(
    manifest: Manifest,
    *,
    scale: float | None,
    second_scale: float | None,
    true_cfg_scale: float,
    channels: int | Literal["model"] | None,
    interval: tuple[float, float],
    rescale: float,
    batched: bool,
    skip_layers: Sequence[int] | None,
    skip_scale: float,
    skip_start: float,
    skip_stop: float,
) -> tuple[Guidance, Guidance | None]:
    """Return classifier-free guidance as the family does it, of the denoiser and of a second one where there is one.

    The arguments are those of :meth:`dit_deploy.Pipeline.__call__`.

    Raises:
        InputError: one is out of range, or of no use to this bundle.
    """
    own = manifest.guidance
    if own.kind != "classifier_free":
        Guidance(own.default_scale if scale is None else scale)  # a number that a denoiser can be fed
        scale = true_cfg_scale
    elif true_cfg_scale != 1.0:
        raise InputError("true_cfg_scale: this bundle's guidance is classifier-free; use guidance_scale")
    first = Guidance(
        scale=own.default_scale if scale is None else scale,
        channels=own.channels if channels == "model" else channels,
        interval=interval,
        rescale=rescale,
        batched=batched,
        token=manifest.latents.patch_size if own.normalise == "token" else None,
        variance=own.variance,
    )
    first = replace(first, scale=first.scale + own.scale_offset)
    if skip_layers:
        if first.scale <= 1.0:
            raise InputError("skip_guidance_layers: this run is not guided; use a guidance_scale above 1")
        if not isinstance(skip_layers, (list, tuple)):
            raise InputError(f"skip_guidance_layers: {shown(skip_layers)} came, a list of blocks was expected")
        first = replace(first, skip=SkipLayerGuidance(tuple(skip_layers), skip_scale, skip_start, skip_stop))
    return first, _second(manifest, second_scale, first)


def say_without_effect(
    manifest: Manifest, guidance: Guidance, scale: float | None, *, negative: bool, asked_negative: bool
) -> None:
    """Warn of a scale that comes without the negative prompt it needs, and of a negative prompt in an unguided run.

    Args:
        scale: what the caller asked for, where he did.
        negative: whether the run has a negative prompt, an empty one included.
        asked_negative: whether the caller gave one.
    """
    own = manifest.guidance
    name = "guidance_scale" if own.kind == "classifier_free" else "true_cfg_scale"
    if guidance.scale > 1.0 and not negative and scale is not None:
        said = f"{name}: {scale:g} has no effect without a negative_prompt, which this model is guided away from"
    elif guidance.scale <= 1.0 and asked_negative:
        said = (
            f"negative_prompt: has no effect in a run that is not guided; use a {name} above {1 - own.scale_offset:g}"
        )
    else:
        return
    warnings.warn(said, UserWarning, stacklevel=3)  # whoever called the pipeline


def _second(manifest: Manifest, scale: float | None, first: Guidance) -> Guidance | None:
    experts = manifest.experts
    if experts is None:
        if scale is not None:
            raise InputError("guidance_scale_2: this bundle has one denoiser; use guidance_scale")
        return None
    wanted = experts.default_scale if scale is None else scale
    if wanted is None or first.scale <= 1.0:
        return first
    return replace(first, scale=wanted + manifest.guidance.scale_offset, any_scale=True)
