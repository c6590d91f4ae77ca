"""The PyTorch reference that a bundle is held against. Needs torch and diffusers; for parity and bench only.

Where diffusers' own ``DiTPipeline`` can serve a request, that class runs, unmodified. It draws only at the training
size, guides all channels, scales the first noise by nothing and hands its scheduler no generator; for every other
request the reference is the loop that diffusers' other pipelines share, written out here. Either way the
scheduler is diffusers', and the autoencoder is called and scaled as its pipelines do it, not through our exporter's
wrappers.
"""

from __future__ import annotations

import functools
import inspect
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Component, shape_of
from dit_deploy.errors import BackendError, InputError
from dit_deploy.sampling import resolve_scheduler

try:
    import diffusers
    import torch
    from torch import Tensor

    from dit_deploy.exporters.autoencoders import factors, load_autoencoder, spatial_compression
    from dit_deploy.exporters.families.dit_reference import DiffusersDiT
    from dit_deploy.exporters.families.dit_source import Checkpoint, open_checkpoint
except ImportError as error:
    raise BackendError(
        f"the PyTorch reference needs torch and diffusers ({error}); install dit-deploy[export]"
    ) from error

__all__ = ["Evaluation", "Sampled", "TorchReference", "TorchRunner"]

Array = NDArray[Any]
Floats = NDArray[np.float32]
#: Called after each evaluation of the denoiser with how many are done, and how many there will be.
Progress = Callable[[int, int], None]

#: Schedulers that ``DiTPipeline`` runs as they are meant: deterministic, and most with first noise of deviation 1.
_DETERMINISTIC = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the denoiser and the scheduler's step from it.

    Arrays are float32 [batch, channels, height, width].

    Attributes:
        timestep: what the denoiser was fed, in the scheduler's unit.
        sample: the latents before, not yet scaled for the denoiser.
        prediction: the guided prediction, without the learned variance.
        next_sample: the latents after.
    """

    timestep: float
    sample: Floats
    prediction: Floats
    next_sample: Floats


@dataclass(frozen=True)
class Sampled:
    """What :meth:`TorchReference.sample` gives.

    Attributes:
        evaluations: in order; schedulers of the second order have two for a step.
        latents: float32 [batch, channels, height, width], before decoding.
        images: float32 [batch, height, width, 3] in 0 … 1; ``None`` where the source has no VAE.
        implementation: what ran, in words.
    """

    evaluations: list[Evaluation]
    latents: Floats
    images: Floats | None
    implementation: str


class TorchReference:
    """The source of a bundle in PyTorch, in float32 on the CPU. Modules are loaded when they are first needed.

    Args:
        source: an opened checkpoint.
    """

    def __init__(self, source: Checkpoint) -> None:
        self.source = source

    @classmethod
    def open(
        cls, path: str | Path, *, arch: str | None = None, image_size: int | None = None, vae: str | Path | None = None
    ) -> Self:
        """Open a checkpoint; see :func:`~dit_deploy.exporters.families.dit_source.open_checkpoint`."""
        return cls(open_checkpoint(path, arch=arch, image_size=image_size, vae=vae))

    @property
    def kind(self) -> str:
        """``diffusers_pipeline``, ``diffusers_transformer`` or ``original_dit``."""
        return str(self.source.kind)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the bytes of the denoiser's weights, as a bundle records it."""
        return str(self.source.sha256())

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what runs here."""
        return {
            "torch": str(torch.__version__),
            "diffusers": str(diffusers.__version__),
            "python": platform.python_version(),
        }

    @cached_property
    def denoiser(self) -> Any:
        """(latents, timestep, class_labels) → (prediction[, variance]), for any patch grid."""
        return self.source.reference().eval().requires_grad_(False)

    @cached_property
    def vae(self) -> Any:
        """The diffusers autoencoder, or ``None``."""
        return None if self.source.vae_folder is None else load_autoencoder(self.source.vae_folder)

    def run(self, component: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate ``denoiser``, ``vae_encoder`` or ``vae_decoder`` on named inputs, as a bundle's component would."""
        calls: dict[str, Callable[..., dict[str, Array]]] = {
            "denoiser": self.denoise,
            "vae_encoder": self.encode,
            "vae_decoder": self.decode,
        }
        if component not in calls:
            raise InputError(f"component: {component!r} came; the reference has {', '.join(calls)}")
        return calls[component](**feeds)

    def denoise(self, latents: Array, timestep: Array, class_labels: Array) -> dict[str, Array]:
        """Return ``prediction`` and, where it is learned, ``variance``; shapes and units are the manifest's."""
        with torch.no_grad():
            outputs = self.denoiser(*(torch.from_numpy(array) for array in (latents, timestep, class_labels)))
        return {name: output.numpy() for name, output in zip(("prediction", "variance"), outputs, strict=False)}

    def encode(self, images: Array) -> dict[str, Array]:
        """Pictures [batch, channels, height, width] in 0 … 1 → ``mean`` and ``std`` (KL only) of the scaled latents."""
        scale, shift = factors(self._need_vae())
        with torch.no_grad():
            encoded = self.vae.encode(2.0 * torch.from_numpy(images) - 1.0)
        if hasattr(encoded, "latents"):  # AutoencoderTiny
            return {"mean": ((encoded.latents - shift) * scale).numpy()}
        posterior = encoded.latent_dist
        return {"mean": ((posterior.mean - shift) * scale).numpy(), "std": (posterior.std * scale).numpy()}

    def decode(self, latents: Array) -> dict[str, Array]:
        """Scaled latents [batch, channels, height, width] → ``images`` of as many axes, in 0 … 1 and beyond."""
        scale, shift = factors(self._need_vae())
        with torch.no_grad():
            decoded = self.vae.decode(1 / scale * torch.from_numpy(latents) + shift).sample
        return {"images": (decoded / 2 + 0.5).numpy()}

    def sample(
        self,
        class_labels: Sequence[int],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float = 4.0,
        guidance_channels: int | Literal["model"] | None = "model",
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        seed: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        scheduler: str | Mapping[str, Any] | None = None,
        eta: float = 0.0,
        noise: Floats | None = None,
        image: Floats | None = None,
        strength: float = 0.8,
        own_loop: bool = False,
        progress: Progress | None = None,
    ) -> Sampled:
        """Draw one picture a label, as :meth:`dit_deploy.Pipeline.__call__` does and with its arguments' meanings.

        Args:
            image: float32 [batch or 1, height, width, channels] in 0 … 1.
            own_loop: run the loop written here even where ``DiTPipeline`` could serve.

        Raises:
            InputError: the source has no VAE for ``image``, or diffusers has no such scheduler.
        """
        config = self.source.config
        steps = self.source.num_inference_steps if num_inference_steps is None else num_inference_steps
        channels = self.source.guidance_channels if guidance_channels == "model" else guidance_channels
        solver = _scheduler(resolve_scheduler(self.source.scheduler_config, scheduler))
        generator = _generators(seed)
        side = config.sample_size * self._compression
        plain = (
            not own_loop
            and isinstance(self.denoiser, DiffusersDiT)
            and (self.vae is not None and factors(self.vae)[1] == 0.0)
            and (height or side, width or side) == (side, side)
            and channels in (None, config.in_channels)
            and guidance_interval == (0.0, 1.0)
            and guidance_rescale == eta == 0.0
            and noise is None
            and image is None
            and _is_plain(solver, steps)
        )
        recorder = _Recorder(solver, len(class_labels), config.in_channels, progress)
        with torch.no_grad():
            if plain:
                images = self._run_pipeline(solver, list(class_labels), steps, guidance_scale, generator, recorder)
                latents = recorder.evaluations[-1].next_sample
                return Sampled(recorder.evaluations, latents, images, "diffusers DiTPipeline")
            guide = functools.partial(
                _guide, scale=guidance_scale, channels=channels, interval=guidance_interval, rescale=guidance_rescale
            )
            shape = (
                len(class_labels),
                config.in_channels,
                (height or side) // self._compression,
                (width or side) // self._compression,
            )
            solver.set_timesteps(steps)
            if image is None:
                timesteps = solver.timesteps
                start = _noise(noise, shape, generator) * solver.init_noise_sigma
            else:
                timesteps, start = self._begin_from(image, strength, steps, solver, len(class_labels), noise, generator)
            self._loop(solver, timesteps, start, class_labels, guide, eta, generator, recorder)
        latents = recorder.evaluations[-1].next_sample
        decoded = None if self.vae is None else self.decode(latents)["images"].clip(0, 1).transpose(0, 2, 3, 1)
        return Sampled(recorder.evaluations, latents, decoded, "the loop of diffusers' pipelines, with its scheduler")

    def _run_pipeline(
        self, solver: Any, labels: list[int], steps: int, scale: float, generator: Any, recorder: _Recorder
    ) -> Floats:
        """Run ``DiTPipeline`` and return its pictures [batch, height, width, 3]."""
        transformer, null, batch = self.denoiser.model, self.source.config.num_classes, len(labels)

        def own_null_class(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            # The pipeline writes 1000, ImageNet's, into the unguided half.
            given = kwargs["class_labels"].clone()
            given[batch:] = null
            return args, {**kwargs, "class_labels": given}

        pipeline = diffusers.DiTPipeline(transformer, self.vae, solver)
        pipeline.set_progress_bar_config(disable=True)
        hook = transformer.register_forward_pre_hook(own_null_class, with_kwargs=True)
        try:
            recorder.total = steps
            output = pipeline(
                labels, guidance_scale=scale, generator=generator, num_inference_steps=steps, output_type="np"
            )
        finally:
            hook.remove()
        images: Floats = output.images
        return images

    def _begin_from(
        self,
        image: Floats,
        strength: float,
        steps: int,
        solver: Any,
        batch: int,
        noise: Floats | None,
        generator: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the timesteps and the first latents of image-to-image, as in ``StableDiffusionImg2ImgPipeline``."""
        begin = max(steps - min(int(steps * strength), steps), 0) * solver.order
        timesteps = solver.timesteps[begin:]
        if hasattr(solver, "set_begin_index"):
            solver.set_begin_index(begin)
        scale, shift = factors(self._need_vae())
        pictures = 2.0 * torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).float() - 1.0
        # A generator a sample draws a posterior each; one generator draws one for each picture, which samples share.
        encoded = self.vae.encode(pictures.expand(batch, -1, -1, -1) if isinstance(generator, list) else pictures)
        if hasattr(encoded, "latents"):
            clean = encoded.latents
        elif isinstance(generator, list):
            moments = encoded.latent_dist.parameters.split(1)
            distribution = type(encoded.latent_dist)
            clean = torch.cat([distribution(one).sample(own) for one, own in zip(moments, generator, strict=True)])
        else:
            clean = encoded.latent_dist.sample(generator)
        clean = ((clean - shift) * scale).expand(batch, -1, -1, -1)
        epsilon = _noise(noise, tuple(clean.shape), generator)
        if hasattr(solver, "add_noise"):
            return timesteps, solver.add_noise(clean, epsilon, timesteps[:1].repeat(batch))
        return timesteps, solver.scale_noise(clean, timesteps[:1], epsilon)  # flow matching has another order

    def _loop(
        self,
        solver: Any,
        timesteps: Tensor,
        latents: Tensor,
        class_labels: Sequence[int],
        guide: Callable[..., Tensor],
        eta: float,
        generator: Any,
        recorder: _Recorder,
    ) -> None:
        """Run the loop of diffusers' pipelines; the recorder keeps what it gives."""
        batch, order = len(latents), solver.order
        labels = torch.tensor(list(class_labels) + [self.source.config.num_classes] * batch)
        accepted = inspect.signature(solver.step).parameters
        extra = {name: value for name, value in (("eta", eta), ("generator", generator)) if name in accepted}
        recorder.total = len(timesteps)
        num_steps = -(-len(timesteps) // order)
        for index, timestep in enumerate(timesteps):
            model_input = torch.cat([latents] * 2)
            if hasattr(solver, "scale_model_input"):  # flow matching has none
                model_input = solver.scale_model_input(model_input, timestep)
            outputs = self.denoiser(model_input, timestep.to(torch.float32).expand(2 * batch), labels)
            prediction = guide(*outputs[0].chunk(2), fraction=(index // order) / num_steps)
            if solver.config.get("variance_type") == "learned_range":
                # DDPMScheduler splits what the network gave; the variance is the conditional half's, as originally.
                prediction = torch.cat([prediction, outputs[1][:batch]], dim=1)
            latents = solver.step(prediction, timestep, latents, **extra).prev_sample

    @cached_property
    def _compression(self) -> int:
        """Pixels a latent pixel stands for; 1 without a VAE."""
        return 1 if self.vae is None else spatial_compression(self.vae)

    def _need_vae(self) -> Any:
        if self.vae is None:
            raise InputError("this source has no VAE; name a diffusers VAE folder with --vae")
        return self.vae


class TorchRunner:
    """A component of the reference behind the interface of :class:`~dit_deploy.runtimes.runner.Runner`.

    With it, ``Pipeline(bundle, runners={"denoiser": TorchRunner(...)})`` tells what the solver differs in from what
    the network does.
    """

    def __init__(self, reference: TorchReference, name: str, component: Component) -> None:
        self.reference, self.name, self.component = reference, name, component

    def bind(self, sizes: Mapping[str, int]) -> _TorchBinding:
        """Allocate buffers for ``sizes``."""
        return _TorchBinding(self, sizes)


class _TorchBinding:
    def __init__(self, runner: TorchRunner, sizes: Mapping[str, int]) -> None:
        self._runner = runner
        self.inputs = {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in runner.component.inputs}
        self.outputs = {spec.name: np.zeros(shape_of(spec, sizes), spec.dtype) for spec in runner.component.outputs}

    def run(self) -> None:
        outputs = self._runner.reference.run(self._runner.name, self.inputs)
        for name, array in self.outputs.items():
            np.copyto(array, outputs[name])


class _Recorder:
    """Stands before a scheduler's ``step`` and keeps the first ``batch`` samples of what passes."""

    def __init__(self, solver: Any, batch: int, channels: int, progress: Progress | None) -> None:
        self.evaluations: list[Evaluation] = []
        self.total = 0
        step = solver.step

        @functools.wraps(step)
        def recorded(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            before = _array(sample[:batch])
            output = step(model_output, timestep, sample, *args, **kwargs)
            prediction, after = _array(model_output[:batch, :channels]), _array(output.prev_sample[:batch])
            self.evaluations.append(Evaluation(float(timestep), before, prediction, after))
            if progress is not None:
                progress(len(self.evaluations), self.total)
            return output

        solver.step = recorded


def _scheduler(config: Mapping[str, Any]) -> Any:
    name = config["_class_name"]
    if not hasattr(diffusers, name):
        raise InputError(f"scheduler: diffusers {diffusers.__version__} has no {name}")
    # Schedulers other than DDPM's get the prediction alone; with this option DPM-Solver's would keep three channels.
    dropped = () if name == "DDPMScheduler" else ("variance_type",)
    return getattr(diffusers, name).from_config({key: value for key, value in config.items() if key not in dropped})


def _is_plain(solver: Any, steps: int) -> bool:
    """Whether ``DiTPipeline`` draws with ``solver`` what it is meant to draw."""
    if type(solver).__name__ not in _DETERMINISTIC or str(solver.config.get("algorithm_type")).startswith("sde"):
        return False
    solver.set_timesteps(steps)
    return float(solver.init_noise_sigma) == 1.0


def _guide(
    conditional: Tensor,
    unconditional: Tensor,
    *,
    fraction: float,
    scale: float,
    channels: int | None,
    interval: tuple[float, float],
    rescale: float,
) -> Tensor:
    """Classifier-free guidance of the first ``channels``; rescaling is diffusers' ``rescale_noise_cfg``."""
    if scale <= 1 or not interval[0] <= fraction < interval[1]:
        return conditional
    text, null = conditional[:, :channels], unconditional[:, :channels]
    guided = null + scale * (text - null)
    if rescale:
        axes = list(range(1, guided.ndim))
        matched = guided * (text.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        guided = rescale * matched + (1 - rescale) * guided
    return guided if channels is None else torch.cat([guided, conditional[:, channels:]], dim=1)


def _generators(seed: int | Sequence[int]) -> Any:
    """One generator for the batch, or one a sample, as diffusers' pipelines take them."""
    if isinstance(seed, (int, np.integer)):
        return torch.Generator("cpu").manual_seed(int(seed))
    return [torch.Generator("cpu").manual_seed(int(one)) for one in seed]


def _noise(given: Floats | None, shape: tuple[int, ...], generator: Any) -> Tensor:
    if given is not None:
        return torch.from_numpy(given)
    from diffusers.utils.torch_utils import randn_tensor

    drawn: Tensor = randn_tensor(shape, generator=generator, dtype=torch.float32)
    return drawn


def _array(tensor: Tensor) -> Floats:
    copied: Floats = tensor.detach().to(torch.float32).numpy().copy()
    return copied
