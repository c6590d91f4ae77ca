"""VAE encode → sampling loop → VAE decode, over any backend.

The pipeline knows latents and names, no model family: sizes, conditions, guidance and units come from the
bundle's manifest, the sampler from a table.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import Bundle, check_values
from dit_deploy.errors import Cancelled, InputError
from dit_deploy.runtimes.guided import GuidedDenoiser, check_finite
from dit_deploy.runtimes.images import ImageInput, nearest, read_images, to_pil
from dit_deploy.runtimes.runner import BindingPool, Runner
from dit_deploy.sampling import (
    Guidance,
    NoiseSource,
    SolverState,
    SolverTable,
    image_to_image_begin,
    resolve_scheduler,
    solver_table,
)

__all__ = ["Callback", "Output", "Pipeline"]

Floats = NDArray[np.float32]
#: Called after each step with its index, the step count, and the latents (read-only, valid during the call).
#: Returning ``False`` stops the run.
Callback = Callable[[int, int, Floats], bool | None]

#: Pictures are decoded in groups of at most this many pixels, which bounds the decoder's memory.
_PIXELS_A_DECODE = 1 << 20


@dataclass(frozen=True)
class Output:
    """What a run gives.

    Attributes:
        images: PIL images, or an array [batch, height, width, 3] in 0 … 1; empty for ``output_type="latent"``.
        latents: float32 [batch, channels, height, width], before decoding.
        seed: what ``seed`` was, or the random seed that was drawn where none was given.
        seconds: wall time of ``vae_encoder``, ``denoiser``, ``vae_decoder`` and ``total``.
    """

    images: list[Image.Image] | Floats
    latents: Floats
    seed: int | list[int]
    seconds: dict[str, float] = field(default_factory=dict)


class Pipeline:
    """Draws pictures from a bundle. One pipeline may be called from several threads at once.

    Args:
        bundle: an opened bundle.
        engine: ``"onnx"`` for the plain graphs, the name of a built engine, or ``"auto"`` for the best that
            this machine runs.
        threads: threads within an operator; ``None`` is one a core.
        runners: components to run instead of the bundle's own, by name (a reference, a test).

    Raises:
        InputError: there is no such engine.
        BundleError: the bundle is not whole.
        BackendError: the backend is not installed, or refuses a graph.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str = "auto",
        *,
        threads: int | None = None,
        runners: Mapping[str, Runner] | None = None,
    ) -> None:
        self.bundle = bundle
        self.engine = _choose_engine(bundle, engine)
        manifest = bundle.manifest
        self._pools: dict[str, BindingPool] = {}
        for name, component in manifest.components.items():
            if runners is not None and name in runners:
                runner = runners[name]
            else:
                from dit_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

                runner = OnnxRuntimeRunner(bundle.component_path(name), component, threads=threads)
            self._pools[name] = BindingPool(runner)
        self.pixel_multiple = manifest.latents.patch_size * manifest.latents.spatial_compression

    def __call__(
        self,
        *,
        class_labels: int | Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_channels: int | Literal["model"] | None = "model",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        guidance_batched: bool = True,
        seed: int | Sequence[int] | None = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: str | Mapping[str, Any] | None = None,
        eta: float = 0.0,
        noise: NDArray[np.floating] | None = None,
        image: ImageInput | None = None,
        strength: float | None = None,
        output_type: Literal["pil", "numpy", "latent"] = "pil",
        callback: Callback | None = None,
        progress: bool = False,
    ) -> Output:
        """Draw one picture a class label.

        Args:
            class_labels: class indices; the null class draws without a class.
            num_inference_steps: denoising steps, at least 1; the manifest's usual number by default.
            guidance_scale: classifier-free guidance (Ho & Salimans 2022), on above 1; the manifest's by default.
            guidance_channels: how many leading latent channels are guided; ``None``: all; ``"model"``: its own.
            guidance_interval: guide only in this part of the steps, as fractions (Kynkäänniemi et al. 2024).
            guidance_rescale: 0 … 1, pull the guided prediction back to its former deviation (Lin et al. 2023).
            guidance_batched: both halves in one call of the denoiser, or in two with half the memory.
            seed: one integer (picture i goes on with the generator's stream) or one a picture; random by default.
            height, width: pixels, multiples of :attr:`pixel_multiple`; the training size by default.
            scheduler: a diffusers scheduler's name or config; the bundle's own by default.
            eta: DDIM's stochasticity, 0 … 1.
            noise: float32 of the latents' shape, instead of the seed's first draw.
            image: one picture, or one for each label, to start from.
            strength: 0 … 1, how much of ``image`` is redrawn; 0.8 by default.
            output_type: ``"pil"``, ``"numpy"`` ([batch, height, width, 3] in 0 … 1) or ``"latent"``.
            callback: called after each step; returning ``False`` cancels.
            progress: show a progress bar.

        Raises:
            InputError: an argument is out of range, of the wrong type or shape.
            Cancelled: the callback returned ``False``.
            BackendError: the backend failed, or the latents are no longer finite.
        """
        started = time.perf_counter()
        manifest = self.bundle.manifest
        if output_type not in ("pil", "numpy", "latent"):
            raise InputError(f'output_type: {output_type!r} came, expected "pil", "numpy" or "latent"')
        if output_type != "latent" and "vae_decoder" not in self._pools:
            raise InputError('this bundle has no VAE decoder; ask for output_type="latent", or export with a VAE')
        conditions, batch = self._conditions(class_labels=class_labels)
        guidance = Guidance(
            scale=manifest.guidance.default_scale if guidance_scale is None else guidance_scale,
            channels=manifest.guidance.channels if guidance_channels == "model" else guidance_channels,
            interval=guidance_interval,
            rescale=guidance_rescale,
            batched=guidance_batched,
        )
        table, start_image = self._plan(num_inference_steps, scheduler, eta, image, strength, height, width)
        if start_image is not None:
            height, width = start_image.shape[2:]
            if len(start_image) not in (1, batch):
                raise InputError(f"image: {len(start_image)} pictures came, 1 or {batch} expected, as there are labels")
        shape = self._latents_shape(batch, height, width)
        seeds = _seeds(seed, batch)
        source = NoiseSource(seeds)
        seconds = dict.fromkeys(self._pools, 0.0)

        state = SolverState(table, shape)
        if start_image is not None:
            clean = self.encode(start_image, shape, source, seconds)
            signal, deviation = table.start
            state.reset(np.float32(signal) * clean + np.float32(deviation) * _first_noise(noise, shape, source))
        else:
            state.reset(np.float32(table.initial_noise_scale) * _first_noise(noise, shape, source))
        with _progress_bar(progress, table.num_steps) as advance_bar:
            seconds["denoiser"] = self._sample(state, conditions, guidance, source, callback, advance_bar)

        latents = state.sample.copy()
        images: list[Image.Image] | Floats = []
        if output_type != "latent":
            decoded = self._decode(latents, seconds)
            images = to_pil(decoded) if output_type == "pil" else decoded
        seconds["total"] = time.perf_counter() - started
        return Output(images=images, latents=latents, seed=seeds, seconds=seconds)

    def _conditions(self, **given: int | Sequence[int] | None) -> tuple[dict[str, NDArray[Any]], int]:
        """Return the denoiser's conditions as arrays [batch], checked against the manifest, and the batch size."""
        conditions: dict[str, NDArray[Any]] = {}
        for spec in self.bundle.component("denoiser").inputs:
            if spec.name in ("latents", "timestep"):
                continue
            value = given.get(spec.name)
            if value is None:
                raise InputError(f"{spec.name}: this bundle needs it, and none came")
            array = np.atleast_1d(np.asarray(value))
            if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
                raise InputError(f"{spec.name}: {value!r} came, expected an integer or a list of them")
            check_values(spec, array)
            conditions[spec.name] = array.astype(spec.dtype)
        return conditions, len(next(iter(conditions.values())))

    def _plan(
        self,
        num_inference_steps: int | None,
        scheduler: str | Mapping[str, Any] | None,
        eta: float,
        image: ImageInput | None,
        strength: float | None,
        height: int | None,
        width: int | None,
    ) -> tuple[SolverTable, Floats | None]:
        """Return the sampler's table and, for image-to-image, the pictures to start from."""
        manifest = self.bundle.manifest
        steps = manifest.scheduler.num_inference_steps if num_inference_steps is None else num_inference_steps
        config = resolve_scheduler(self.bundle.scheduler_config(), scheduler)
        if image is None:
            if strength is not None:
                raise InputError(f"strength: {strength} came without an image; give image= too, or leave strength out")
            table, pictures = solver_table(config, steps, eta=eta), None
        else:
            if "vae_encoder" not in self._pools:
                raise InputError("image: this bundle has no VAE encoder; export with a VAE")
            begin = image_to_image_begin(steps, 0.8 if strength is None else strength)
            table = solver_table(config, steps, eta=eta, begin=begin)
            channels = self.bundle.component("vae_encoder").input("images").axes[1]
            assert isinstance(channels, int)
            pictures = read_images(image, multiple=self.pixel_multiple, channels=channels, height=height, width=width)
        if table.needs_variance and not manifest.prediction.learned_range_variance:
            raise InputError("scheduler: variance_type learned_range needs a model that learns one; use fixed_small")
        return table, pictures

    def _latents_shape(self, batch: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        latents, multiple = self.bundle.manifest.latents, self.pixel_multiple
        sizes = []
        for name, size, default in (("height", height, latents.height), ("width", width, latents.width)):
            pixels = default * latents.spatial_compression if size is None else size
            if isinstance(pixels, bool) or not isinstance(pixels, (int, np.integer)) or pixels < 1 or pixels % multiple:
                hint = f"; the nearest is {nearest(pixels, multiple)}" if isinstance(pixels, (int, np.integer)) else ""
                raise InputError(f"{name}: {pixels} came, expected a multiple of {multiple} pixels{hint}")
            sizes.append(int(pixels) // latents.spatial_compression)
        return batch, latents.channels, sizes[0], sizes[1]

    def _sample(
        self,
        state: SolverState,
        conditions: Mapping[str, NDArray[Any]],
        guidance: Guidance,
        source: NoiseSource,
        callback: Callback | None,
        advance_bar: Callable[[], None],
    ) -> float:
        """Run the sampling loop on ``state`` and return the seconds spent in the denoiser."""
        manifest, table, noise = self.bundle.manifest, state.table, None
        with GuidedDenoiser(
            self._pools["denoiser"],
            conditions,
            manifest.guidance.unconditional,
            guidance,
            state.shape,
            manifest.latents.patch_size,
        ) as denoiser:
            for row in range(len(table)):
                prediction, variance = denoiser(state, row)
                for _ in range(table.noise_draws[row]):
                    noise = source.draw(state.shape)
                sample = state.advance(row, prediction, variance if table.needs_variance else None, noise)
                step = int(table.step[row])
                if row + 1 < len(table) and table.step[row + 1] == step:
                    continue
                check_finite(sample, step, table.num_steps)
                advance_bar()
                if callback is not None:
                    view = sample.view()
                    view.flags.writeable = False
                    if callback(step, table.num_steps, view) is False:
                        raise Cancelled(f"the callback cancelled after step {step + 1} of {table.num_steps}")
            return denoiser.seconds

    def pool(self, component: str) -> BindingPool:
        """Return the bindings of a component; :class:`BundleError` where the bundle has none of that name."""
        self.bundle.component(component)
        return self._pools[component]

    def encode(self, images: Floats, shape: tuple[int, ...], source: NoiseSource, seconds: dict[str, float]) -> Floats:
        """Return latents [batch, …] drawn from the posterior of ``images`` [batch or 1, channels, height, width]."""
        with self._pools["vae_encoder"].borrow(
            batch=len(images), latent_height=shape[2], latent_width=shape[3]
        ) as binding:
            binding.inputs["images"][:] = images
            started = time.perf_counter()
            binding.run()
            seconds["vae_encoder"] = time.perf_counter() - started
            mean = np.broadcast_to(binding.outputs["mean"], shape)
            if "std" not in binding.outputs:
                return mean.copy()
            return mean + binding.outputs["std"] * source.draw(shape)

    def _decode(self, latents: Floats, seconds: dict[str, float]) -> Floats:
        """Return pictures [batch, height, width, channels] in 0 … 1."""
        batch, _, height, width = latents.shape
        group = max(1, _PIXELS_A_DECODE // (height * width * self.bundle.manifest.latents.spatial_compression**2))
        pictures = []
        for first in range(0, batch, group):
            part = latents[first : first + group]
            with self._pools["vae_decoder"].borrow(
                batch=len(part), latent_height=height, latent_width=width
            ) as binding:
                binding.inputs["latents"][:] = part
                started = time.perf_counter()
                binding.run()
                seconds["vae_decoder"] += time.perf_counter() - started
                pictures.append(binding.outputs["images"].transpose(0, 2, 3, 1).copy())
        return np.concatenate(pictures)


def _choose_engine(bundle: Bundle, engine: str) -> str:
    """Return the engine that ``engine`` means in this bundle: for now the plain graphs are the only one there is."""
    if engine in ("auto", "onnx"):
        return "onnx"
    raise InputError(f"engine: {engine!r} came; this bundle has {', '.join(['onnx', *bundle.engine_names()])}")


def _seeds(seed: int | Sequence[int] | None, batch: int) -> int | list[int]:
    if seed is None:
        return secrets.randbits(32)
    if isinstance(seed, (int, np.integer)):
        return int(seed)
    if len(seed) != batch:
        raise InputError(f"seed: {len(seed)} seeds came for {batch} pictures; give one, or one for each")
    return [int(one) for one in seed]


def _first_noise(noise: NDArray[np.floating] | None, shape: tuple[int, ...], source: NoiseSource) -> Floats:
    if noise is None:
        return source.draw(shape)
    if not isinstance(noise, np.ndarray) or noise.dtype != np.float32 or noise.shape != shape:
        came = f"{noise.dtype}{list(noise.shape)}" if isinstance(noise, np.ndarray) else type(noise).__name__
        raise InputError(f"noise: {came} came, expected a float32 array of the latents' shape {list(shape)}")
    if not np.isfinite(noise).all():
        raise InputError("noise: holds NaN or infinite values, expected finite ones")
    return noise


@contextmanager
def _progress_bar(show: bool, steps: int) -> Iterator[Callable[[], None]]:
    """Yield what to call after each step."""
    if not show:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("denoising", total=steps)
        yield lambda: bar.advance(task)
