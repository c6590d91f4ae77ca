"""A checkpoint of any family in PyTorch: its networks one by one, and whole drawings step by step."""

from __future__ import annotations

import functools
import platform
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from dit_deploy.bundle import Bundle
from dit_deploy.errors import InputError
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.sources import open_source
from dit_deploy.exporters.tracing import call
from dit_deploy.runtimes.arguments import latents_shape
from dit_deploy.runtimes.autoencoder import Compression, decode, decoder_inputs, pieces_of
from dit_deploy.runtimes.conditions import Conditions, Texts, read_conditions, read_texts
from dit_deploy.runtimes.frames import latent_frames, pixel_frames
from dit_deploy.runtimes.image_conditions import ImageConditioner
from dit_deploy.runtimes.images import ImageInput
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.runtimes.runner import BindingPool
from dit_deploy.runtimes.torch._described import described
from dit_deploy.runtimes.torch._loop import diffusers_scheduler, run_loop
from dit_deploy.runtimes.torch._pictures import given_pictures, picture_files, to_start_from
from dit_deploy.runtimes.torch._pipeline import OwnPipeline, Refused
from dit_deploy.runtimes.torch._recorder import Evaluation, Progress, Recorder
from dit_deploy.runtimes.torch._request import Drawing, TorchNoise, arranged, draw_noise
from dit_deploy.runtimes.torch._runner import TorchRunner
from dit_deploy.sampling import NoiseSource, resolve_scheduler

__all__ = ["Sampled", "TorchReference"]

Array = NDArray[Any]
Floats = NDArray[np.float32]

_LOOP = "the loop of diffusers' pipelines, with its scheduler"
#: How far a pipeline's first latents may be from the noise of the seed, as a part of its largest value: rounding.
_SAME_NOISE = 1e-5


@dataclass(frozen=True)
class Sampled:
    """What :meth:`TorchReference.sample` gives.

    Attributes:
        evaluations: in order; schedulers of the second order have two for a step.
        latents: float32 [batch, channels, …, height, width], before decoding.
        images: float32 [batch, height, width, 3] in 0 … 1, of a video [batch, frames, height, width, 3]; ``None`` where
            the source has no VAE.
        implementation: what ran, in words.
        conditions: what the networks of the source make of given pictures, by name, [batch, …].
    """

    evaluations: list[Evaluation]
    latents: Floats
    images: Floats | None
    implementation: str
    conditions: Mapping[str, Array] = field(default_factory=dict)


class TorchReference:
    """The source of a bundle in PyTorch, in float32 on the CPU. Networks are loaded when they are first needed.

    Args:
        source: an opened checkpoint, or a network of one's own as the exporter takes it.
        pipeline: diffusers' own pipeline of the same checkpoint, where there is one.

    Attributes:
        networks: what runs, by component; a network may be replaced, as by one that was compiled.
    """

    def __init__(self, source: Source, pipeline: OwnPipeline | None = None) -> None:
        self.source, self.pipeline = source, pipeline
        self.networks: dict[str, Callable[..., Any]] = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        arch: str | None = None,
        image_size: int | None = None,
        vae: str | Path | None = None,
        **options: int | None,
    ) -> Self:
        """Open a checkpoint as it was exported; see :func:`~dit_deploy.exporters.sources.open_source`."""
        source = open_source(path, arch=arch, image_size=image_size, vae=vae, **options)
        return cls(source, OwnPipeline.open(Path(path), options) if vae is None else None)

    @property
    def kind(self) -> str:
        """Of the source: ``diffusers_pipeline``, ``original_dit`` and so on."""
        return self.source.kind

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the bytes of the denoiser's weights, as a bundle records it."""
        return self.source.sha256()

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what runs here."""
        return {
            "torch": str(torch.__version__),
            "diffusers": str(diffusers.__version__),
            "python": platform.python_version(),
        }

    def graph(self, component: str) -> Graph:
        """Return the graph of a component; :class:`InputError` names those that there are."""
        graphs = {graph.name: graph for graph in self.source.graphs}
        if component not in graphs:
            raise InputError(f"component: {component!r} came; the reference has {', '.join(graphs)}")
        return graphs[component]

    def network(self, component: str) -> Callable[..., Any]:
        """Return the network that the graph of ``component`` is held against: diffusers' own where there is one."""
        if component not in self.networks:
            graph = self.graph(component)
            self.networks[component] = (graph.reference or graph.build)().eval().requires_grad_(False)
        return self.networks[component]

    def run(self, component: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate a component on named inputs, as a bundle's would be; shapes and units are the declaration's."""
        declared = self.graph(component).component
        given = {spec.name: np.ascontiguousarray(feeds[spec.name]) for spec in declared.inputs}
        outputs = call(self.network(component), given)
        return dict(zip((spec.name for spec in declared.outputs), outputs, strict=True))

    def sample(
        self,
        class_labels: Sequence[int] | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_channels: int | Literal["model"] | None = "model",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        seed: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        scheduler: str | Mapping[str, Any] | None = None,
        eta: float = 0.0,
        noise: Floats | None = None,
        image: ImageInput | None = None,
        last_image: ImageInput | None = None,
        strength: float = 0.8,
        own_loop: bool = False,
        progress: Progress | None = None,
    ) -> Sampled:
        """Draw one picture a label or prompt, as :meth:`dit_deploy.Pipeline.__call__` does and with its arguments.

        Args:
            image, last_image: pictures that a video shall contain; or to start from an ``image``, float32 [batch or 1,
                height, width, channels] in 0 … 1.
            own_loop: run the loop written here even where diffusers' pipeline could serve.

        Raises:
            InputError: the source has no encoder for ``image`` or ``prompt``, or diffusers has no such scheduler.
        """
        source, manifest = self.source, self._described.manifest
        conditioner = None if manifest.image_conditions is None else ImageConditioner(manifest, self._pool)
        texts = read_texts(manifest, prompt, negative_prompt, 1, ((prompt_2, None), (prompt_3, None)))
        subjects: dict[str, list[Any]] = {}
        if texts is not None:
            subjects["prompt"] = list(texts.prompts)
            subjects |= {f"prompt_{place + 1}": list(other) for place, other in texts.others.items()}
            if negative_prompt is not None and texts.negatives is not None:
                subjects["negative_prompt"] = list(texts.negatives)
        if class_labels is not None:
            subjects["class_labels"] = list(class_labels)
        batch = len(next(iter(subjects.values()))) if subjects else 1
        frames = latent_frames(manifest, num_frames)
        shape = latents_shape(source.latents, batch, height, width, frames)
        compression = source.latents.spatial_compression
        rows, columns = (side * compression for side in shape[-2:])
        drawing = Drawing(
            subjects=subjects,
            num_inference_steps=(
                source.scheduler.num_inference_steps if num_inference_steps is None else num_inference_steps
            ),
            guidance_scale=source.guidance.default_scale if guidance_scale is None else guidance_scale,
            guidance_channels=source.guidance.channels if guidance_channels == "model" else guidance_channels,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            seed=seed,
            shape=shape,
            height=rows,
            width=columns,
            num_frames=None if frames is None else pixel_frames(manifest, frames),
            eta=eta,
            noise=noise,
            image=to_start_from(image) if conditioner is None else None,
            strength=strength,
            pictures=given_pictures(manifest, image, last_image, batch=batch, height=rows, width=columns),
            files={} if conditioner is None else picture_files(image=image, last_image=last_image),
        )
        noise_source = TorchNoise(seed)
        made = {} if conditioner is None else self._conditions_of_pictures(conditioner, drawing, noise_source)
        config = resolve_scheduler(source.scheduler_config, scheduler)
        images, implementation = None, _LOOP
        if not own_loop and self.pipeline is not None:
            solver, own = diffusers_scheduler(config), self.pipeline.for_drawing(drawing)
            if own.serves(source, drawing, solver):
                recorder = self._recorder(solver, drawing, progress)
                try:
                    images = own.draw(source, drawing, solver)
                except Refused as reason:
                    implementation = f"{_LOOP}; its {own.name} refuses: {reason}"
                else:
                    implementation = f"{_LOOP}; its {own.name} drew the pictures"
                    if self._in_layout(recorder.evaluations, drawing, solver, noise_source.copy()):
                        latents = _kept(conditioner, recorder.evaluations, made)
                        return Sampled(recorder.evaluations, latents, images, f"diffusers {own.name}", made)
        solver = diffusers_scheduler(config)
        recorder = self._recorder(solver, drawing, progress)
        conditions, scale = self._conditions(drawing, texts, made)
        with torch.no_grad():
            run_loop(source, drawing, conditions, scale, solver, self.run, noise_source.generator)
        latents = _kept(conditioner, recorder.evaluations, made)
        if images is None and any(graph.name == "vae_decoder" for graph in source.graphs):
            images = self._decode(latents, noise_source)
        return Sampled(recorder.evaluations, latents, images, implementation, made)

    def _recorder(self, solver: Any, drawing: Drawing, progress: Progress | None) -> Recorder:
        latents = self.source.latents
        return Recorder(
            solver, drawing.batch, latents.channels, progress, functools.partial(_arranged, latents, drawing.shape)
        )

    def _in_layout(self, evaluations: Sequence[Evaluation], drawing: Drawing, solver: Any, generator: Any) -> bool:
        """Return whether a pipeline's steps are on latents in the bundle's layout: its first are the seed's noise.

        ``generator`` is where the draws for given pictures have left it.
        """
        found = evaluations[0].sample
        if found.shape != drawing.shape:
            return False
        noise = draw_noise(self.source.latents, drawing.shape, generator)
        expected = arranged(self.source.latents, noise).numpy() * float(getattr(solver, "init_noise_sigma", 1.0))
        return bool(np.abs(found - expected).max() <= _SAME_NOISE * np.abs(expected).max())

    def _decode(self, latents: Floats, source: NoiseSource) -> Floats:
        """Return the pictures of latents, [batch, [frames,] height, width, channels] in 0 … 1."""
        manifest, decoder = self._described.manifest, self._pool("vae_decoder")
        inputs = decoder_inputs(decoder.runner.component, latents.shape, source)
        pieces = pieces_of(None, manifest)  # such as the family always has
        return decode(decoder, latents, Compression.of(manifest), pieces, None, inputs)[0]

    def _conditions_of_pictures(
        self, conditioner: ImageConditioner, drawing: Drawing, source: NoiseSource
    ) -> dict[str, Array]:
        """Return the denoiser's conditions by the networks that read pictures; zeros where none is given."""
        frames = pixel_frames(self._described.manifest, drawing.shape[2])
        return conditioner(drawing.pictures, drawing.batch, frames, drawing.height, drawing.width, source)

    def _conditions(self, drawing: Drawing, texts: Texts | None, made: Mapping[str, Array]) -> tuple[Conditions, float]:
        """Return the denoiser's conditions by the reference's own encoders, and the scale of true guidance.

        ``made`` are those of pictures.
        """
        guidance, manifest = self.source.guidance, self._described.manifest
        scale = drawing.guidance_scale + guidance.scale_offset if guidance.kind == "classifier_free" else 1.0
        if texts is not None and texts.negatives is None:
            scale = 1.0  # such a family guides towards a negative prompt only
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a prompt is cut, which the engine's side says
            conditions = read_conditions(
                manifest,
                class_labels=drawing.subjects.get("class_labels"),
                texts=texts,
                encode=self._prompts,
                scale=drawing.guidance_scale,
                guided=scale > 1.0,
                frame_rate=self.source.latents.frame_rate,
                later=made,
            )
        return conditions.joined(made), scale

    @cached_property
    def _described(self) -> Bundle:
        self._folder = tempfile.TemporaryDirectory(prefix="dit-deploy-reference-")
        return described(self.source, Path(self._folder.name))

    @cached_property
    def _prompts(self) -> PromptReader | None:
        return None if self.source.prompts is None else PromptReader(self._described, self._pool)

    def _pool(self, name: str) -> BindingPool:
        # What runs here has no buffers worth keeping.
        return BindingPool(TorchRunner(self, name, self.graph(name).component), capacity=0)


def _kept(conditioner: ImageConditioner | None, evaluations: Sequence[Evaluation], made: Mapping[str, Array]) -> Floats:
    """Return the latents after the last step, with what is known of them from pictures in its place."""
    latents = evaluations[-1].next_sample
    if conditioner is None:
        return latents
    latents = latents.copy()
    conditioner.keep(latents, made)
    return latents


def _arranged(latents: Any, shape: tuple[int, ...], tensor: torch.Tensor) -> torch.Tensor:
    """Bring what passes a scheduler into the bundle's order of axes; what is packed stays as it is."""
    return arranged(latents, tensor) if tensor.ndim == len(shape) else tensor
