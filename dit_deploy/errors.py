"""Every error that dit-deploy raises on purpose.

    DitDeployError
    ├── InputError       an argument of a call: what came, what was expected, how to mend it
    ├── BundleError      a bundle is missing, altered, newer than this package, or unsafe
    │   └── IntegrityError   a file of a bundle is not the one the manifest describes
    ├── SourceError      a checkpoint cannot be opened, or is not what it was said to be
    ├── ExportError      a graph could not be traced, or is not what was declared
    ├── BackendError     a backend is not installed, or refuses the graph
    │   └── NotFiniteError   what a backend computed holds NaN or infinite values
    └── Cancelled        a callback asked to stop

The command line prints the message of any of these on one line and exits with 2.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "Cancelled",
    "DitDeployError",
    "ExportError",
    "InputError",
    "IntegrityError",
    "NotFiniteError",
    "SourceError",
]


class DitDeployError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(DitDeployError, ValueError):
    """An argument is out of range, of the wrong type, or of the wrong shape."""


class BundleError(DitDeployError):
    """A bundle cannot be read or written."""


class IntegrityError(BundleError):
    """A file of a bundle has another size or SHA-256 than the manifest says, or is missing."""


class SourceError(DitDeployError):
    """A checkpoint cannot be opened."""


class ExportError(DitDeployError):
    """A graph could not be traced, or is not what was declared."""


class BackendError(DitDeployError):
    """A backend is missing or refuses a graph."""


class NotFiniteError(BackendError):
    """A component gave NaN or infinite values: no picture, and never a black one."""


class Cancelled(DitDeployError):
    """A callback returned ``False``: the run was stopped and has no result."""
