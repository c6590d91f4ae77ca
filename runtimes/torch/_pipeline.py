"""diffusers' own pipeline class, unmodified, asked for a drawing by the names of its arguments."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from dit_deploy.exporters.source import Source
from dit_deploy.exporters.weights import read_json
from dit_deploy.runtimes.torch._request import Drawing, generators

__all__ = ["OwnPipeline"]

Floats = NDArray[np.float32]

#: Schedulers that draw no noise of their own, for pipelines that hand their scheduler no generator.
_DETERMINISTIC = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


class OwnPipeline:
    """The pipeline that ``model_index.json`` in a folder names; it is loaded when it draws, and goes afterwards.

    Args:
        folder: which :meth:`open` found to be a pipeline's.
        options: arguments that its checkpoint was opened with; those that are ``None`` are the class's own.
    """

    def __init__(self, folder: Path, kind: type[Any], options: Mapping[str, Any]) -> None:
        self.folder, self._kind, self._options = folder, kind, options
        self._accepted = inspect.signature(kind.__call__).parameters

    @classmethod
    def open(cls, folder: Path, options: Mapping[str, Any]) -> OwnPipeline | None:
        """Return the pipeline of ``folder``; ``None`` where it is none, or of a class that diffusers does not have."""
        if not (folder / "model_index.json").is_file():
            return None
        kind = getattr(diffusers, str(read_json(folder / "model_index.json").get("_class_name")), None)
        return None if kind is None else cls(folder, kind, options)

    @property
    def name(self) -> str:
        """Of the class."""
        return self._kind.__name__

    def serves(self, source: Source, drawing: Drawing, solver: Any) -> bool:
        """Return whether the class draws what is asked for, as it is meant to be drawn."""
        latents = source.latents
        plain = (
            drawing.guidance_channels in (None, latents.channels)
            and drawing.guidance_interval == (0.0, 1.0)
            and drawing.guidance_rescale == drawing.eta == 0.0
            and drawing.noise is None
            and drawing.image is None
            and any(graph.name == "vae_decoder" for graph in source.graphs)
        )
        if not plain:
            return False
        if hasattr(self._kind, "prepare_extra_step_kwargs"):
            return True
        # Such classes give their scheduler neither a generator nor the first noise its deviation.
        if type(solver).__name__ not in _DETERMINISTIC or str(solver.config.get("algorithm_type")).startswith("sde"):
            return False
        if "height" in self._accepted:
            return True
        # DiTPipeline draws at one size, and decodes as if no autoencoder had a shift.
        size = tuple(side * latents.spatial_compression for side in (latents.height, latents.width))
        solver.set_timesteps(drawing.num_inference_steps)
        return (drawing.height, drawing.width) == size and not latents.shift_factor and solver.init_noise_sigma == 1.0

    def draw(self, source: Source, drawing: Drawing, solver: Any) -> Floats:
        """Return pictures [batch, height, width, 3], or videos [batch, frames, height, width, 3], in 0 … 1."""
        pipeline = self._load()
        pipeline.scheduler = solver
        guidance = source.guidance
        knob = "true_cfg_scale" if guidance.kind == "classifier_free" else "guidance_scale"
        wanted: dict[str, Any] = {
            **self._options,
            **drawing.subjects,
            (knob if knob in self._accepted else "guidance_scale"): drawing.guidance_scale,
            "num_inference_steps": drawing.num_inference_steps,
            "generator": generators(drawing.seed),
            "height": drawing.height,
            "width": drawing.width,
            "num_frames": drawing.num_frames,
            "video_length": drawing.num_frames,
            "frame_rate": source.latents.frame_rate,
            "output_type": "np",
            # The bundle draws at the size that is asked for, from the text as it is.
            "use_resolution_binning": False,
            "clean_caption": False,
        }
        given = {name: value for name, value in wanted.items() if name in self._accepted and value is not None}
        with torch.no_grad(), _own_null_class(pipeline, source, drawing):
            output = pipeline(**given)
        images: Floats = np.asarray(output.images if hasattr(output, "images") else output.frames, np.float32)
        return images

    def _load(self) -> Any:
        index = read_json(self.folder / "model_index.json")
        # What the folder was saved without has to be named; what looks at finished pictures is no part of drawing them.
        absent = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is None]
        left_out = dict.fromkeys([*absent, *(["safety_checker"] if "safety_checker" in index else [])])
        with _silent():
            pipeline = self._kind.from_pretrained(
                self.folder, dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True, **left_out
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Leave out the bars that both libraries draw while they load, and what they remark on a folder that is whole."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    barred = [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in barred:
            library.enable_progress_bar()


@contextlib.contextmanager
def _own_null_class(pipeline: Any, source: Source, drawing: Drawing) -> Iterator[None]:
    """Mend what ``DiTPipeline`` writes into the unguided half: 1000, ImageNet's null class, whatever the model's is."""
    null = source.guidance.unconditional.get("class_labels")
    if "class_labels" not in drawing.subjects or null is None:
        yield
        return

    def own(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = kwargs["class_labels"].clone()
        given[drawing.batch :] = null
        return args, {**kwargs, "class_labels": given}

    hook = pipeline.transformer.register_forward_pre_hook(own, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
