"""What a manifest says of videos, in words."""

from __future__ import annotations

from dit_deploy.bundle import Axis, ImageConditions, Manifest
from dit_deploy.runtimes.frames import frames_axes, pixel_frames

__all__ = ["describe_video"]

_BOTH = 2
#: Latent frames among which possible lengths are looked for.
_SHOWN = 64


def describe_video(manifest: Manifest) -> dict[str, str]:
    """Return rows for ``dit-deploy inspect``: name → text; none of a bundle of pictures."""
    latents = manifest.latents
    if latents.frames is None:
        return {}
    usual = pixel_frames(manifest, latents.frames)
    rate = "" if latents.frame_rate is None else f", {latents.frame_rate:g} a second"
    rows = {"videos": f"{usual} frames in training{rate}; possible are {_rule(manifest)}"}
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
    axis, decoded = manifest.components["denoiser"].input("latents").axes[2], frames_axes(manifest)[1]
    assert isinstance(axis, Axis)
    most = _SHOWN if axis.maximum is None else axis.size(axis.maximum)
    fitting = [n for n in range(1, most + 1) if decoded.free(n) is not None and axis.free(n) is not None]
    counts = [str(pixel_frames(manifest, n)) for n in fitting]
    if axis.maximum is None:
        return ", ".join([*counts[:3], "…"])
    return ", ".join([*counts[:3], "…", counts[-1]] if len(counts) > 4 else counts)


def _pictures(manifest: Manifest, record: ImageConditions) -> str:
    needed = "needs" if record.required else "takes"
    what = "a first picture"
    if record.encoder is not None and manifest.components[record.encoder.component].input("images").axes[1] == _BOTH:
        what = "a first and a last picture"
    elif record.last_image:
        what += ", and a last one"
    return f"{needed} {what}" + ("" if record.required else ", or none")
