"""``python -m dit_deploy.runtimes.cpu_ops``: build the library and print its path."""

from __future__ import annotations

import sys

from dit_deploy.errors import BackendError
from dit_deploy.runtimes.cpu_ops.library import build

__all__ = ["main"]


def main() -> int:
    """Return the exit status: 0, or 2 with one line that says what is missing."""
    try:
        print(build())
    except BackendError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
