"""Published transformers by name: the sizes that decide what one call of each costs; see :mod:`.formulas`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dit_deploy.errors import InputError
from dit_deploy.planning.grids import Video

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of", "find_architecture"]


@dataclass(frozen=True)
class Architecture:
    """Sizes of a denoiser.

    Attributes:
        hidden: width of a token.
        depth: blocks; of a joint transformer those with weights of their own for text and picture; of a factorised one
            those that attend within a frame.
        single: blocks after them in which all tokens share weights (FLUX, HunyuanVideo).
        feed_forward: inner width of a block's feed-forward; 0: four times ``hidden``.
        text_tokens: of a prompt; 0: there is no text.
        text: how it is read: by ``cross`` attention (PixArt, Wan), ``joint`` with weights of its own (MMDiT), or as
            tokens that share all weights, ``shared`` (CogVideoX).
        refiner: blocks of a small transformer over the text alone, before the others (HunyuanVideo).
        modulation: h² weights a block has for adaLN, for each kind of token; 0 where one serves all blocks.
        time_width: width of the embedding that modulation is made of; 0: ``hidden``.
        token_timesteps: whether every token has a timestep, so a modulation, of its own (Wan 2.2 5B).
        factorised: whether a block within each frame is followed by one across frames (Latte), without text.
        experts: transformers of this size, one for each part of the schedule (Wan 2.2 A14B: two).
        patch_size, compression: latent pixels of a token's side, pixels of a latent pixel's.
        height, width: pixels of the usual picture.
        video: what becomes of frames; ``None``: it draws pictures.
        steps, guided: the usual run, and whether two halves are computed.
    """

    hidden: int
    depth: int
    patch_size: int = 2
    compression: int = 8
    height: int = 256
    width: int = 256
    video: Video | None = None
    single: int = 0
    feed_forward: int = 0
    text_tokens: int = 0
    text: Literal["cross", "joint", "shared"] = "cross"
    refiner: int = 0
    modulation: int = 6
    time_width: int = 0
    token_timesteps: bool = False
    factorised: bool = False
    experts: int = 1
    steps: int = 50
    guided: bool = True

    @property
    def inner(self) -> int:
        """Inner width of a block's feed-forward."""
        return self.feed_forward or 4 * self.hidden


_SIZES = {"S": (384, 12), "B": (768, 12), "L": (1024, 24), "XL": (1152, 28)}  # Peebles & Xie 2023, table 1


def _dit() -> dict[str, Architecture]:
    return {
        f"DiT-{size}/{patch}": Architecture(hidden, depth, patch_size=patch)
        for size, (hidden, depth) in _SIZES.items()
        for patch in (2, 4, 8)
    }


def _spacetime_dit() -> dict[str, Architecture]:
    """This project's own network at the DiT's sizes, a VAE of pictures, patches of two frames, the first of one."""
    video = Video(frames=17, temporal_compression=2)
    return {
        f"SpacetimeDiT-{size}/2": Architecture(hidden, depth, video=video, text_tokens=120)
        for size, (hidden, depth) in _SIZES.items()
    }


# Wan-Video/Wan2.1, Wan2.2: wan/configs/wan_*.py
_WAN_14B = Architecture(
    5120, 40, feed_forward=13824, text_tokens=512, modulation=0, height=720, width=1280, video=Video(frames=81)
)
# The configs of the models in the diffusers format, THUDM/CogVideoX-*: transformer/config.json
_COGVIDEOX_2B = Architecture(
    1920,
    30,
    text_tokens=226,
    text="shared",
    modulation=12,
    time_width=512,
    height=480,
    width=720,
    video=Video(frames=49, odd_latents=True),
)
_COGVIDEOX_5B = replace(_COGVIDEOX_2B, hidden=3072, depth=42)

#: From the papers, and the models' config.json.
ARCHITECTURES: dict[str, Architecture] = {
    **_dit(),
    # Chen et al. 2023, PixArt-α: DiT-XL/2 with cross-attention and one modulation for all blocks
    "PixArt-XL-2": Architecture(1152, 28, height=1024, width=1024, text_tokens=120, modulation=0, steps=20),
    # Esser et al. 2024: depth d, hidden size 64 d
    "SD3-medium": Architecture(1536, 24, height=1024, width=1024, text_tokens=333, text="joint", steps=28),
    "SD3.5-large": Architecture(2432, 38, height=1024, width=1024, text_tokens=333, text="joint", steps=28),
    # black-forest-labs/flux, src/flux/util.py: hidden 3072, 19 double and 38 single blocks; guidance is embedded
    "FLUX.1": Architecture(
        3072, 19, height=1024, width=1024, single=38, text_tokens=512, text="joint", steps=28, guided=False
    ),
    **_spacetime_dit(),
    # Ma et al. 2024, Latte: a DiT-XL/2 within frames and another across them, in turn; the VAE of pictures
    "Latte-1": Architecture(
        1152,
        28,
        text_tokens=120,
        modulation=0,
        factorised=True,
        height=512,
        width=512,
        video=Video(frames=16, temporal_compression=1, causal=False),
    ),
    "CogVideoX-2B": _COGVIDEOX_2B,
    "CogVideoX-5B": _COGVIDEOX_5B,
    "CogVideoX1.5-5B": replace(
        _COGVIDEOX_5B, height=768, width=1360, video=Video(frames=81, temporal_patch_size=2, odd_latents=True)
    ),
    "Wan2.1-1.3B": replace(_WAN_14B, hidden=1536, depth=30, feed_forward=8960, height=480, width=832),
    "Wan2.1-14B": _WAN_14B,
    "Wan2.2-A14B": replace(_WAN_14B, experts=2, steps=40),
    "Wan2.2-5B": replace(
        _WAN_14B,
        hidden=3072,
        depth=30,
        feed_forward=14336,
        compression=16,
        height=704,
        token_timesteps=True,
        video=Video(frames=121),
    ),
    # Lightricks/LTX-Video: transformer/config.json; patches are made by the VAE
    "LTX-Video": Architecture(
        2048,
        28,
        patch_size=1,
        compression=32,
        text_tokens=128,
        modulation=0,
        height=512,
        width=704,
        video=Video(frames=161, temporal_compression=8),
    ),
    # Kong et al. 2024, HunyuanVideo, table 2; guidance is embedded
    "HunyuanVideo": Architecture(
        3072,
        20,
        single=40,
        refiner=2,
        text_tokens=256,
        text="joint",
        height=720,
        width=1280,
        guided=False,
        video=Video(frames=129),
    ),
}


def find_architecture(name: str) -> Architecture | None:
    """Return the architecture called ``name``, without regard to case; ``None`` where there is none."""
    return {known.casefold(): one for known, one in ARCHITECTURES.items()}.get(name.casefold())


def architecture_of(name: str) -> Architecture:
    """Return the architecture called ``name``.

    Raises:
        InputError: the name is not known.
    """
    one = find_architecture(name)
    if one is None:
        raise InputError(f"architecture: {name!r} is not known; it is one of {', '.join(ARCHITECTURES)}")
    return one
