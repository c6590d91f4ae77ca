"""From a checkpoint to a bundle: trace, prove, and only then write."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from dit_deploy.bundle import Bundle, BundleWriter, Component, Latents, Scheduler, SourceRecord
from dit_deploy.errors import InputError, SourceError
from dit_deploy.exporters import autoencoders, proof
from dit_deploy.exporters.families import dit
from dit_deploy.exporters.families.dit_weights import parameter_count
from dit_deploy.exporters.sources import Source, open_source
from dit_deploy.exporters.tracing import trace
from dit_deploy.exporters.weights import folder_files
from dit_deploy.sampling import solver_table

__all__ = ["export"]

Progress = Callable[[str], None]

_WEIGHTS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def export(
    source: str | Path,
    out: str | Path,
    *,
    arch: str | None = None,
    image_size: int | None = None,
    vae: str | Path | None = None,
    dtype: str = "fp32",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Export the checkpoint ``source`` as the bundle ``out``.

    Every graph is run against the source at three sizes that it was not traced at, before it is written.

    Args:
        source: a diffusers ``DiTPipeline`` or ``DiTTransformer2DModel`` folder, or a facebookresearch/DiT checkpoint.
        out: the bundle's folder; its parent exists.
        arch, image_size, vae: see :func:`~dit_deploy.exporters.sources.open_source`.
        dtype: what weights are stored as: ``"fp32"``, or ``"fp16"`` or ``"bf16"`` for half the size. Computation
            stays in float32; how an engine computes is chosen when it is built.
        overwrite: replace a bundle that is there. Anything else that is there is left alone, and is an error.
        progress: called with one line before each step.

    Raises:
        InputError: ``dtype`` is none of the three, or an option of the source's scheduler is not supported.
        SourceError: the checkpoint cannot be opened, or its parts do not fit each other.
        ExportError: a graph could not be traced, or differs from its source.
        BundleError: ``out`` cannot be written.
    """
    say = progress or (lambda line: None)
    if dtype not in _WEIGHTS:
        raise InputError(f"dtype: {dtype!r} came, expected one of {', '.join(_WEIGHTS)}")
    say(f"opening {source}")
    opened = open_source(source, arch=arch, image_size=image_size, vae=vae)
    prediction = dit.prediction(opened.config, opened.scheduler_config.get("prediction_type", "epsilon"))
    solver_table(opened.scheduler_config, opened.num_inference_steps)  # an option that is not supported is said now
    with BundleWriter(out, overwrite=overwrite, expected_size=_expected_size(opened, _WEIGHTS[dtype])) as writer:
        components, latents = _export_autoencoder(opened, writer.folder, _WEIGHTS[dtype], say)
        components["denoiser"] = _export_denoiser(opened, writer.folder, _WEIGHTS[dtype], say)
        scheduler = Scheduler(num_inference_steps=opened.num_inference_steps)
        writer.file(scheduler.path).write_text(
            json.dumps(dict(opened.scheduler_config), indent=2) + "\n", encoding="utf-8"
        )
        say("hashing")
        return writer.finish(
            family="dit",
            source=SourceRecord(kind=opened.kind, name=opened.name, sha256=opened.sha256()),
            latents=latents,
            components=components,
            prediction=prediction,
            guidance=dit.guidance(opened.config, opened.guidance_channels),
            scheduler=scheduler,
            labels=dict(opened.labels),
        )


def _expected_size(source: Source, weights: str) -> int:
    """Return about how many bytes the bundle will have: its weights."""
    autoencoder = sum(path.stat().st_size for path in folder_files(source.vae_folder)) if source.vae_folder else 0
    return parameter_count(source.config) * (4 if weights == "float32" else 2) + autoencoder


def _export_denoiser(source: Source, folder: Path, weights: str, say: Progress) -> Component:
    config = source.config
    component = dit.denoiser_component(config, int(source.scheduler_config.get("num_train_timesteps", 1000)))
    grid = config.sample_size // config.patch_size
    typical = {"batch": 2, "patch_height": grid, "patch_width": grid}
    component = component.model_copy(update={"weights": weights})
    _export_graph(source.network, component, folder, typical, say, reference=source.reference)
    return component


def _export_autoencoder(
    source: Source, folder: Path, weights: str, say: Progress
) -> tuple[dict[str, Component], Latents]:
    """Export encoder and decoder where the source has an autoencoder; return them with the latents' geometry."""
    config = source.config
    if source.vae_folder is None:
        say("no VAE: the bundle will give latents only (name a diffusers VAE folder with --vae)")
        return {}, dit.latents(config, 1, 1.0, 0.0)
    vae = autoencoders.load_autoencoder(source.vae_folder)
    if vae.config.latent_channels != config.in_channels:
        raise SourceError(
            f"{source.vae_folder} has {vae.config.latent_channels} latent channels, the denoiser {config.in_channels}; "
            "they do not belong together"
        )
    compression = autoencoders.spatial_compression(vae)
    typical = {"batch": 2, "latent_height": config.sample_size, "latent_width": config.sample_size}
    stored = {"weights": weights}
    encoder = autoencoders.encoder_component(vae, compression).model_copy(update=stored)
    decoder = autoencoders.decoder_component(vae, compression).model_copy(update=stored)
    _export_graph(lambda: autoencoders.Encoder(vae), encoder, folder, typical, say)
    _export_graph(lambda: autoencoders.Decoder(vae), decoder, folder, typical, say)
    latents = dit.latents(config, compression, *autoencoders.factors(vae))
    return {"vae_encoder": encoder, "vae_decoder": decoder}, latents


def _export_graph(
    build: Callable[[], nn.Module],
    component: Component,
    folder: Path,
    typical: dict[str, int],
    say: Progress,
    reference: Callable[[], nn.Module] | None = None,
) -> None:
    """Trace the module that ``build`` makes, and prove it against ``reference`` (the module itself by default).

    Modules live only while they are needed: the check runs the ONNX file alone, so a large model is in
    memory once at any time.
    """
    what = component.path.split("/")[0]
    expectations = proof.expect((reference or build)(), component, typical)
    with _timed(say, f"tracing {what}"):
        trace(build(), component, folder)
    gc.collect()  # torch's traced programs refer to themselves, and hold the weights
    with _timed(say, f"proving {what} at three untraced sizes"):
        worst = proof.check(folder / component.path, component, expectations)
    say(f"{what}: largest relative difference {worst:.1e}")


@contextmanager
def _timed(say: Progress, what: str) -> Iterator[None]:
    say(what)
    start = time.perf_counter()
    yield
    say(f"{what}: {time.perf_counter() - start:.1f} s")
