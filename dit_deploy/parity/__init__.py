"""A bundle and its source side by side: how far apart, within which limits, and where the first excess is.

Needs no torch itself; the reference that it is handed, :class:`dit_deploy.runtimes.torch.TorchReference`, does.
"""

from dit_deploy.parity.compare import parity
from dit_deploy.parity.html import write_report
from dit_deploy.parity.limits import LIMITS, Limits
from dit_deploy.parity.metrics import cosine, psnr, relative_error, ssim
from dit_deploy.parity.report import ComponentError, ParityReport, PictureError, Run

__all__ = [
    "LIMITS",
    "ComponentError",
    "Limits",
    "ParityReport",
    "PictureError",
    "Run",
    "cosine",
    "parity",
    "psnr",
    "relative_error",
    "ssim",
    "write_report",
]
