"""VAE encode → sampling loop → VAE decode, over any backend.

The pipeline knows latents and names, no model family: sizes, conditions, guidance and units come from the
bundle's manifest, the sampler from a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import Bundle
from dit_deploy.errors import Cancelled, InputError
from dit_deploy.runtimes.arguments import check_limits, check_sizes, first_noise, latents_shape, read_seed, shown
from dit_deploy.runtimes.autoencoder import decode, encode, tile_of
from dit_deploy.runtimes.components import Components, choose_engine
from dit_deploy.runtimes.conditions import Conditions, read_conditions, read_texts
from dit_deploy.runtimes.device_loop import device_of
from dit_deploy.runtimes.images import ImageInput, read_images, to_pil
from dit_deploy.runtimes.plan import Plan, plan_steps
from dit_deploy.runtimes.progress import progress_bar
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.runtimes.runner import BindingPool, Runner
from dit_deploy.runtimes.steps import open_steps
from dit_deploy.sampling import Guidance, NoiseSource, SkipLayerGuidance

__all__ = ["Callback", "Output", "Pipeline"]

Floats = NDArray[np.float32]
#: Called after each step with its index, the step count, and the latents (read-only, valid during the call).
#: Returning ``False`` stops the run.
Callback = Callable[[int, int, Floats], bool | None]


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

    The denoiser is loaded at once, so that errors come early; the VAE's halves when they are first used. The files
    of a component are held against the manifest's SHA-256 before a backend opens them.

    Args:
        bundle: an opened bundle.
        engine: ``"onnx"`` for the plain graphs, the name of a built engine, or ``"auto"`` for the best that
            this machine runs. Components that an engine does not have run as plain graphs. :attr:`engine` is the
            name of what runs, and :attr:`engine_reason` says in one line why.
        threads: threads within an operator; ``None`` is one a core.
        runners: components to run instead of the bundle's own, by name (a reference, a test).

    Raises:
        InputError: there is no such engine, or it does not fit this machine.
        BundleError: the bundle or the engine is not whole; ``IntegrityError`` where the denoiser's files were altered.
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
        choice = choose_engine(bundle, engine)
        self.engine = choice.name
        self.engine_reason = choice.reason
        self._components = Components(bundle, threads, runners or {}, choice.engine)
        self._components.pool("denoiser")
        self._prompts: PromptReader | None = None
        latents = bundle.manifest.latents
        self.pixel_multiple = latents.patch_size * latents.spatial_compression

    def __call__(
        self,
        *,
        class_labels: int | Sequence[int] | None = None,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        conditions: Mapping[str, NDArray[Any]] | None = None,
        unconditional: Mapping[str, NDArray[Any]] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        true_cfg_scale: float = 1.0,
        guidance_channels: int | Literal["model"] | None = "model",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        guidance_batched: bool = True,
        skip_guidance_layers: Sequence[int] | None = None,
        skip_layer_guidance_scale: float = 2.8,
        skip_layer_guidance_start: float = 0.01,
        skip_layer_guidance_stop: float = 0.2,
        seed: int | Sequence[int] | None = None,
        height: int | None = None,
        width: int | None = None,
        scheduler: str | Mapping[str, Any] | None = None,
        eta: float = 0.0,
        noise: NDArray[np.floating] | None = None,
        image: ImageInput | None = None,
        strength: float | None = None,
        vae_tile: int | None = None,
        output_type: Literal["pil", "numpy", "latent"] = "pil",
        callback: Callback | None = None,
        progress: bool = False,
    ) -> Output:
        """Draw one picture a class label, or ``num_images_per_prompt`` a prompt.

        Args:
            class_labels: class indices; the null class draws without a class.
            prompt: one text or several, for a bundle with text encoders. What an encoder does not read of a long one
                is cut, with a warning that quotes it.
            negative_prompt: what the unguided half is given: one text for all, or one a prompt.
            num_images_per_prompt: pictures of the same prompt stand beside each other.
            conditions, unconditional: inputs of the denoiser by name, [batch, …], instead of what labels and prompts
                make, for the two halves of guidance.
            num_inference_steps: denoising steps, at least 1; the manifest's usual number by default.
            guidance_scale: the family's main knob; the manifest's by default. Classifier-free guidance (Ho & Salimans
                2022), on above 1; what the denoiser is fed where the guidance is embedded in it.
            true_cfg_scale: classifier-free guidance of a denoiser that has its guidance embedded, or none
                (FLUX.1 schnell, where ``guidance_scale`` has no effect); on above 1.
            guidance_channels: how many leading latent channels are guided; ``None``: all; ``"model"``: its own.
            guidance_interval: guide only in this part of the steps, as fractions (Kynkäänniemi et al. 2024).
            guidance_rescale: 0 … 1, pull the guided prediction back to its former deviation (Lin et al. 2023).
            guidance_batched: both halves in one call of the denoiser, or in two with half the memory.
            skip_guidance_layers: blocks of the denoiser that a third call leaves out in some steps, to guide away from
                it (SD 3.5 Medium: 7, 8 and 9); only where the run is guided.
            skip_layer_guidance_scale, skip_layer_guidance_start, skip_layer_guidance_stop: how strongly, and between
                which fractions of the steps, both ends left out.
            seed: one integer (picture i goes on with the generator's stream) or one a picture; random by default.
            height, width: pixels, multiples of :attr:`pixel_multiple`; the training size by default.
            scheduler: a diffusers scheduler's name or config; the bundle's own by default.
            eta: DDIM's stochasticity, 0 … 1.
            noise: float32 of the latents' shape, instead of the seed's first draw.
            image: one picture, or one for each label, to start from.
            strength: 0 … 1, how much of ``image`` is redrawn; 0.8 by default.
            vae_tile: pixels on a side of the pieces in which larger pictures go through the VAE, blended where they
                overlap, as diffusers does it; its memory is then that of one piece. A multiple of four latent pixels.
            output_type: ``"pil"``, ``"numpy"`` ([batch, height, width, 3] in 0 … 1) or ``"latent"``.
            callback: called after each step; returning ``False`` cancels.
            progress: show a progress bar.

        Raises:
            InputError: an argument is out of range, of the wrong type or shape.
            Cancelled: the callback returned ``False``.
            BundleError: files of the VAE, which is loaded when first used, were altered.
            BackendError: the backend failed, or gave values that are not finite.
        """
        started = time.perf_counter()
        manifest = self.bundle.manifest
        if output_type not in ("pil", "numpy", "latent"):
            raise InputError(f'output_type: {shown(output_type)} came, expected "pil", "numpy" or "latent"')
        if output_type != "latent" and "vae_decoder" not in self._components:
            raise InputError('this bundle has no VAE decoder; ask for output_type="latent", or export with a VAE')
        check_sizes(self.pixel_multiple, height=height, width=width)
        check_limits(manifest, height, width)
        tile = tile_of(vae_tile, manifest.latents.spatial_compression)
        guidance = self._guidance(
            guidance_scale, true_cfg_scale, guidance_channels, guidance_interval, guidance_rescale, guidance_batched
        )
        if skip_guidance_layers:
            if guidance.scale <= 1.0:
                raise InputError("skip_guidance_layers: this run is not guided; use a guidance_scale above 1")
            if not isinstance(skip_guidance_layers, (list, tuple)):
                raise InputError(
                    f"skip_guidance_layers: {shown(skip_guidance_layers)} came, a list of blocks was expected"
                )
            skip = SkipLayerGuidance(
                tuple(skip_guidance_layers),
                skip_layer_guidance_scale,
                skip_layer_guidance_start,
                skip_layer_guidance_stop,
            )
            guidance = replace(guidance, skip=skip)
        texts = read_texts(manifest, prompt, negative_prompt, num_images_per_prompt)
        if texts is not None and self._prompts is None:
            self._prompts = PromptReader(self.bundle, self.pool)
        read = read_conditions(
            manifest,
            class_labels=class_labels,
            texts=texts,
            encode=self._prompts,
            scale=manifest.guidance.default_scale if guidance_scale is None else guidance_scale,
            given=conditions,
            given_unconditional=unconditional,
            guided=guidance.scale > 1.0,
            skip_layers=guidance.skip.layers if guidance.skip is not None else (),
        )
        if texts is not None and texts.negatives is None and not unconditional:
            guidance = replace(guidance, scale=1.0)  # such a family guides towards a negative prompt only
        batch = read.batch
        start_image = None if image is None else self._read_images(image, batch, height, width)
        if start_image is not None:
            height, width = start_image.shape[2:]
            check_limits(manifest, height, width)
        shape = latents_shape(manifest.latents, batch, height, width)
        plan = plan_steps(
            self.bundle,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
            eta=eta,
            from_image=image is not None,
            strength=strength,
            tokens=shape[2] * shape[3] // manifest.latents.patch_size**2,
        )
        source, seeds = read_seed(seed, batch)
        seconds = dict.fromkeys(manifest.components, 0.0)

        table = plan.table
        if start_image is not None:
            clean, seconds["vae_encoder"] = encode(self.pool("vae_encoder"), start_image, shape, source, tile)
            signal, deviation = table.start
            start = np.float32(signal) * clean + np.float32(deviation) * first_noise(noise, shape, source)
        else:
            start = np.float32(table.initial_noise_scale) * first_noise(noise, shape, source)
        with progress_bar(progress, table.num_steps) as advance_bar:
            latents, seconds["denoiser"] = self._sample(start, plan, read, guidance, source, callback, advance_bar)

        images: list[Image.Image] | Floats = []
        if output_type != "latent":
            decoded, seconds["vae_decoder"] = decode(
                self.pool("vae_decoder"), latents, manifest.latents.spatial_compression, tile
            )
            images = to_pil(decoded) if output_type == "pil" else decoded
        seconds["total"] = time.perf_counter() - started
        return Output(images=images, latents=latents, seed=seeds, seconds=seconds)

    def pool(self, component: str) -> BindingPool:
        """Return the bindings of a component; :class:`BundleError` where the bundle has none of that name."""
        return self._components.pool(component)

    def encode(self, images: Floats, batch: int, source: NoiseSource) -> Floats:
        """Return latents [batch, …] drawn from the posterior of ``images`` [batch or 1, channels, height, width].

        ``source`` gives one draw where the encoder has a deviation, none where it does not.
        """
        shape = latents_shape(self.bundle.manifest.latents, batch, *images.shape[2:])
        return encode(self.pool("vae_encoder"), images, shape, source)[0]

    def _read_images(self, image: ImageInput, batch: int, height: int | None, width: int | None) -> Floats:
        """Return the pictures to start from, [batch or 1, channels, height, width] in 0 … 1."""
        if "vae_encoder" not in self._components:
            raise InputError("image: this bundle has no VAE encoder; export with a VAE")
        channels = self.bundle.component("vae_encoder").input("images").axes[1]
        assert isinstance(channels, int)
        pictures = read_images(image, multiple=self.pixel_multiple, channels=channels, height=height, width=width)
        if len(pictures) not in (1, batch):
            raise InputError(f"image: {len(pictures)} pictures came, 1 or {batch} expected, as there are labels")
        return pictures

    def _guidance(
        self,
        scale: float | None,
        true_cfg_scale: float,
        channels: int | Literal["model"] | None,
        interval: tuple[float, float],
        rescale: float,
        batched: bool,
    ) -> Guidance:
        """Return classifier-free guidance as the family does it."""
        own = self.bundle.manifest.guidance
        if own.kind != "classifier_free":
            Guidance(own.default_scale if scale is None else scale)  # a number that a denoiser can be fed
            scale = true_cfg_scale
        elif true_cfg_scale != 1.0:
            raise InputError("true_cfg_scale: this bundle's guidance is classifier-free; use guidance_scale")
        guidance = Guidance(
            scale=own.default_scale if scale is None else scale,
            channels=own.channels if channels == "model" else channels,
            interval=interval,
            rescale=rescale,
            batched=batched,
            token=self.bundle.manifest.latents.patch_size if own.normalise == "token" else None,
        )
        return replace(guidance, scale=guidance.scale + own.scale_offset)

    def _sample(
        self,
        start: Floats,
        plan: Plan,
        conditions: Conditions,
        guidance: Guidance,
        source: NoiseSource,
        callback: Callback | None,
        advance_bar: Callable[[], None],
    ) -> tuple[Floats, float]:
        """Run the sampling loop from ``start``; return the latents and the seconds spent in the denoiser."""
        table, noise = plan.table, None
        denoiser = self.pool("denoiser")
        solver = None if device_of(denoiser) is None else self._components.solver()
        with open_steps(denoiser, solver, self.bundle.manifest, plan, conditions, guidance, start) as steps:
            for row in range(len(table)):
                steps.predict(row)
                for _ in range(table.noise_draws[row]):
                    noise = source.draw(start.shape)
                steps.advance(row, noise)
                step = int(table.step[row])
                if row + 1 < len(table) and table.step[row + 1] == step:
                    continue
                steps.check(f" after step {step + 1} of {table.num_steps}")
                advance_bar()
                if callback is not None:
                    view = steps.latents().view()
                    view.flags.writeable = False
                    if callback(step, table.num_steps, view) is False:
                        raise Cancelled(f"the callback cancelled after step {step + 1} of {table.num_steps}")
            return steps.latents().copy(), steps.seconds
