"""Reading a diffusers scheduler config: every option known, typed, and refused by name where unsupported."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from dit_deploy.errors import InputError
from dit_deploy.text import one_line

__all__ = ["BETAS", "DYNAMIC_THRESHOLDING", "Options", "Request"]

#: diffusers' defaults of the options that describe a discrete noise schedule.
BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
}
#: Dynamic thresholding (Saharia et al. 2022) needs a quantile of each sample: no linear solver step.
DYNAMIC_THRESHOLDING: dict[str, Any] = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}


@dataclass(frozen=True)
class Request:
    """What one generation asks of a solver, apart from the config.

    Args:
        num_inference_steps: of the whole schedule, before ``begin`` is cut off.
        begin: inference steps left out at the start (image-to-image).
        sigmas: own noise levels for flow matching, from high to low, without the final 0; None: the scheduler's.
        mu: the shift of dynamic shifting.
        eta: of DDIM, 0 … 1.
    """

    num_inference_steps: int
    begin: int = 0
    sigmas: tuple[float, ...] | None = None
    mu: float | None = None
    eta: float = 0.0


class Options:
    """The options of one scheduler: the config's values over diffusers' defaults.

    Args:
        scheduler: the class's name, for messages.
        defaults: option → default; the options that the class has.
        config: a diffusers config; keys that begin with ``_`` are not options.
        carried: options of other classes that diffusers carries along in a config and does not use here.

    Raises:
        InputError: an option that is neither of the class nor carried.
    """

    def __init__(
        self, scheduler: str, defaults: Mapping[str, Any], config: Mapping[str, Any], carried: Collection[str] = ()
    ) -> None:
        self.scheduler = scheduler
        given = {name: value for name, value in config.items() if not name.startswith("_")}
        unknown = [name for name in given if name not in defaults and name not in carried]
        if unknown:
            raise InputError(
                f"{scheduler}: unknown option {unknown[0]}={given[unknown[0]]!r}; it has {', '.join(sorted(defaults))}"
            )
        self._values = {**defaults, **{name: value for name, value in given.items() if name in defaults}}
        if self._values.get("thresholding"):
            self.refuse("thresholding", "dynamic thresholding is not linear; set it to False, or use clip_sample")

    def refuse(self, name: str, supported: str) -> NoReturn:
        """Raise the InputError that names an option, its value and what is supported."""
        value = one_line(repr(self._values[name]), 120)
        raise InputError(f"{self.scheduler}: {name}={value} is not supported: {supported}")

    def get(self, name: str) -> Any:
        """Return an option as it stands in the config."""
        return self._values[name]

    def has(self, name: str) -> bool:
        """Return whether the class has the option."""
        return name in self._values

    def flag(self, name: str) -> bool:
        """Return a boolean option; None counts as False, as in diffusers."""
        value = self._values[name]
        if value is not None and not isinstance(value, bool):
            self.refuse(name, "true or false")
        return bool(value)

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a number in low … high."""
        value = self._values[name]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.refuse(name, f"a number of {low:g} to {high:g}")
        return float(value)

    def optional_number(self, name: str, low: float = -math.inf) -> float | None:
        """Return a number of ``low`` or more, or None."""
        return None if self._values[name] is None else self.number(name, low)

    def integer(self, name: str, low: int, high: int | None = None) -> int:
        """Return an integer in low … high."""
        value = self._values[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
            self.refuse(name, f"an integer of {low} or more" if high is None else f"an integer of {low} to {high}")
        return int(value)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return one of ``choices``."""
        value = self._values[name]
        if value not in choices:
            self.refuse(name, f"one of {', '.join(choices)}")
        return str(value)

    def exclusive(self, names: Sequence[str]) -> str | None:
        """Return the one flag of ``names`` that is set, or None; two at once are an error, as in diffusers."""
        chosen = [name for name in names if self.has(name) and self.flag(name)]
        if len(chosen) > 1:
            self.refuse(chosen[1], f"only one of {', '.join(chosen)} can be set")
        return chosen[0] if chosen else None
