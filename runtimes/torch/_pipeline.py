"""diffusers' own pipeline class, unmodified, asked for a drawing by the names of its arguments."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from dit_deploy.bundle import Component
from dit_deploy.exporters.modules import load_diffusers
from dit_deploy.exporters.source import Source
from dit_deploy.exporters.weights import read_json
from dit_deploy.runtimes.torch._request import Drawing, generators
from dit_deploy.text import one_line

__all__ = ["OwnPipeline", "Refused"]

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


#: Classes that make a video of a text alone → those of the same parts that make it of a picture besides.
_OF_PICTURES = {"LTXPipeline": "LTXImageToVideoPipeline", "WanPipeline": "WanImageToVideoPipeline"}
_OF_TEXT = {other: name for name, other in _OF_PICTURES.items()}


class Refused(Exception):
    """A class of diffusers does not take what its network can draw, such as sizes of fewer pixels than it rounds to."""


class OwnPipeline:
    """The pipeline that ``model_index.json`` in a folder names; it is loaded when it draws, and goes afterwards.

    Args:
        folder: which :meth:`open` found to be a pipeline's.
        kind: the class.
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

    def for_drawing(self, drawing: Drawing) -> OwnPipeline:
        """Return the pipeline of the same parts whose class makes videos of pictures, or of none, as it is asked."""
        others = _OF_TEXT if drawing.pictures is None else _OF_PICTURES
        return OwnPipeline(self.folder, getattr(diffusers, others.get(self.name, self.name)), self._options)

    def serves(self, source: Source, drawing: Drawing, solver: Any) -> bool:
        """Return whether the class draws what is asked for, as it is meant to be drawn."""
        latents = source.latents
        plain = (
            drawing.guidance_channels in (None, latents.channels)
            and drawing.guidance_interval == (0.0, 1.0)
            and drawing.guidance_rescale == drawing.eta == 0.0
            and drawing.noise is None
            and drawing.image is None
            and _decodes_alike(source, drawing)
        )
        if not plain or not self._reads(source, drawing):
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

    def _reads(self, source: Source, drawing: Drawing) -> bool:
        """Return whether the class takes the pictures of a drawing as they came, and as many."""
        if drawing.pictures is None:
            return True
        assert source.image_conditions is not None
        component = _component(source, source.image_conditions.component)
        assert component is not None
        # Where a posterior is drawn from, one by one for each sample; else one picture stands for all.
        count = drawing.batch if any(spec.name == "noise" for spec in component.inputs) else 1
        return bool(drawing.files) and all(
            name in self._accepted and len(pictures) == count for name, pictures in drawing.files.items()
        )

    def draw(self, source: Source, drawing: Drawing, solver: Any) -> Floats:
        """Return pictures [batch, height, width, 3], or videos [batch, frames, height, width, 3], in 0 … 1.

        Raises:
            Refused: the class's own check of its arguments lets them not pass.
        """
        pipeline = self._load()
        pipeline.scheduler = solver
        _refuse_by_name(pipeline)
        guidance = source.guidance
        knob = "true_cfg_scale" if guidance.kind == "classifier_free" else "guidance_scale"
        wanted: dict[str, Any] = {
            **self._options,
            **drawing.subjects,
            "true_cfg_scale": 1.0,  # beside a guidance that is embedded there is none, whatever the class's default
            (knob if knob in self._accepted else "guidance_scale"): drawing.guidance_scale,
            "num_inference_steps": drawing.num_inference_steps,
            "generator": generators(drawing.seed),
            "height": drawing.height,
            "width": drawing.width,
            "num_frames": drawing.num_frames,
            "video_length": drawing.num_frames,
            "frame_rate": source.latents.frame_rate,
            **{name: files[0] if len(files) == 1 else files for name, files in drawing.files.items()},
            "output_type": "np",
            # The bundle draws at the size that is asked for, from the text as it is.
            "use_resolution_binning": False,
            "clean_caption": False,
        }
        given = {name: value for name, value in wanted.items() if name in self._accepted and value is not None}
        with torch.no_grad(), _own_null_class(pipeline, source, drawing), _without_ftfy(self._kind):
            output = pipeline(**given)
        images: Floats = np.asarray(output.images if hasattr(output, "images") else output.frames, np.float32)
        return images

    def _load(self) -> Any:
        index = read_json(self.folder / "model_index.json")
        # What the folder was saved without has to be named; what looks at finished pictures is no part of drawing them.
        absent = [name for name, entry in index.items() if isinstance(entry, list) and entry[0] is None]
        left_out = dict.fromkeys([*absent, *(["safety_checker"] if "safety_checker" in index else [])])
        # What diffusers loads with the package accelerate only, for parts that it would keep in float32: all are here.
        loaded = {
            name: load_diffusers(getattr(diffusers, entry[1]), self.folder / name)
            for name, entry in index.items()
            if isinstance(entry, list)
            and entry[0] == "diffusers"
            and getattr(getattr(diffusers, entry[1]), "_keep_in_fp32_modules", None)
        }
        with _silent():
            pipeline = self._kind.from_pretrained(
                self.folder, dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True, **left_out, **loaded
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _component(source: Source, name: str) -> Component | None:
    return next((graph.component for graph in source.graphs if graph.name == name), None)


def _decodes_alike(source: Source, drawing: Drawing) -> bool:
    """Return whether there is a decoder, and all that a pipeline gives it follows from the seed.

    What the layers of some draw comes from torch's global generator (LTX-Video 0.9.1). Noise that is mixed into the
    latents has no part in the result unless it is asked for, but several generators cannot draw it.
    """
    decoder = _component(source, "vae_decoder")
    if decoder is None:
        return False
    names = {spec.name for spec in decoder.inputs}
    drawn = {name for name in names if name.startswith("noise")}
    return not drawn or (drawn == {"noise"} and "decode_noise_scale" in names and isinstance(drawing.seed, int))


def _refuse_by_name(pipeline: Any) -> None:
    """Let the check that a pipeline begins with, where it has one, raise :class:`Refused`."""
    check = getattr(pipeline, "check_inputs", None)
    if check is None:
        return

    @functools.wraps(check)
    def checked(*arguments: Any, **keywords: Any) -> None:
        try:
            check(*arguments, **keywords)
        except ValueError as error:
            raise Refused(one_line(error, 200)) from error

    pipeline.check_inputs = checked


@contextlib.contextmanager
def _without_ftfy(kind: type[Any]) -> Iterator[None]:
    """Let a class that mends prompts with ftfy, installed or not, leave them as they are where it is not.

    So do its sisters of the same family (``WanPipeline``).
    """
    module: Any = sys.modules[kind.__module__]
    if hasattr(module, "ftfy") or not hasattr(module, "is_ftfy_available"):
        yield
        return
    module.ftfy = SimpleNamespace(fix_text=lambda text: text)
    try:
        yield
    finally:
        del module.ftfy


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
