"""What the activations of a bundle's graphs hold while it draws pictures, and the scales that follow from it."""

from dit_deploy.exporters.calibration.observers import Histogram, scale_of
from dit_deploy.exporters.calibration.statistics import Statistics, gather
from dit_deploy.exporters.calibration.store import Calibration, calibrate, read_calibration
from dit_deploy.exporters.calibration.trajectories import (
    Kept,
    Settings,
    Trajectories,
    decode_latents,
    plan,
    sample_trajectories,
)

__all__ = [
    "Calibration",
    "Histogram",
    "Kept",
    "Settings",
    "Statistics",
    "Trajectories",
    "calibrate",
    "decode_latents",
    "gather",
    "plan",
    "read_calibration",
    "sample_trajectories",
    "scale_of",
]
