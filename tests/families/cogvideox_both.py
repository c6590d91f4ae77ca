"""CogVideoX twice: diffusers' pipelines, and ours from one bundle of the same folder; for two files of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline

from tests.families import checks
from tests.families.cogvideox import make_cogvideox

__all__ = ["Case", "check_denoiser", "made"]


class Case(checks.Case):
    """A pipeline of one kind, of a text or of a picture too."""

    def compare(
        self, size: tuple[int, int, int], seed: int | list[int] = 7, theirs: Any = None, **arguments: Any
    ) -> None:
        """Draw a video of (frames, height, width) with both, and compare latents and frames.

        Args:
            theirs: another pipeline of diffusers than this case's, which takes its frames from a video.
            arguments: what both take, and ``vae_tile`` and ``scheduler``, which only ours does.
        """
        frames, height, width = size
        given = {"num_inference_steps": 4, "height": height, "width": width, **arguments}
        if "video" not in given:
            given["num_frames"] = frames
        ours = self.ours(**given, seed=seed, output_type="numpy")
        shared = {name: value for name, value in given.items() if name not in ("vae_tile", "scheduler")}
        if isinstance(shared.get("prompt"), list) and isinstance(shared.get("negative_prompt"), str):
            shared["negative_prompt"] = [shared["negative_prompt"]] * len(shared["prompt"])
        generator = [checks.seeded(one) for one in seed] if isinstance(seed, list) else checks.seeded(seed)
        latents, video = checks.draw(theirs or self.theirs, generator=generator, **shared)
        assert video.shape[1:] == (*size, 3) and latents.std() > 0.1
        checks.assert_drawn(ours, latents.swapaxes(1, 2), video, contrast=0.03)


def made(base: Path, kind: str) -> Case:
    """Save a random pipeline of ``kind`` in ``base``, and export it."""
    folder = make_cogvideox(base, kind)
    pipeline = CogVideoXImageToVideoPipeline if kind.endswith("image") else CogVideoXPipeline
    one = checks.exported(folder, pipeline, base / f"{folder.name}_bundle")
    return Case(one.folder, one.bundle, one.ours, one.theirs)


def check_denoiser(case: Case, sizes: tuple[int, ...], **fixed: int) -> None:
    """Hold the denoiser's file at (batch, frames, rows, columns), and ``fixed`` axes, against diffusers' transformer.

    5B's text may have any length, and has one of its own at each number of frames.
    """
    names = ("batch", "patch_frames", "patch_height", "patch_width", "sequence_length")
    free = dict(zip(names, (*sizes, 1 + 3 * sizes[1]), strict=True)) | fixed
    file, graph = case.bundle.component_path("denoiser"), checks.graph_of(case.folder, "denoiser")
    checks.check_graph(file, graph, names, [tuple(free.values())], seed=sum(sizes), spread=0.1)
