"""How far an engine may be from its source before parity fails: one row for each precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dit_deploy.errors import InputError

__all__ = ["LIMITS", "Limits", "limits_for"]


@dataclass(frozen=True)
class Limits:
    """The limits of one precision; a value beyond any of them fails.

    Example: ``LIMITS["fp32"].latents == 1e-3``.

    Attributes:
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        component: largest difference of a component's output, relative to the reference's largest value.
        latents: the same of the latents after any step of a whole generation.
        psnr: decibels, the least of any picture.
        picture: largest difference of any pixel, in units of 1/255.
        prediction: largest difference of a denoiser's prediction, relative to its largest value, that ``psnr`` stands
            for: what an engine is held against where a model's sampling multiplies errors more than the demo's.
    """

    precision: str
    component: float
    latents: float
    psnr: float
    picture: float
    prediction: float

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as JSON-able values."""
        return asdict(self)


#: Rounding is to nearest: half a unit in the last place, 2⁻²⁴ of a value in fp32, 2⁻¹¹ in fp16, 2⁻⁸ in bf16. What the
#: trained demo shows beside these limits (50 guided steps, 2026-11-25) stands in the benchmark page.
#:
#: A limit in decibels supposes how much sampling multiplies errors. That differs from model to model by tens of
#: decibels, so one limit for all would pass bad engines of calm models or fail good ones of restless ones.
#: ``prediction`` is the error that it stands for with the trained demo, a round number: its 50 steps at guidance 4 make
#: 47.2 dB of predictions that are off at random by 7e-3, 38.2 dB of 2e-2 and 32.2 dB of 4e-2 (Amplification.psnr,
#: 2026-11-27), some 2 dB more than the limits, so that nothing changes for a model that multiplies as much. Where
#: pictures miss the limit, :mod:`~dit_deploy.parity.amplification` measures what the bundle at hand makes of such an
#: error, and, where that misses it too, how far off the engine's components are. In fp32 a prediction is allowed no
#: more than any component.
_ROWS = (
    # fp32: same arithmetic in another order. Sums over some thousand products round to a few 1e-6 of the largest
    # value; a graph that is wrong is off by 1e-2 and more, so 1e-4 parts them with room on both sides. Guidance at 4
    # multiplies an error by up to 7 (4 + 3), and 50 steps add theirs up: 1e-3. One unit of an 8-bit picture
    # is the least that a file can show; 60 dB is a mean deviation of a quarter of it.
    Limits("fp32", component=1e-4, latents=1e-3, psnr=60.0, picture=1.0, prediction=1e-4),
    # fp16: 5e-4 for each rounding, adding up as a random walk over some hundred layers: a few 1e-3, so 1e-2. Guidance
    # and steps multiply as above: 5e-2. 45 dB is a mean deviation of 1.4/255, below what an eye tells apart side by
    # side; where an edge moves, single pixels reach ten times that.
    Limits("fp16", component=1e-2, latents=5e-2, psnr=45.0, picture=16.0, prediction=7e-3),
    # bf16: eight times fp16's rounding, so eight times its components' limit. In latents and pictures less than
    # eight times (18 dB): each step's rounding is fresh, and later steps pull small errors back towards a picture.
    Limits("bf16", component=8e-2, latents=2e-1, psnr=35.0, picture=48.0, prediction=2e-2),
    # int8: linear layers on 255 levels of a range that outliers stretch some tenfold: 4e-2 for each rounding to a
    # level. Pictures agree in content and composition, less in texture: 30 dB is 8/255, and an edge that
    # moves by a pixel changes that pixel by half the range.
    Limits("int8", component=1.5e-1, latents=5e-1, psnr=30.0, picture=128.0, prediction=4e-2),
    # fp8 (E4M3): three bits of mantissa, half a unit of them is 2⁻⁴ of each value, whatever its size: coarser than int8
    # near the largest, finer near zero. The same limits hold both to the same pictures.
    Limits("fp8", component=1.5e-1, latents=5e-1, psnr=30.0, picture=128.0, prediction=4e-2),
)

#: precision → its limits
LIMITS: dict[str, Limits] = {row.precision: row for row in _ROWS}


def limits_for(precision: str) -> Limits:
    """Return the limits of ``precision``; :class:`InputError` names those that there are."""
    if precision not in LIMITS:
        raise InputError(f"precision: {precision!r} came; limits are set for {', '.join(LIMITS)}")
    return LIMITS[precision]
