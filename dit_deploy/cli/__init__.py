"""The command ``dit-deploy``: a thin layer over the Python API, one file a command.

Exit status: 0 done; 1 a check failed (``parity``, ``verify``); 2 bad input, or something that this machine lacks;
3 an error that is nobody's input: a defect of this package; 130 interrupted; 141 the reader of our output left.
"""

from dit_deploy.cli._main import main, run

__all__ = ["main", "run"]
