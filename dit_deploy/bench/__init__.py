"""Run a bundle and its source side by side and say which is faster, and by how much.

Nothing here imports PyTorch before it is asked for.
"""

from dit_deploy.bench.report import BenchReport
from dit_deploy.bench.run import bench
from dit_deploy.bench.timing import Timing

__all__ = ["BenchReport", "Timing", "bench"]
