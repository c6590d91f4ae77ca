"""Better no picture than a black one: what a backend computed must be finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.errors import NotFiniteError

__all__ = ["check_finite"]


def check_finite(array: NDArray[Any], what: str, when: str = "") -> None:
    """Raise :class:`NotFiniteError` ``{what} NaN or infinite values{when}; …`` where a value is not finite."""
    # The sum allocates nothing; only where it is not finite is each value looked at, as it may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = not np.isfinite(array.sum())
    if suspect and not np.isfinite(array).all():
        raise NotFiniteError(
            f"{what} NaN or infinite values{when}; a precision too small for this model is the usual cause: "
            "use a wider one, or run `dit-deploy parity` to see where it begins"
        )
