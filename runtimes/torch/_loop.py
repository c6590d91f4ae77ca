"""The loop that diffusers' pipelines share, over networks that take and give arrays of any rank."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dit_deploy.errors import InputError
from dit_deploy.exporters.source import Source
from dit_deploy.runtimes.conditions import Conditions
from dit_deploy.runtimes.plan import schedule_arguments, timestep_scale
from dit_deploy.runtimes.torch._request import Drawing, arranged, draw_noise
from dit_deploy.sampling import image_to_image_begin

__all__ = ["Run", "diffusers_scheduler", "run_loop"]

Array = NDArray[Any]
#: (component, feeds) → outputs.
Run = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]


def diffusers_scheduler(config: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler of a config; :class:`InputError` where diffusers has no such class."""
    name = config["_class_name"]
    if not hasattr(diffusers, name):
        raise InputError(f"scheduler: diffusers {diffusers.__version__} has no {name}")
    # Schedulers other than DDPM's get the prediction alone; with this option DPM-Solver's would keep three channels.
    dropped = () if name == "DDPMScheduler" else ("variance_type",)
    return getattr(diffusers, name).from_config({key: value for key, value in config.items() if key not in dropped})


def run_loop(
    source: Source,
    drawing: Drawing,
    conditions: Conditions,
    scale: float,
    solver: Any,
    run: Run,
    generator: Any,
) -> None:
    """Run the loop with ``solver``, whose steps a recorder keeps.

    Args:
        conditions: the denoiser's, for both halves of guidance.
        scale: of classifier-free guidance; none at 1 and below.
        run: evaluates ``denoiser`` and, to start from pictures, ``vae_encoder``.
        generator: one of torch's for the batch, or one a sample, where the draws for given pictures have left it.
    """
    _set_timesteps(source, drawing, solver)
    if drawing.image is None:
        timesteps = solver.timesteps
        sample = _noise(source, drawing, drawing.shape, generator) * getattr(solver, "init_noise_sigma", 1.0)
    else:
        timesteps, sample = _begin_from(source, drawing, drawing.image, solver, generator, run)
    accepted = inspect.signature(solver.step).parameters
    extra = {name: value for name, value in (("eta", drawing.eta), ("generator", generator)) if name in accepted}
    unit = timestep_scale({**solver.config, "_class_name": type(solver).__name__}, source.prediction)
    num_steps = -(-len(timesteps) // solver.order)
    learned = solver.config.get("variance_type") == "learned_range"
    for index, timestep in enumerate(timesteps):
        scaled = solver.scale_model_input(sample, timestep) if hasattr(solver, "scale_model_input") else sample
        component = _denoiser(source, solver, float(timestep))
        feeds = {
            "latents": arranged(source.latents, scaled).contiguous().numpy(),
            "timestep": np.full(drawing.batch, float(timestep.to(torch.float32)) * unit, np.float32),
        }
        outputs = run(component, {**feeds, **conditions.conditional})
        prediction = torch.from_numpy(outputs["prediction"])
        low, high = drawing.guidance_interval
        if scale > 1 and low <= (index // solver.order) / num_steps < high:
            other = run(component, {**feeds, **conditions.conditional, **conditions.unconditional})
            own = _scale(source, component, scale)
            prediction = _guided(source, drawing, prediction, torch.from_numpy(other["prediction"]), own)
        if learned:
            # DDPMScheduler splits what the network gave; the variance is the conditional half's, as originally.
            prediction = torch.cat([prediction, torch.from_numpy(outputs["variance"])], dim=1)
        sample = solver.step(arranged(source.latents, prediction), timestep, sample, **extra).prev_sample


def _set_timesteps(source: Source, drawing: Drawing, solver: Any) -> None:
    """Hand the scheduler what the family's pipeline hands it, as far as this one takes it."""
    latents = source.latents
    *frames, rows, columns = drawing.shape[2:]
    patches = [rows // latents.patch_size, columns // latents.patch_size]
    tokens = int(np.prod([*(count // latents.temporal_patch_size for count in frames), *patches]))
    handed = schedule_arguments(solver.config, source.scheduler, drawing.num_inference_steps, tokens)
    accepted = inspect.signature(solver.set_timesteps).parameters
    solver.set_timesteps(
        drawing.num_inference_steps, **{name: value for name, value in handed.items() if name in accepted}
    )


def _denoiser(source: Source, solver: Any, timestep: float) -> str:
    """Return which of the family's denoisers a timestep is for."""
    experts = source.experts
    if experts is None or timestep >= experts.boundary * solver.config.num_train_timesteps:
        return "denoiser"
    return experts.component


def _scale(source: Source, component: str, first: float) -> float:
    """Return the scale of a guided run for one of the family's denoisers; ``first``: that of the first."""
    experts = source.experts
    if experts is None or component != experts.component or experts.default_scale is None:
        return first
    return experts.default_scale + source.guidance.scale_offset


def _noise(source: Source, drawing: Drawing, shape: tuple[int, ...], generator: Any) -> Tensor:
    """Return the noise that was given, or a draw, in the order of axes of the family's pipeline."""
    if drawing.noise is not None:
        return arranged(source.latents, torch.from_numpy(drawing.noise))
    return draw_noise(source.latents, shape, generator)


def _begin_from(
    source: Source, drawing: Drawing, image: Array, solver: Any, generator: Any, run: Run
) -> tuple[Tensor, Tensor]:
    """Return the timesteps and the first latents of image-to-image, as in ``StableDiffusionImg2ImgPipeline``."""
    steps = drawing.num_inference_steps
    rounded_up = source.scheduler.strength == "rounded_up"
    begin = image_to_image_begin(steps, drawing.strength, round_up=rounded_up) * solver.order
    timesteps = solver.timesteps[begin:]
    if hasattr(solver, "set_begin_index"):
        solver.set_begin_index(begin)
    posterior = {
        name: torch.from_numpy(values)
        for name, values in run("vae_encoder", {"images": np.ascontiguousarray(image.transpose(0, 3, 1, 2))}).items()
    }
    clean = posterior["mean"]
    if "std" in posterior:
        # A generator a sample draws a posterior each; one generator draws one for each picture, which samples share.
        shape = drawing.shape if isinstance(generator, list) else tuple(clean.shape)
        clean = clean + posterior["std"] * draw_noise(source.latents, shape, generator)
    clean = clean.expand(drawing.shape)
    epsilon = _noise(source, drawing, drawing.shape, generator)
    if hasattr(solver, "add_noise"):
        return timesteps, solver.add_noise(clean, epsilon, timesteps[:1].repeat(drawing.batch))
    return timesteps, solver.scale_noise(clean, timesteps[:1], epsilon)  # flow matching has another order


def _guided(source: Source, drawing: Drawing, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance as the family has it; rescaling is diffusers' ``rescale_noise_cfg``."""
    channels, rescale = drawing.guidance_channels, drawing.guidance_rescale
    text, null = conditional[:, :channels], unconditional[:, :channels]
    guided = null + scale * (text - null)
    if source.guidance.normalise == "token":
        guided = guided * (_lengths(text, source.latents.patch_size) / _lengths(guided, source.latents.patch_size))
    if rescale:
        axes = list(range(1, guided.ndim))
        matched = guided * (text.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        guided = rescale * matched + (1 - rescale) * guided
    return guided if channels is None else torch.cat([guided, conditional[:, channels:]], dim=1)


def _lengths(prediction: Tensor, patch: int) -> Tensor:
    """Return the length of each token of [batch, channels, …, height, width], [batch, 1, …, height, width]."""
    *rest, height, width = prediction.shape
    tokens = prediction.reshape(*rest, height // patch, patch, width // patch, patch)
    lengths = tokens.square().sum(dim=(1, -3, -1), keepdim=True).sqrt()
    return lengths.expand(-1, -1, *tokens.shape[2:]).reshape(-1, 1, *prediction.shape[2:])
