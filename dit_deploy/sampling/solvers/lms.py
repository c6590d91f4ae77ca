"""Linear multistep of order 4 over sigma (Adams-Bashforth with uneven steps, as in k-diffusion)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dit_deploy.sampling.conversion import derivative_from
from dit_deploy.sampling.edm import edm_levels
from dit_deploy.sampling.options import BETAS, Options, Request
from dit_deploy.sampling.rows import Combination, Row, Rows
from dit_deploy.sampling.sigmas import SIGMA_SPACINGS
from dit_deploy.sampling.table import SolverTable

__all__ = ["OPTIONS", "build"]

OPTIONS = {
    **BETAS,
    **SIGMA_SPACINGS,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
_ORDER = 4
#: the points of the two-point rule on 0 … 1, equally weighted
_POINTS = np.array([0.5 - np.sqrt(1 / 12), 0.5 + np.sqrt(1 / 12)])


def build(options: Options, request: Request) -> SolverTable:
    """Return the table of diffusers' ``LMSDiscreteScheduler``.

    Image-to-image starts over with order 1. Diffusers instead takes the first coefficient of order 4 alone there,
    a step of about twice the length.
    """
    prediction_type = options.choice("prediction_type", ("epsilon", "sample", "v_prediction"))
    levels = edm_levels(options, request)
    rows = Rows()
    for index in range(request.begin, len(levels)):
        order = min(_ORDER, index - request.begin + 1)
        nodes = [levels.sigmas[index - k] for k in range(order)]
        rows.add(
            Row(
                timestep=levels.timesteps[index],
                step=index - request.begin,
                input_scale=levels.input_scale(index),
                output=derivative_from(prediction_type, levels.sigmas[index]),
                sample=Combination(sample=1.0, outputs=_weights(nodes, levels.sigmas[index + 1])),
            )
        )
    return rows.table(start=(1.0, levels.sigmas[request.begin]), initial_noise_scale=levels.initial_noise_scale)


def _weights(nodes: Sequence[float], end: float) -> list[float]:
    """Integrate each Lagrange polynomial of ``nodes`` from the first node to ``end``.

    Gauss's rule with two points is exact for their degree, which is at most three.
    """
    length = end - nodes[0]
    weights = []
    for k, node in enumerate(nodes):
        others = np.array([other for j, other in enumerate(nodes) if j != k])
        points = nodes[0] + length * _POINTS
        values = np.prod((points[:, None] - others) / (node - others), axis=1)
        weights.append(length * float(values.mean()))
    return weights
