"""Published transformers by name, and what one call of each costs by closed formulas; no weights are needed.

Counted are the products of every block: projections, attention, feed-forward, modulation. With h the hidden size, a
token passes 4 h² weights of attention and 8 h² of a feed-forward of four times the width; attention's own two products
cost 4 h operations for each pair of tokens. Embedders and the last layer are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_deploy.errors import InputError
from dit_deploy.planning.costs import GraphCosts

__all__ = ["ARCHITECTURES", "Architecture", "architecture_costs", "find_architecture"]


@dataclass(frozen=True)
class Architecture:
    """Sizes of a denoiser.

    Attributes:
        hidden: width of a token.
        depth: blocks; of a joint transformer those with weights of their own for text and picture.
        single: blocks after them in which all tokens share weights (FLUX).
        text_tokens: of a prompt; 0: there is no text.
        joint: text and picture attend to each other (MMDiT), where else the picture attends to text (PixArt).
        modulation: h² weights a block has for adaLN, for each kind of token; 0 where one serves all blocks.
        patch_size, compression: latent pixels of a token's side, pixels of a latent pixel's.
        image_size: pixels on a side in training.
        steps, guided: the usual run, and whether two halves are computed.
    """

    hidden: int
    depth: int
    patch_size: int = 2
    compression: int = 8
    image_size: int = 256
    single: int = 0
    text_tokens: int = 0
    joint: bool = False
    modulation: int = 6
    steps: int = 50
    guided: bool = True


def _dit() -> dict[str, Architecture]:
    # Peebles & Xie 2023, table 1
    sizes = {"S": (384, 12), "B": (768, 12), "L": (1024, 24), "XL": (1152, 28)}
    return {
        f"DiT-{size}/{patch}": Architecture(hidden, depth, patch_size=patch)
        for size, (hidden, depth) in sizes.items()
        for patch in (2, 4, 8)
    }


#: From the papers, and the models' config.json.
ARCHITECTURES: dict[str, Architecture] = {
    **_dit(),
    # Chen et al. 2023, PixArt-α: DiT-XL/2 with cross-attention and one modulation for all blocks
    "PixArt-XL-2": Architecture(1152, 28, image_size=1024, text_tokens=120, modulation=0, steps=20),
    # Esser et al. 2024: depth d, hidden size 64 d
    "SD3-medium": Architecture(1536, 24, image_size=1024, text_tokens=333, joint=True, steps=28),
    "SD3.5-large": Architecture(2432, 38, image_size=1024, text_tokens=333, joint=True, steps=28),
    # black-forest-labs/flux, src/flux/util.py: hidden 3072, 19 double and 38 single blocks; guidance is embedded
    "FLUX.1": Architecture(3072, 19, image_size=1024, single=38, text_tokens=512, joint=True, steps=28, guided=False),
}


def find_architecture(name: str) -> Architecture | None:
    """Return the architecture called ``name``, without regard to case; ``None`` where there is none."""
    return {known.casefold(): one for known, one in ARCHITECTURES.items()}.get(name.casefold())


def architecture_costs(name: str, batch: int, tokens: int, bytes_each: int) -> GraphCosts:
    """Return what one call of the denoiser costs for ``batch`` samples of ``tokens`` patches.

    Raises:
        InputError: the name is not known.
    """
    one = find_architecture(name)
    if one is None:
        raise InputError(f"architecture: {name!r} is not known; it is one of {', '.join(ARCHITECTURES)}")
    square, text = one.hidden**2, one.text_tokens
    if one.joint:
        streams, together = 2, tokens + text
        weights = one.depth * streams * (12 + one.modulation) * square + one.single * 15 * square
        projected = 24.0 * square * together * (one.depth + one.single)
        attention = 4.0 * one.hidden * together**2 * (one.depth + one.single)
        modulated = 2.0 * square * (one.depth * streams * one.modulation + one.single * 3)
        if (
            not one.single
        ):  # nothing reads the text after SD3's last block: no projection, feed-forward, four of six shifts
            weights -= 13 * square
            projected -= 2.0 * 9 * square * text
            modulated -= 2.0 * 4 * square
        widest = together
    else:
        cross = 4 if text else 0
        weights = one.depth * (12 + cross + one.modulation) * square + (0 if one.modulation else 6 * square)
        projected = one.depth * 2.0 * square * (12 * tokens + (2 * (tokens + text) if text else 0))
        attention = one.depth * 4.0 * one.hidden * tokens * (tokens + text)
        modulated = 2.0 * square * max(one.depth * one.modulation, 6)
        widest = tokens
    # the residual stream, a block's normed input, and the widest layer's output: 4 h, or 7 h where one layer is all
    activations = float(batch * widest * one.hidden * (2 + (7 if one.single else 4)) * bytes_each)
    operations = batch * (projected + attention + modulated)
    return GraphCosts(operations, batch * attention, int(weights), activations, bytes_each)
