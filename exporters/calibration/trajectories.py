"""What the denoiser is fed while the bundle draws pictures: subjects × timesteps, each part of the schedule equally.

The bundle samples itself, plain graphs in ONNX Runtime, its own scheduler, guided as its manifest says. Of the
evaluations some are kept, bit for bit as they went into the denoiser. Scales that come from one timestep or from one
label do not hold for the others (PTQ4DiT, Wu et al. 2024), so both are spread evenly; prompts are of many kinds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Bundle, Component, TensorSpec
from dit_deploy.errors import InputError
from dit_deploy.exporters.calibration._session import MappedRunner
from dit_deploy.exporters.calibration.texts import made_by_prompts, read_prompts
from dit_deploy.exporters.component_roles import denoisers, made_of_pictures
from dit_deploy.parity.examples import given_pictures
from dit_deploy.parity.prompts import take
from dit_deploy.parity.sizes import tried_patches, tried_size
from dit_deploy.runtimes import Binding, BindingPool, Pipeline, Runner
from dit_deploy.runtimes.autoencoder import Compression, decode, decoder_inputs, pieces_of
from dit_deploy.runtimes.integrity import check_component
from dit_deploy.sampling import NoiseSource

__all__ = [
    "Kept",
    "Progress",
    "Recording",
    "Settings",
    "Trajectories",
    "decode_latents",
    "picture_feeds",
    "plan",
    "sample_trajectories",
]

Array = NDArray[Any]
Floats = NDArray[np.float32]
#: Called with what is being done, how far, and of how much.
Progress = Callable[[str, int, int], None]

#: Patches that sampling may work on, all pictures and steps together, before fewer pictures are drawn: on two CPU
#: cores about five minutes of a DiT-XL/2.
_SAMPLED_PATCHES = 1 << 16
#: Patches in the evaluations that are kept; 8192 give a DiT-XL/2's 99.99th percentile from nine million values.
_KEPT_PATCHES = 1 << 13
_FEWEST, _MOST = 4, 16  # pictures
_STRATA = 16
#: Pictures that are shown to what makes conditions of them.
_PICTURES = 4
#: Patches in one call of the denoiser, which bounds its memory.
_PATCHES_A_CALL = 1 << 12


@dataclass(frozen=True)
class Settings:
    """What is drawn and what of it is kept. All of it decides the result, so all of it is part of a calibration's key.

    Attributes:
        samples: pictures drawn.
        evaluations: strata of the schedule, that is how many different steps are kept, first and last among them.
        pictures: how many pictures are kept at each of those steps, taking turns.
        steps: inference steps.
        guidance_scale: as in :meth:`dit_deploy.Pipeline.__call__`.
        seed: picture i is drawn from ``seed`` + i.
        conditions: input of the denoiser → one value a picture.
        prompts: one a picture, where the bundle has text encoders.
        size: ``num_frames``, ``height`` and ``width`` of videos; empty: pictures of the usual size.
    """

    samples: int
    evaluations: int
    pictures: int
    steps: int
    guidance_scale: float
    seed: int
    conditions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prompts: tuple[str, ...] = ()
    size: dict[str, int] = field(default_factory=dict)

    def kept_steps(self) -> list[int]:
        """Return the steps that are kept: the first, the last, and between them at equal distances."""
        if self.evaluations == 1:
            return [self.steps // 2]
        return [round(i * (self.steps - 1) / (self.evaluations - 1)) for i in range(self.evaluations)]

    def kept_pictures(self, stratum: int) -> list[int]:
        """Return which pictures are kept in the stratum 0, 1, …: they take turns."""
        return sorted((stratum * self.pictures + i) % self.samples for i in range(self.pictures))


@dataclass(frozen=True)
class Kept:
    """One evaluation of the denoiser.

    Attributes:
        stratum: which part of the schedule it stands for, 0 … ``evaluations`` - 1.
        step: the inference step, 0 … ``steps`` - 1.
        pictures: the pictures in it, by index.
        feeds: the denoiser's inputs by name; first the guided half of each picture, then, where the run is guided, the
            unguided half: [2 · pictures, …].
        component: the denoiser that evaluated it, of two.
    """

    stratum: int
    step: int
    pictures: tuple[int, ...]
    feeds: dict[str, Array]
    component: str = "denoiser"


@dataclass(frozen=True)
class Trajectories:
    """The kept evaluations in the schedule's order, and the latents that they end in: [samples, channels, …]."""

    settings: Settings
    evaluations: tuple[Kept, ...]
    latents: Floats

    @property
    def feeds(self) -> list[dict[str, Array]]:
        """The denoiser's inputs of each kept evaluation; of the first, where there are two."""
        return self.feeds_of("denoiser")

    def feeds_of(self, component: str) -> list[dict[str, Array]]:
        """Return the inputs of each kept evaluation of one denoiser."""
        return [kept.feeds for kept in self.evaluations if kept.component == component]


def plan(
    bundle: Bundle,
    *,
    samples: int | None = None,
    evaluations: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    guidance_scale: float | None = None,
    conditions: Mapping[str, Sequence[int]] | None = None,
    prompts: Sequence[str] | None = None,
) -> Settings:
    """Return settings with everything filled in that was left open.

    Args:
        samples: pictures to draw; by default 16, fewer (at least 4, and one a prompt) where a picture has many patches.
        evaluations: how many different steps are kept; by default 16, or the usual number of them if less.
        steps: inference steps; by default the manifest's usual number, fewer (down to ``evaluations``) where a picture
            has many patches.
        guidance_scale: by default the manifest's.
        conditions: input of the denoiser → one integer a picture; those left out are spread evenly over the range that
            the manifest declares, without the unguided half's value.
        prompts: one a picture, from the start again where there are fewer; by default those of
            :data:`dit_deploy.parity.prompts.CALIBRATION`, where the bundle has text encoders.

    Raises:
        InputError: a number is out of range, a condition is none that can be made up, or prompts came for a bundle
            without text encoders.
    """
    usual, cost = bundle.manifest.scheduler.num_inference_steps, 2 * tried_patches(bundle.manifest)
    evaluations = min(usual, _STRATA) if evaluations is None else _whole("evaluations", evaluations, 1)
    if steps is None:
        steps = max(evaluations, min(usual, _SAMPLED_PATCHES // (cost * _MOST // 2)))
    steps = _whole("steps", steps, evaluations)
    texts = read_prompts(bundle, prompts)
    given = {name: [int(one) for one in values] for name, values in (conditions or {}).items()}
    if samples is None:
        affordable = max(_FEWEST, min(_MOST, _SAMPLED_PATCHES // (cost * steps)))
        samples = next((len(values) for values in given.values()), max(affordable, len(prompts or ())))
    samples = _whole("samples", samples, 1)
    pictures = max(1, min(samples, _KEPT_PATCHES // (cost * evaluations)))
    # Every picture has to have its turn.
    pictures = max(pictures, -(-samples // evaluations))
    own = bundle.manifest.guidance
    scale = own.default_scale if guidance_scale is None else float(guidance_scale)
    made = {"latents", "timestep", "frame_rate", own.input, own.skip_layers}
    made |= made_by_prompts(bundle) | made_of_pictures(bundle.manifest)
    chosen = {
        spec.name: tuple(_values(bundle, spec, samples, given.pop(spec.name, None)))
        for spec in bundle.component("denoiser").inputs
        if spec.name not in made
    }
    if given:
        raise InputError(f"conditions: {next(iter(given))!r} is no condition of this denoiser; it has {list(chosen)}")
    drawn = take(texts, samples) if texts else ()
    size = tried_size(bundle.manifest)
    return Settings(samples, evaluations, pictures, steps, scale, _whole("seed", seed, 0), chosen, drawn, size)


def sample_trajectories(
    bundle: Bundle, settings: Settings, *, threads: int | None = None, progress: Progress | None = None
) -> Trajectories:
    """Draw ``settings.samples`` pictures up to their latents, and keep what the denoiser was fed.

    The same settings give the same bytes on one machine with the same number of ``threads``.

    Raises:
        BundleError: the bundle's files were altered.
        InputError: the bundle's scheduler has no such number of steps.
        BackendError: ONNX Runtime is not installed, refuses the graph, or gives values that are not finite.
    """
    recordings: dict[str, Recording] = {}
    for name in denoisers(bundle.manifest):
        check_component(bundle, name)
        component = bundle.component(name)
        recordings[name] = Recording(MappedRunner(bundle.component_path(name), component, threads=threads))
    pipeline = Pipeline(bundle, "onnx", threads=threads, runners=recordings)
    at_once = max(1, _PATCHES_A_CALL // (2 * tried_patches(bundle.manifest)))
    groups = [range(first, min(first + at_once, settings.samples)) for first in range(0, settings.samples, at_once)]
    kept: list[Kept] = []
    latents: list[Floats] = []
    for index, group in enumerate(groups):
        run = _Run(settings, group, index * settings.steps, len(groups) * settings.steps, kept, progress)
        for name, recording in recordings.items():
            recording.listener = partial(run.keep, name)
        run.report()
        given: dict[str, Any] = {name: [values[one] for one in group] for name, values in settings.conditions.items()}
        given |= settings.size | given_pictures(bundle.manifest, len(group), settings.size, group.start)
        if settings.prompts:
            given["prompt"] = [settings.prompts[one] for one in group]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of prompts that are cut: they are nobody's
            output = pipeline(
                **given,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                seed=[(settings.seed + one) % 2**64 for one in group],
                output_type="latent",
                callback=run.advance,
            )
        latents.append(output.latents)
    kept.sort(key=lambda one: one.step)  # keeps the order of the rows of a step, and of the groups
    return Trajectories(settings, tuple(kept), np.concatenate(latents))


def decode_latents(bundle: Bundle, latents: Floats, *, threads: int | None = None) -> Floats:
    """Return pictures [batch, channels, [frames,] height, width] in 0 … 1 of ``latents``, by the plain decoder.

    Samples are decoded one at a time, in the pieces in which the model always is.
    """
    component = bundle.component("vae_decoder")
    check_component(bundle, "vae_decoder")
    pool = BindingPool(MappedRunner(bundle.component_path("vae_decoder"), component, threads=threads))
    compression = Compression.of(bundle.manifest)
    pieces = pieces_of(None, bundle.manifest)
    source = NoiseSource(0)
    images = [
        decode(pool, one, compression, pieces, inputs=decoder_inputs(component, one.shape, source))[0]
        for one in np.split(latents, len(latents))
    ]
    return np.ascontiguousarray(np.moveaxis(np.concatenate(images), -1, 1))


def picture_feeds(
    bundle: Bundle, component: str, settings: Settings, *, threads: int | None = None
) -> list[dict[str, Array]]:
    """Return the inputs of a component that makes conditions of pictures, for example pictures: a feed for each.

    Raises:
        BundleError: the bundle's files were altered.
        BackendError: ONNX Runtime is not installed, or refuses the graph.
    """
    check_component(bundle, component)
    recording = Recording(MappedRunner(bundle.component_path(component), bundle.component(component), threads=threads))
    feeds: list[dict[str, Array]] = []
    recording.listener = lambda given: feeds.append({name: array.copy() for name, array in given.items()})
    pipeline = Pipeline(bundle, "onnx", threads=threads, runners={component: recording})
    for index in range(_PICTURES):
        given: dict[str, Any] = {name: [values[0]] for name, values in settings.conditions.items()}
        given |= settings.size | given_pictures(bundle.manifest, 1, settings.size, index, optional=True)
        if settings.prompts:
            given["prompt"] = settings.prompts[0]
        pipeline(**given, num_inference_steps=1, guidance_scale=1.0, seed=settings.seed + index, output_type="latent")
    return feeds


class _Run:
    """One run of the pipeline for the pictures of ``group``: knows the step, and keeps what is to be kept."""

    def __init__(
        self, settings: Settings, group: range, done: int, total: int, kept: list[Kept], progress: Progress | None
    ) -> None:
        self._settings, self._group, self._kept = settings, group, kept
        self._done, self._total, self._progress = done, total, progress
        self._strata = {step: stratum for stratum, step in enumerate(settings.kept_steps())}
        self._step = 0

    def keep(self, component: str, feeds: Mapping[str, Array]) -> None:
        """See one evaluation of a denoiser; a step of several evaluations is kept with all of them."""
        stratum = self._strata.get(self._step)
        if stratum is None:
            return
        pictures = [one for one in self._settings.kept_pictures(stratum) if one in self._group]
        halves = len(feeds["latents"]) // len(self._group)  # 2 where the run is guided
        rows = [half * len(self._group) + one - self._group.start for half in range(halves) for one in pictures]
        if rows:
            feeds = {name: array[rows] for name, array in feeds.items()}  # copies: the run goes on in its buffers
            self._kept.append(Kept(stratum, self._step, tuple(pictures), feeds, component))

    def advance(self, step: int, _steps: int, _latents: Floats) -> None:
        """Hear that ``step`` is done."""
        self._step = step + 1
        self.report()

    def report(self) -> None:
        """Say how far all runs are."""
        if self._progress is not None:
            self._progress("sampling", self._done + self._step, self._total)


class Recording:
    """A runner that shows ``listener`` the inputs of every run, after it, in the buffers that the run used."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.listener: Callable[[Mapping[str, Array]], None] | None = None

    @property
    def component(self) -> Component:
        """The declaration of its inputs and outputs."""
        return self._runner.component

    def bind(self, sizes: Mapping[str, int]) -> Binding:
        """Allocate buffers for ``sizes``."""
        return _RecordingBinding(self._runner.bind(sizes), self)


class _RecordingBinding:
    def __init__(self, binding: Binding, recording: Recording) -> None:
        self._binding, self._recording = binding, recording
        self.inputs, self.outputs = binding.inputs, binding.outputs

    def run(self) -> None:
        self._binding.run()
        if self._recording.listener is not None:
            self._recording.listener(self.inputs)


def _values(bundle: Bundle, spec: TensorSpec, samples: int, given: Sequence[int] | None) -> Sequence[int]:
    """Return one value of a condition for each picture: those given, or spread over the declared range."""
    if given is not None:
        if len(given) != samples:
            raise InputError(f"{spec.name}: {len(given)} values came for {samples} pictures")
        return given
    whole = spec.dtype in ("int64", "int32") and len(spec.axes) == 1
    if not whole or spec.minimum is None or spec.maximum is None:
        raise InputError(
            f"calibration: {spec.name} has no declared range of integers to choose from; give its values in conditions"
        )
    null = bundle.manifest.guidance.unconditional.get(spec.name)
    low, high = int(spec.minimum), int(spec.maximum)
    if low < high:  # the unguided half is in every evaluation anyway
        low, high = low + (low == null), high - (high == null)
    count = high - low + 1
    if samples >= count:
        return [low + i % count for i in range(samples)]
    return [low + (2 * i + 1) * count // (2 * samples) for i in range(samples)]


def _whole(name: str, value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        raise InputError(f"calibration {name}: {value!r} came, expected an integer of at least {minimum}")
    return int(value)
