"""What a manifest says of videos beside the latents: pictures to start from, two experts, pieces for the VAE."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ._record import Name, Positive, Record

__all__ = ["Experts", "ImageConditions", "ImageEncoder", "Tiling"]


class ImageEncoder(Record):
    """A vision encoder that makes a condition of the given pictures (CLIP, for Wan 2.1).

    ``component`` takes ``images`` float32 [batch, pictures, 3, size, size] in 0 … 1, ``pictures`` of them at a time,
    and makes conditions of the denoiser. A picture is resized to ``size`` on its shorter side by Pillow's bicubic
    filter, and its middle cut out.
    """

    component: Name
    size: Positive


class ImageConditions(Record):
    """How pictures that a video shall contain become conditions of the denoiser.

    The component takes ``images`` float32 [batch, 3, frames, height, width] in 0 … 1, zeros where no picture is given,
    ``given`` int64 [batch, frames], 1 where one is, and perhaps ``noise`` float32, drawn from the seed before the
    latents' own, to draw from a posterior with. Its outputs are inputs of the denoiser; a run without pictures has
    zeros there, unless they are ``required``. ``last_image``: a picture may be given for the last frame, not only for
    the first. ``kept`` and ``mask`` name two outputs: where the mask is 1, [batch, 1, frames, height, width] or what
    spreads to that, ``kept`` is what the latents are in the end, shaped like them.
    """

    component: Name
    required: bool = False
    last_image: bool = False
    kept: Name | None = None
    mask: Name | None = None
    encoder: ImageEncoder | None = None

    @model_validator(mode="after")
    def _kept_where(self) -> ImageConditions:
        if (self.kept is None) != (self.mask is None):
            raise ValueError("image_conditions: kept and mask go together")
        return self


class Experts(Record):
    """A second denoiser of the same signature for low noise (Wan 2.2).

    It has the evaluations whose timestep is below ``boundary`` · num_train_timesteps. ``default_scale`` is its guidance
    scale; ``None``: that of the first.
    """

    component: Name
    boundary: Annotated[float, Field(gt=0, lt=1)]
    default_scale: float | None = None


class Tiling(Record):
    """The pieces in which diffusers sends this model's latents through the VAE, where it does; lengths are in latents.

    A piece has ``tile_height`` × ``tile_width`` latent pixels, the next begins ``stride_height`` below or
    ``stride_width`` beside it, and where they overlap one fades into the other. In time a piece has ``tile_frames``
    frames; those after the first begin one frame early, and the first picture made of it is dropped.
    ``always_in_time``: longer videos are cut in time whether memory is short or not (HunyuanVideo).
    """

    tile_height: Positive
    tile_width: Positive
    stride_height: Positive
    stride_width: Positive
    tile_frames: Positive | None = None
    stride_frames: Positive | None = None
    always_in_time: bool = False

    @model_validator(mode="after")
    def _overlapping(self) -> Tiling:
        if (self.tile_frames is None) != (self.stride_frames is None):
            raise ValueError("tiling: tile_frames and stride_frames go together")
        for side in ("height", "width", "frames"):
            tile, stride = getattr(self, f"tile_{side}"), getattr(self, f"stride_{side}")
            if tile is not None and stride > tile:
                raise ValueError(f"tiling: stride_{side} {stride} is above tile_{side} {tile}")
        if self.always_in_time and self.tile_frames is None:
            raise ValueError("tiling: always_in_time needs tile_frames")
        return self
