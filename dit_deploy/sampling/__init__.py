"""Noise, noise schedules, solver tables and guidance: numpy only."""

from dit_deploy.sampling.guidance import Guidance, SkipLayerGuidance
from dit_deploy.sampling.noise import NoiseSource, noise
from dit_deploy.sampling.schedulers import SCHEDULERS, image_to_image_begin, resolve_scheduler, solver_table
from dit_deploy.sampling.state import SolverState
from dit_deploy.sampling.table import BASIS, SolverTable

__all__ = [
    "BASIS",
    "SCHEDULERS",
    "Guidance",
    "NoiseSource",
    "SkipLayerGuidance",
    "SolverState",
    "SolverTable",
    "image_to_image_begin",
    "noise",
    "resolve_scheduler",
    "solver_table",
]
