"""Which profile a run takes."""

from __future__ import annotations

import pytest

from dit_deploy.bundle.engine import Profile, SizeRange
from dit_deploy.bundle.profiles import select_profile
from dit_deploy.errors import InputError


def profile(batch: tuple[int, int, int], height: tuple[int, int, int]) -> Profile:
    return Profile(
        sizes={
            name: SizeRange(minimum=low, optimum=best, maximum=high)
            for name, (low, best, high) in (("batch", batch), ("patch_height", height))
        }
    )


TIGHT = profile((1, 2, 8), (16, 16, 16))
MERGED = profile((1, 2, 8), (24, 32, 32))
WIDE = profile((1, 2, 8), (1, 16, 64))


@pytest.mark.parametrize(
    ("batch", "height", "chosen"),
    [
        (2, 16, TIGHT),  # as near to the optimum of the wide one, which is wider
        (8, 16, TIGHT),
        (2, 32, MERGED),
        (2, 24, MERGED),  # nearer to 32 than to 16
        (2, 17, WIDE),
        (1, 64, WIDE),
    ],
)
def test_nearest_then_narrowest(batch: int, height: int, chosen: Profile) -> None:
    for profiles in ([TIGHT, MERGED, WIDE], [WIDE, TIGHT, MERGED]):
        found = select_profile(profiles, {"batch": batch, "patch_height": height, "more": 1})
        assert profiles[found] is chosen


def test_none_holds() -> None:
    with pytest.raises(InputError) as caught:
        select_profile([TIGHT, MERGED], {"batch": 9, "patch_height": 16, "more": 1})
    assert str(caught.value) == (
        "no profile of this engine holds batch 9, patch_height 16; it holds batch 1 … 8, patch_height 16; "
        "or batch 1 … 8, patch_height 24 … 32. Build an engine for these sizes"
    )
