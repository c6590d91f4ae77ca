"""The calibration of a bundle: made once, kept in the bundle, enough for every method and precision.

``calibration/KEY.json`` holds histograms, channel maxima and ranges, not scales: those follow from it in a
moment, so that another method or another precision costs no second calibration. KEY is the beginning of the
SHA-256 over the graphs that took part, the scheduler, and the settings; so a file of another graph is never found,
let alone used.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy import __version__
from dit_deploy.bundle import Bundle, TensorSpec
from dit_deploy.bundle.engine import graph_digest
from dit_deploy.errors import InputError
from dit_deploy.exporters.calibration._kept import FOLDER, find, locked, read_calibration, write
from dit_deploy.exporters.calibration._record import (
    CALIBRATION_FORMAT,
    CALIBRATION_VERSION,
    CalibrationRecord,
    canonical_digest,
)
from dit_deploy.exporters.calibration.observers import Histogram, Levels, Method, check_choice, scale_of
from dit_deploy.exporters.calibration.statistics import gather
from dit_deploy.exporters.calibration.texts import read_prompts, reads_prompts, text_feeds
from dit_deploy.exporters.calibration.trajectories import (
    Progress,
    Settings,
    decode_latents,
    picture_feeds,
    plan,
    sample_trajectories,
)
from dit_deploy.exporters.component_roles import denoisers, picture_readers
from dit_deploy.exporters.passes.graph_file import load_graph, save_graph
from dit_deploy.exporters.passes.smoothing import smooth
from dit_deploy.runtimes.autoencoder import decoder_inputs
from dit_deploy.runtimes.integrity import check_component
from dit_deploy.sampling import NoiseSource

__all__ = ["FOLDER", "Calibration", "calibrate", "read_calibration"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """What the activations of one component hold while the bundle draws pictures.

    Attributes:
        component: the component's name.
        record: all of it, as it is kept.
        path: where it is kept.
        unsmoothed: of a smoothed graph's calibration, that of the graph as it is in the bundle, from which the
            smoothing followed.
    """

    component: str
    record: CalibrationRecord = field(repr=False)
    path: Path
    unsmoothed: Calibration | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over everything but how long it took and with what it was made."""
        return self.record.digest

    @property
    def seconds(self) -> float:
        """How long it took when it was made."""
        return self.record.seconds

    def scales(self, method: Method = "mse", levels: Levels = "int8", percentile: float = 99.99) -> dict[str, float]:
        """Return the activation scale of each linear layer; see :func:`~.observers.scale_of`.

        Raises:
            InputError: no such method or levels, or ``percentile`` is not in 0 … 100.
        """
        check_choice(method, levels, percentile)
        found = {
            value: scale_of(activation.histogram(), method, levels, percentile)
            for value, activation in self.record.activations.items()
        }
        return {layer: found[value] for layer, value in self.record.layers.items()}

    def channel_maxima(self) -> dict[str, Floats]:
        """Return the largest |x| of each input channel of each linear layer, float32 [in]."""
        found = {value: activation.maxima() for value, activation in self.record.activations.items()}
        return {layer: found[value] for layer, value in self.record.layers.items()}

    def histograms(self) -> dict[str, Histogram]:
        """Return the histogram of the input of each linear layer."""
        found = {value: activation.histogram() for value, activation in self.record.activations.items()}
        return {layer: found[value] for layer, value in self.record.layers.items()}

    def feeds(self) -> list[dict[str, NDArray[Any]]]:
        """Return what the denoiser was fed, an evaluation each: input name → array; none for other components."""
        record = self.record if self.unsmoothed is None else self.unsmoothed.record
        return [{name: array.array() for name, array in feed.items()} for feed in record.feeds]

    def ranges(self) -> dict[str, float]:
        """Return the largest |x| of every float tensor that depends on an input; infinity where one occurred."""
        return {name: np.inf if largest is None else largest for name, largest in self.record.ranges.items()}


def calibrate(
    bundle: Bundle,
    *,
    component: str = "denoiser",
    samples: int | None = None,
    evaluations: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    guidance_scale: float | None = None,
    conditions: Mapping[str, Sequence[int]] | None = None,
    prompts: Sequence[str] | None = None,
    smoothing: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Calibration:
    """Return the calibration of a component, from the bundle where it is kept there, else made now and kept.

    The denoiser sees the evaluations of :func:`~.trajectories.sample_trajectories`, the VAE's decoder the latents that
    they end in, its encoder the pictures of these; so calibrating a part of the VAE calibrates the denoiser first.
    Text encoders, and what joins their outputs, see all prompts whatever the number of pictures, so they need no
    trajectory. Several processes may calibrate one bundle: the second waits for the first, and finds what that made.
    What is interrupted leaves nothing behind.

    Args:
        samples, evaluations, steps, seed, guidance_scale, conditions, prompts: see :func:`~.trajectories.plan`.
        smoothing: α of SmoothQuant. What is observed then is the graph after
            :func:`~dit_deploy.exporters.passes.smoothing.smooth`, by the channel maxima of the graph as it is.
        threads: threads within an operator; ``None`` is one a core. Bytes are reproducible for one number of them.
        progress: called with what is being done, how far, and of how much.
        force: make it anew even where it is kept.

    Raises:
        InputError: an argument is out of range, or the component's inputs cannot be made from a trajectory.
        BundleError: there is no such component, its files were altered, or the bundle's folder cannot be written to.
        BackendError: an activation is not finite, or ONNX Runtime is not installed or refuses the graph.
    """
    bundle.component(component)
    if reads_prompts(bundle, component):
        texts = read_prompts(bundle, prompts)
        identity = _text_identity(bundle, component, texts)
        return _kept_or_made(_Feeds(bundle, component, texts, threads, progress), identity, None, force)
    settings = plan(
        bundle,
        samples=samples,
        evaluations=evaluations,
        steps=steps,
        seed=seed,
        guidance_scale=guidance_scale,
        conditions=conditions,
        prompts=prompts,
    )
    feeds = _Feeds(bundle, component, settings, threads, progress)
    identity = _identity(bundle, component, settings)
    plain = _kept_or_made(feeds, identity, None, force)
    if smoothing is None:
        return plain
    identity = {**identity, "settings": {**identity["settings"], "smoothing": smoothing}}
    return replace(_kept_or_made(feeds, identity, plain, force), unsmoothed=plain)


class _Feeds:
    """What a component is fed, made when it is first asked for. One that reads prompts has texts for settings."""

    def __init__(
        self,
        bundle: Bundle,
        component: str,
        settings: Settings | Sequence[str],
        threads: int | None,
        progress: Progress | None,
    ) -> None:
        self.bundle, self.component, self.threads = bundle, component, threads
        self.tell: Progress = progress or (lambda _text, _done, _total: None)
        self._settings = settings
        self._made: tuple[list[dict[str, NDArray[Any]]], Floats | None] | None = None

    def get(self, plain: Calibration | None) -> tuple[list[dict[str, NDArray[Any]]], Floats | None]:
        """Return the feeds and the latents that the trajectories ended in: those of ``plain`` where it keeps them."""
        if plain is not None and plain.record.feeds:
            return plain.feeds(), None
        if self._made is None:
            if not isinstance(self._settings, Settings):
                self._made = text_feeds(self.bundle, self.component, self._settings, threads=self.threads), None
            elif self.component in denoisers(self.bundle.manifest):
                trajectories = sample_trajectories(
                    self.bundle, self._settings, threads=self.threads, progress=self.tell
                )
                feeds = trajectories.feeds_of(self.component)
                if not feeds:
                    raise InputError(
                        f"calibration: no kept evaluation is the {self.component}'s; give more evaluations or steps"
                    )
                self._made = feeds, trajectories.latents
            elif self.component in picture_readers(self.bundle.manifest):
                made = picture_feeds(self.bundle, self.component, self._settings, threads=self.threads)
                self._made = made, None
            else:
                latents = _latents(self.bundle, self._settings, self.threads, self.tell)
                self._made = [_autoencoder_feed(self.bundle, self.component, latents, self.threads)], latents
        return self._made


def _kept_or_made(feeds: _Feeds, identity: dict[str, Any], plain: Calibration | None, force: bool) -> Calibration:
    """Return the calibration that is kept, else make it: of the smoothed graph where ``plain`` is given."""
    bundle, component, tell = feeds.bundle, feeds.component, feeds.tell
    path = bundle.path / FOLDER / f"{canonical_digest(identity)[:16]}.json"
    if not force and (kept := find(path, identity, tell)):
        return Calibration(component, kept, path)
    with locked(path, lambda: tell("waiting for another calibration", 0, 1)):
        if not force and (kept := find(path, identity, tell)):
            return Calibration(component, kept, path)
        started = time.perf_counter()
        given, latents = feeds.get(plain)
        check_component(bundle, component)
        with ExitStack() as stack:
            graph, what = bundle.component_path(component), f"observing the {component}"
            if plain is not None:
                # Beside the calibration, as a large model's weights may not fit where temporary files go.
                folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
                graph = _smoothed(graph, Path(stack.enter_context(folder)), plain, identity)
                what = f"{what}, smoothed"
            statistics = gather(
                graph,
                given,
                shared=[spec.name for spec in bundle.component(component).inputs if not _of_samples(spec)],
                threads=feeds.threads,
                progress=lambda done, total: tell(what, done, total),
            )
        start = component in denoisers(bundle.manifest) and plain is None  # of later calibrations
        record = CalibrationRecord.make(
            identity,
            statistics,
            feeds=given if start else (),
            latents=latents if start else None,
            created_by=f"dit-deploy {__version__}",
            seconds=round(time.perf_counter() - started, 3),
        )
        write(path, record)
    return Calibration(component, record, path)


def _of_samples(spec: TensorSpec) -> bool:
    """Say whether the first axis of an input counts samples."""
    first = spec.axes[0] if spec.axes else 0
    return not isinstance(first, int) and first.name == "batch"


def _smoothed(graph: Path, folder: Path, plain: Calibration, identity: dict[str, Any]) -> Path:
    """Write the smoothed graph into ``folder`` and return its path."""
    model = load_graph(graph)
    smooth(model, plain.channel_maxima(), float(identity["settings"]["smoothing"]))
    path = folder / plain.component / graph.name
    save_graph(model, path)
    return path


def _identity(bundle: Bundle, component: str, settings: Settings) -> dict[str, Any]:
    """Return what decides the content of a calibration."""
    manifest = bundle.manifest
    graphs = {*denoisers(manifest), component}
    if component == "vae_encoder":
        graphs.add("vae_decoder")
    decisive = {
        "scheduler": manifest.files[manifest.scheduler.path].sha256,
        "guidance": manifest.guidance.model_dump(mode="json"),
        "latents": manifest.latents.model_dump(mode="json"),
        "prediction": manifest.prediction.model_dump(mode="json"),
    }
    chosen = asdict(settings)
    chosen["conditions"] = {name: list(values) for name, values in settings.conditions.items()}
    chosen["prompts"] = list(settings.prompts)
    for name in ("prompts", "size"):  # of a bundle without text encoders; of pictures
        if not chosen[name]:
            del chosen[name]
    return {
        "format": CALIBRATION_FORMAT,
        "version": CALIBRATION_VERSION,
        "component": component,
        "graphs": {name: graph_digest(manifest, name) for name in sorted(graphs) if name in manifest.components},
        "model": canonical_digest(decisive),
        "settings": chosen,
    }


def _text_identity(bundle: Bundle, component: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return what decides the calibration of a component that reads prompts."""
    manifest = bundle.manifest
    assert manifest.prompts is not None
    joined = manifest.prompts.encoders if component == manifest.prompts.join else ()
    tokenizers = {
        path: manifest.files[path].sha256
        for encoder in manifest.prompts.encoders
        for path in (encoder.tokenizer, encoder.negative_tokenizer)
        if path is not None
    }
    graphs = {component, *(encoder.component for encoder in joined)}
    decisive = {"prompts": manifest.prompts.model_dump(mode="json"), "tokenizers": tokenizers}
    return {
        "format": CALIBRATION_FORMAT,
        "version": CALIBRATION_VERSION,
        "component": component,
        "graphs": {name: graph_digest(manifest, name) for name in sorted(graphs)},
        "model": canonical_digest(decisive),
        "settings": {"prompts": list(texts)},
    }


def _latents(bundle: Bundle, settings: Settings, threads: int | None, progress: Progress | None) -> Floats:
    """Return the latents that the denoiser's calibration with these settings ended in."""
    values = asdict(settings)
    for name in ("pictures", "size"):  # they follow from the others, and from the bundle
        values.pop(name)
    values["prompts"] = settings.prompts or None
    record = calibrate(bundle, **values, threads=threads, progress=progress).record
    assert record.latents is not None
    return record.latents.array()


def _autoencoder_feed(bundle: Bundle, component: str, latents: Floats, threads: int | None) -> dict[str, Floats]:
    """Return the input of a part of the VAE; one of pictures sees a video frame by frame."""
    inputs = bundle.component(component).inputs

    def seen(array: Floats) -> Floats:
        of_frames = array.ndim > len(inputs[0].axes)
        return np.moveaxis(array, 2, 1).reshape(-1, array.shape[1], *array.shape[3:]) if of_frames else array

    if component == "vae_decoder":
        given = seen(latents)
        return {"latents": given, **decoder_inputs(bundle.component(component), given.shape, NoiseSource(0))}
    if component == "vae_encoder" and len(inputs) == 1:
        if "vae_decoder" not in bundle.manifest.components:
            raise InputError("calibration: a VAE encoder sees decoded pictures, and this bundle has no VAE decoder")
        return {"images": seen(decode_latents(bundle, latents, threads=threads))}
    raise InputError(
        f"calibration: {component} came; the inputs of denoiser, vae_decoder and vae_encoder can be made from "
        "trajectories, those of text encoders from prompts, those of image conditions from pictures, no others"
    )
