"""Which of an engine's profiles a run uses: the one whose optimum is nearest, the narrowest of equals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import InputError
from .engine import Profile

__all__ = ["describe_profile", "select_profile"]


def select_profile(profiles: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """Return the index of the profile to run ``sizes`` with.

    Args:
        profiles: a component's profiles, in the order in which they were built.
        sizes: free size → value, as :func:`dit_deploy.bundle.bind_axes` returns them.

    Raises:
        InputError: no profile holds the sizes; the message lists what each of them holds.
    """
    holding = [index for index, profile in enumerate(profiles) if profile.holds(sizes)]
    if holding:
        return min(holding, key=lambda index: (profiles[index].distance(sizes), _width(profiles[index]), index))
    names = dict.fromkeys(name for profile in profiles for name in profile.sizes)
    came = ", ".join(f"{name} {sizes[name]}" for name in names if name in sizes) or "nothing"
    held = "; or ".join(describe_profile(profile) for profile in profiles) or "no size at all"
    raise InputError(f"no profile of this engine holds {came}; it holds {held}. Build an engine for these sizes")


def describe_profile(profile: Profile) -> str:
    """Write what a profile holds for people: ``batch 1 … 8, patch_height 16, patch_width 16``."""
    return ", ".join(
        f"{name} {one.minimum}" if one.minimum == one.maximum else f"{name} {one.minimum} … {one.maximum}"
        for name, one in profile.sizes.items()
    )


def _width(profile: Profile) -> float:
    """Return how wide a profile is: 0 for a single size, 1 for each doubling between a minimum and its maximum."""
    return sum(math.log2(one.maximum / one.minimum) for one in profile.sizes.values())
