"""What a manifest says of videos, in words."""

from __future__ import annotations

import math

from dit_deploy.bundle import ImageConditions, Manifest
from dit_deploy.runtimes.frames import frames_axes, pixel_frames

__all__ = ["describe_video"]

_BOTH = 2


def describe_video(manifest: Manifest) -> dict[str, str]:
    """Return rows for ``dit-deploy inspect``: name → text; none of a bundle of pictures."""
    latents = manifest.latents
    if latents.frames is None:
        return {}
    usual = pixel_frames(manifest, latents.frames)
    rate = "" if latents.frame_rate is None else f", {latents.frame_rate:g} a second"
    rows = {"videos": f"{usual} frames in training{rate}; {_rule(manifest)}"}
    if manifest.image_conditions is not None:
        rows["from pictures"] = _pictures(manifest, manifest.image_conditions)
    if manifest.experts is not None:
        experts = manifest.experts
        rows["experts"] = f"denoiser, and {experts.component} below {experts.boundary:g} of the timesteps"
    if (tiling := manifest.tiling) is not None:
        time = "" if tiling.tile_frames is None else f" × {tiling.tile_frames} frames"
        always = ", always cut in time" if tiling.always_in_time else ""
        rows["VAE pieces"] = f"{tiling.tile_height} × {tiling.tile_width}{time} latents (--vae-tile model){always}"
    return rows


def _rule(manifest: Manifest) -> str:
    """Say which numbers of frames there are: those that the VAE and the patches of the denoiser have in common."""
    latents = manifest.latents
    pictures, decoded = frames_axes(manifest)
    per_latent = pictures.multiple // decoded.multiple
    step = per_latent * math.lcm(decoded.multiple, latents.temporal_patch_size)
    first = next(
        pictures.size(free)
        for free in range(decoded.minimum, decoded.minimum + latents.temporal_patch_size)
        if decoded.size(free) % latents.temporal_patch_size == 0
    )
    rest = first % step
    rule = "any number of them" if step == 1 else f"multiples of {step}" + (f" and {rest} more" if rest else "")
    axis = manifest.components["denoiser"].input("latents").axes[2]
    if isinstance(axis, int) or axis.maximum is None:
        return rule
    most = next(n for n in range(axis.size(axis.maximum), 0, -1) if decoded.free(n) and axis.free(n))
    return f"{rule}, up to {pixel_frames(manifest, most)}"


def _pictures(manifest: Manifest, record: ImageConditions) -> str:
    needed = "needs" if record.required else "takes"
    what = "a first picture"
    if record.encoder is not None and manifest.components[record.encoder.component].input("images").axes[1] == _BOTH:
        what = "a first and a last picture"
    elif record.last_image:
        what += ", and a last one"
    return f"{needed} {what}" + ("" if record.required else ", or none")
