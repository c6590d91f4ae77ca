"""What ``dit-deploy parity`` finds of a whole bundle of videos that some test has exported anyway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dit_deploy import Bundle
from dit_deploy.parity import ParityReport, parity
from dit_deploy.runtimes.torch import TorchReference

__all__ = ["GIVEN", "PLAIN", "check_parity"]

#: Names of the two runs.
PLAIN, GIVEN = "generation", "generation from a picture"


def check_parity(
    folder: Path, bundle: Bundle, size: tuple[int, int, int], runs: dict[str, str], **arguments: Any
) -> ParityReport:
    """Hold a bundle against the folder that it was exported from, at (frames, height, width): two steps of two videos.

    Args:
        runs: which there shall be, and how what ran in PyTorch begins: a class of diffusers, or the loop.
    """
    sides = dict(zip(("num_frames", "height", "width"), size, strict=True))
    reference = TorchReference.open(folder)
    report = parity(bundle, reference, engine="onnx", num_inference_steps=2, threads=1, **sides, **arguments)
    assert report.first_excess is None
    assert {row.component for row in report.components} == set(bundle.manifest.components)
    assert [run.name for run in report.runs] == list(runs)
    decodes = "vae_decoder" in bundle.manifest.components
    for run, (name, ran) in zip(report.runs, runs.items(), strict=True):
        assert run.implementation.startswith(ran), (name, run.implementation)
        assert max(run.accumulated) < 1e-3
        assert [picture.largest < 1 for picture in run.pictures] == [True] * (len(run.pictures) if decodes else 0)
        assert len(run.pictures) == (2 if decodes else 0)
        assert bool(run.conditions) == (name == GIVEN)
        if run.images is not None:
            assert run.images.std() > 0.02, "there is something to see"
    return report
