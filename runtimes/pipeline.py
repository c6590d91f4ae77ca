"""VAE encode → sampling loop → VAE decode, over any backend.

The pipeline knows latents and names, no model family: sizes, conditions, guidance and units come from the
bundle's manifest, the sampler from a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dit_deploy.bundle import Bundle
from dit_deploy.errors import Cancelled, InputError
from dit_deploy.runtimes.arguments import (
    check_calls,
    check_limits,
    check_sizes,
    draw_noise,
    first_noise,
    latents_shape,
    patch_grid,
    read_frame_rate,
    read_seed,
    shown,
)
from dit_deploy.runtimes.autoencoder import Compression, decode, decoder_inputs, encode, pieces_of, read_decoding
from dit_deploy.runtimes.components import Components, choose_engine
from dit_deploy.runtimes.conditions import read_conditions, read_texts
from dit_deploy.runtimes.frames import check_frames, latent_frames, pixel_frames
from dit_deploy.runtimes.guidance import read_guidance, say_without_effect
from dit_deploy.runtimes.image_conditions import ImageConditioner, read_pictures
from dit_deploy.runtimes.images import ImageInput, to_pil
from dit_deploy.runtimes.memory import pieces_within, read_bytes
from dit_deploy.runtimes.plan import plan_steps
from dit_deploy.runtimes.progress import Progress, shown_progress
from dit_deploy.runtimes.prompts import PromptReader
from dit_deploy.runtimes.run import Run, open_steps
from dit_deploy.runtimes.runner import BindingPool, Runner
from dit_deploy.runtimes.start import read_start
from dit_deploy.runtimes.video import VideoInput
from dit_deploy.runtimes.windows import read_windows
from dit_deploy.sampling import NoiseSource

__all__ = ["Callback", "Output", "Pipeline"]

Floats = NDArray[np.float32]
#: Called after each step with its index, the step count, and the latents (read-only, valid during the call).
#: Returning ``False`` stops the run.
Callback = Callable[[int, int, Floats], bool | None]


@dataclass(frozen=True)
class Output:
    """What a run gives.

    Attributes:
        images: PIL images, or an array [batch, height, width, 3] in 0 … 1; empty for ``output_type="latent"``, and of a
            bundle of videos.
        latents: float32 [batch, channels, [frames,] height, width], before decoding.
        seed: what ``seed`` was, or the random seed that was drawn where none was given.
        seconds: wall time of ``vae_encoder``, ``denoiser``, ``vae_decoder`` and ``total``.
        frames: of a bundle of videos, a list of PIL images for each, or an array [batch, frames, height, width, 3] in
            0 … 1.
        frame_rate: pictures a second that the videos are to be played at.
    """

    images: list[Image.Image] | Floats
    latents: Floats
    seed: int | list[int]
    seconds: dict[str, float] = field(default_factory=dict)
    frames: list[list[Image.Image]] | Floats = field(default_factory=list)
    frame_rate: float | None = None


class Pipeline:
    """Draws pictures or videos from a bundle. One pipeline may be called from several threads at once.

    The denoiser is loaded at once, so that errors come early; the VAE's halves when they are first used. The files
    of a component are held against the manifest's SHA-256 before a backend opens them.

    Args:
        bundle: an opened bundle.
        engine: ``"onnx"`` for the plain graphs, the name of a built engine, or ``"auto"`` for the best that
            this machine runs. Components that an engine does not have run as plain graphs. :attr:`engine` is the
            name of what runs, and :attr:`engine_reason` says in one line why.
        threads: threads within an operator; ``None`` is one a core.
        runners: components to run instead of the bundle's own, by name (a reference, a test).
        low_memory: load a component when it is used and forget it after, so that one of them is in memory at a time; of
            two denoisers too. The next run loads them again.
        vae_memory: bytes that the VAE may take beside its weights, as a number or as ``"2G"``. Larger pictures go
            through it in pieces, the largest with which it keeps to that by an estimate for plain graphs on a CPU;
            a call's ``vae_tile`` has the last word.

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
        low_memory: bool = False,
        vae_memory: int | str | None = None,
    ) -> None:
        self.bundle = bundle
        self._vae_memory = None if vae_memory is None else read_bytes(vae_memory)
        choice = choose_engine(bundle, engine)
        self.engine = choice.name
        self.engine_reason = choice.reason
        self._components = Components(bundle, threads, runners or {}, choice.engine)
        self._low_memory = low_memory
        if not low_memory:
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
        prompt_2: str | Sequence[str] | None = None,
        prompt_3: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        negative_prompt_3: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        conditions: Mapping[str, NDArray[Any]] | None = None,
        unconditional: Mapping[str, NDArray[Any]] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
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
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        frame_rate: float | None = None,
        scheduler: str | Mapping[str, Any] | None = None,
        eta: float = 0.0,
        noise: NDArray[np.floating] | None = None,
        image: ImageInput | None = None,
        last_image: ImageInput | None = None,
        video: VideoInput | None = None,
        strength: float | None = None,
        window_frames: int | None = None,
        window_overlap: int | None = None,
        vae_tile: int | Literal["model"] | None = None,
        decode_timestep: float | None = None,
        decode_noise_scale: float | None = None,
        output_type: Literal["pil", "numpy", "latent"] = "pil",
        callback: Callback | None = None,
        progress: bool | Progress = False,
    ) -> Output:
        """Draw one picture or video a class label, or ``num_images_per_prompt`` a prompt.

        Args:
            class_labels: class indices; the null class draws without a class.
            prompt: one text or several, for a bundle with text encoders. What an encoder does not read of a long one
                is cut, with a warning that quotes it.
            negative_prompt: what the unguided half is given: one text for all, or one a prompt.
            prompt_2, prompt_3, negative_prompt_2, negative_prompt_3: what the second and third text encoder read
                instead, where the bundle has them (Stable Diffusion 3, FLUX); ``""`` is ``prompt``, ``[""]`` no word.
            num_images_per_prompt: pictures of the same prompt stand beside each other.
            conditions, unconditional: inputs of the denoiser by name, [batch, …], instead of what labels and prompts
                make, for the two halves of guidance.
            num_inference_steps: denoising steps, at least 1; the manifest's usual number by default.
            guidance_scale: the family's main knob; the manifest's by default. Classifier-free guidance (Ho & Salimans
                2022), on above 1; what the denoiser is fed where the guidance is embedded in it.
            guidance_scale_2: of the second of two denoisers (Wan 2.2); that of the first by default.
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
            num_frames: pictures of a video; the usual number by default. 1 draws a picture where the model can.
            height, width: pixels, multiples of :attr:`pixel_multiple`; the training size by default.
            frame_rate: pictures a second of a video; some models are fed it (LTX-Video).
            scheduler: a diffusers scheduler's name or config; the bundle's own by default.
            eta: DDIM's stochasticity, 0 … 1.
            noise: float32 of the latents' shape, instead of the seed's first draw.
            image: one picture, or one for each label: to start from; of a bundle that makes videos of pictures, what
                the video begins with.
            last_image: what such a video ends with, where the model takes one.
            video: a video to start from: a file, a list of pictures, or an array [frames, height, width, 3].
            strength: 0 … 1, how much of ``image`` or ``video`` is redrawn; 0.8 by default.
            window_frames, window_overlap: pictures that the denoiser sees at a time of a longer video, and how many of
                them neighbouring windows share; their predictions are averaged at each step.
            vae_tile: pixels on a side of the pieces in which larger pictures go through the VAE, blended where they
                overlap, as diffusers does it; its memory is then that of one piece. A multiple of four latent pixels,
                or ``"model"`` for the pieces that diffusers has for this model, which may be cut in time too.
            decode_timestep, decode_noise_scale: 0 … 1, for a VAE decoder that removes noise itself (LTX-Video 0.9.1).
            output_type: ``"pil"``, ``"numpy"`` ([batch, [frames,] height, width, 3] in 0 … 1) or ``"latent"``.
            callback: called after each step; returning ``False`` cancels.
            progress: show a progress bar; or a function to call after each step, and each piece through the VAE.

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
        check_calls(callback, progress)
        check_sizes(self.pixel_multiple, height=height, width=width)
        check_limits(manifest, height, width)
        frames = latent_frames(manifest, num_frames)
        pieces = pieces_of(vae_tile, manifest)
        decoding = read_decoding(manifest, decode_timestep, decode_noise_scale)
        guidance, second_guidance = read_guidance(
            manifest,
            scale=guidance_scale,
            second_scale=guidance_scale_2,
            true_cfg_scale=true_cfg_scale,
            channels=guidance_channels,
            interval=guidance_interval,
            rescale=guidance_rescale,
            batched=guidance_batched,
            skip_layers=skip_guidance_layers,
            skip_scale=skip_layer_guidance_scale,
            skip_start=skip_layer_guidance_start,
            skip_stop=skip_layer_guidance_stop,
        )
        others = ((prompt_2, negative_prompt_2), (prompt_3, negative_prompt_3))
        texts = read_texts(manifest, prompt, negative_prompt, num_images_per_prompt, others)
        if texts is not None and self._prompts is None:
            self._prompts = PromptReader(self.bundle, self.pool)
        conditioner = None if manifest.image_conditions is None else ImageConditioner(manifest, self.pool)
        rate = read_frame_rate(manifest, frame_rate)
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
            frame_rate=rate,
            later=() if conditioner is None else conditioner.names,
        )
        if texts is not None:
            say_without_effect(
                manifest,
                guidance,
                guidance_scale if manifest.guidance.kind == "classifier_free" else true_cfg_scale,
                negative=texts.negatives is not None or bool(unconditional),
                asked_negative=negative_prompt is not None,
            )
        if texts is not None and texts.negatives is None and not unconditional:
            # such a family guides towards a negative prompt only
            guidance = replace(guidance, scale=1.0)
            second_guidance = second_guidance and replace(second_guidance, scale=1.0, any_scale=False)
        if texts is not None and manifest.prompts is not None:
            self._done(*(encoder.component for encoder in manifest.prompts.encoders), manifest.prompts.join)
        batch = read.batch
        start = read_start(
            manifest,
            image if conditioner is None else None,
            video,
            batch=batch,
            frames=num_frames,
            height=height,
            width=width,
            multiple=self.pixel_multiple,
        )
        if start is not None:
            height, width = start.shape[-2:]
            check_limits(manifest, height, width)
            if video is not None:
                frames = check_frames(manifest, start.shape[2], "video")
        shape = latents_shape(manifest.latents, batch, height, width, frames)
        if self._vae_memory is not None and vae_tile is None and (output_type != "latent" or start is not None):
            encoded = 0 if start is None else len(start)
            pieces = pieces_within(self.bundle, self._vae_memory, shape[2:], pieces, encoded)
        rows, columns = (side * manifest.latents.spatial_compression for side in shape[-2:])
        pictures = read_pictures(
            manifest,
            image,
            last_image,
            batch=batch,
            height=rows,
            width=columns,
            multiple=self.pixel_multiple,
        )
        windows = read_windows(manifest, frames, window_frames, window_overlap)
        seen = shape if windows is None else (*shape[:2], windows[0].stop, *shape[3:])
        plan = plan_steps(
            self.bundle,
            num_inference_steps=num_inference_steps,
            scheduler=scheduler,
            eta=eta,
            from_image=start is not None,
            strength=strength,
            tokens=math.prod(patch_grid(manifest.components["denoiser"], seen).values()),
        )
        source, seeds = read_seed(seed, batch)
        seconds = dict.fromkeys(manifest.components, 0.0)
        compression = Compression.of(manifest)

        clean: Floats | None = None
        if start is not None:
            clean, seconds["vae_encoder"] = encode(self.pool("vae_encoder"), start, shape, source, pieces, compression)
            self._done("vae_encoder")
        if conditioner is not None:
            count = pixel_frames(manifest, shape[2])
            made = conditioner(pictures, batch, count, rows, columns, source)
            read = read.joined(made)
            seconds[conditioner.component] = conditioner.seconds
            self._done(*conditioner.components)
        first = first_noise(noise, shape, source, manifest.latents)
        if clean is None:
            sample = np.float32(plan.table.initial_noise_scale) * first
        else:
            signal, deviation = plan.table.start
            sample = np.float32(signal) * clean + np.float32(deviation) * first
        with shown_progress(progress) as tell:
            run = Run(plan, read, guidance, second_guidance, windows)
            latents, seconds["denoiser"] = self._sample(sample, run, source, callback, tell)
            self._done("denoiser", None if manifest.experts is None else manifest.experts.component)
            if conditioner is not None:
                conditioner.keep(latents, read.conditional)
            output = Output([], latents, seeds, seconds, frame_rate=rate)
            if output_type != "latent":
                decoder = self.pool("vae_decoder")
                inputs = decoder_inputs(decoder.runner.component, shape, source, decoding)
                decoded, seconds["vae_decoder"] = decode(
                    decoder,
                    latents,
                    compression,
                    pieces,
                    lambda done, total: tell("decoding", done, total),
                    inputs,
                )
                self._done("vae_decoder")
                output = _with_pictures(output, decoded, pil=output_type == "pil")
        seconds["total"] = time.perf_counter() - started
        return output

    def pool(self, component: str) -> BindingPool:
        """Return the bindings of a component; :class:`BundleError` where the bundle has none of that name."""
        return self._components.pool(component)

    def encode(self, images: Floats, batch: int, source: NoiseSource) -> Floats:
        """Return latents [batch, …] drawn from the posterior of pictures or videos.

        ``images`` is [batch or 1, channels, [frames,] height, width] in 0 … 1.

        ``source`` gives one draw where the encoder has a deviation, none where it does not.
        """
        latents = self.bundle.manifest.latents
        frames = check_frames(self.bundle.manifest, images.shape[2], "video") if images.ndim == 5 else None
        height, width = images.shape[-2:]
        shape = latents_shape(latents, batch, height, width, frames)
        return encode(self.pool("vae_encoder"), images, shape, source)[0]

    def _done(self, *components: str | None) -> None:
        """Forget components that this run needs no more, where memory is short."""
        if self._low_memory:
            for name in filter(None, components):
                self._components.release(name)

    def _sample(
        self, start: Floats, run: Run, source: NoiseSource, callback: Callback | None, tell: Progress
    ) -> tuple[Floats, float]:
        """Run the sampling loop from ``start``; return the latents and the seconds spent in the denoiser."""
        table, noise, latents = run.plan.table, None, self.bundle.manifest.latents
        with open_steps(self._components, self.bundle.manifest, run, start, alone=self._low_memory) as steps:
            for row in range(len(table)):
                steps.predict(row)
                for _ in range(table.noise_draws[row]):
                    noise = draw_noise(source, start.shape, latents)
                steps.advance(row, noise)
                step = int(table.step[row])
                if row + 1 < len(table) and table.step[row + 1] == step:
                    continue
                steps.check(f" after step {step + 1} of {table.num_steps}")
                tell("denoising", step + 1, table.num_steps)
                if callback is not None:
                    view = steps.latents().view()
                    view.flags.writeable = False
                    if callback(step, table.num_steps, view) is False:
                        raise Cancelled(f"the callback cancelled after step {step + 1} of {table.num_steps}")
            return steps.latents().copy(), steps.seconds


def _with_pictures(output: Output, decoded: Floats, *, pil: bool) -> Output:
    """Return ``output`` with pictures [batch, height, width, channels], or videos with frames before the height."""
    if decoded.ndim == 4:
        return replace(output, images=to_pil(decoded) if pil else decoded)
    return replace(output, frames=[to_pil(video) for video in decoded] if pil else decoded)
