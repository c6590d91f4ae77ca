"""The denoiser's conditions for both halves of guidance, from labels, prompts and tensors, checked before a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dit_deploy.bundle import Component, Manifest, Prompts, TensorSpec, bind_axes, check_values
from dit_deploy.errors import InputError
from dit_deploy.runtimes.arguments import shown

__all__ = ["Conditions", "Texts", "read_conditions", "read_texts"]

Array = NDArray[Any]


class EncodePrompts(Protocol):
    """Makes conditions of prompts."""

    def __call__(
        self, texts: Sequence[str], negative: bool = False, others: Mapping[int, Sequence[str]] | None = None
    ) -> Mapping[str, Array]:
        """Return the conditions of texts, negative prompts or not, by name, [len(texts), …].

        ``others``: what encoders read instead, by their place.
        """

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return how many tokens of each text are no padding."""


_NO_CONDITIONS = ("latents", "timestep")


@dataclass(frozen=True)
class Conditions:
    """Every input of the denoiser but ``latents`` and ``timestep``.

    Attributes:
        conditional: by name, [batch, …].
        unconditional: those that have another value in the unguided half, of the same rank; a free size may differ.
        batch: how many samples there are.
        skipping: those that have another value where blocks are left out, for skip-layer guidance.
    """

    conditional: Mapping[str, Array]
    unconditional: Mapping[str, Array]
    batch: int
    skipping: Mapping[str, Array] = field(default_factory=dict)

    @property
    def same_shapes(self) -> bool:
        """Whether both halves fit into one call of the denoiser."""
        return all(array.shape == self.conditional[name].shape for name, array in self.unconditional.items())

    def joined(self, more: Mapping[str, Array]) -> Conditions:
        """Return these conditions and ``more``, which both halves have alike; what is here already stays."""
        return replace(self, conditional={**more, **self.conditional})

    def sizes(self, denoiser: Component, *, conditional: bool) -> dict[str, int]:
        """Return the free sizes that one half fixes, without the batch."""
        half = dict(self.conditional) if conditional else {**self.conditional, **self.unconditional}
        sizes = bind_axes([spec for spec in denoiser.inputs if spec.name in half], half) if half else {}
        sizes.pop("batch", None)
        return sizes


@dataclass(frozen=True)
class Texts:
    """Prompts, one a sample or one for several, with their negatives; ``None`` where a run has no negative.

    ``others`` and ``negative_others`` are what later text encoders read instead, by their place among all: 1 is the
    second.
    """

    prompts: list[str]
    negatives: list[str] | None
    images_each: int
    others: Mapping[int, list[str]] = field(default_factory=dict)
    negative_others: Mapping[int, list[str]] = field(default_factory=dict)


def read_texts(
    manifest: Manifest,
    prompt: object,
    negative_prompt: object,
    images_each: object,
    others: Sequence[tuple[object, object]] = (),
) -> Texts | None:
    """Return the prompts of a run, checked; ``None`` where there are none.

    Args:
        others: ``prompt_2`` and ``negative_prompt_2``, ``prompt_3`` and ``negative_prompt_3``, …; ``None`` for those
            that are the first, and ``""`` too, as diffusers has it: ``[""]`` is a text.

    Raises:
        InputError: one is no text or list of texts, the numbers of prompts and negatives differ, or the bundle has no
            such text encoder.
    """
    if isinstance(images_each, bool) or not isinstance(images_each, (int, np.integer)) or images_each < 1:
        raise InputError(f"num_images_per_prompt: {shown(images_each)} came, an integer of 1 or more was expected")
    if prompt is None:
        for place, pair in enumerate(others, start=1):
            if any(value is not None for value in pair):
                raise InputError(f"prompt_{place + 1}: came without a prompt; give prompt= too, or leave it out")
        if negative_prompt is not None:
            raise InputError("negative_prompt: came without a prompt; give prompt= too, or leave it out")
        if images_each != 1:
            raise InputError(
                f"num_images_per_prompt: {images_each} came without a prompt; repeat the conditions instead"
            )
        return None
    if manifest.prompts is None:
        raise InputError("prompt: this bundle has no text encoder; give its conditions as tensors")
    prompts = _texts("prompt", prompt)
    later, later_negatives = (
        {
            place: _later(manifest.prompts, f"{name}_{place + 1}", pair[half], place, len(prompts))
            for place, pair in enumerate(others, start=1)
            if pair[half] is not None and not (isinstance(pair[half], str) and not pair[half])
        }
        for half, name in enumerate(("prompt", "negative_prompt"))
    )
    if negative_prompt is None:
        negative_prompt = manifest.prompts.negative
    if negative_prompt is None:
        return Texts(prompts, None, int(images_each), later)
    negatives = _texts("negative_prompt", negative_prompt)
    if len(negatives) == 1:
        negatives *= len(prompts)
    if len(negatives) != len(prompts):
        raise InputError(
            f"negative_prompt: {len(negatives)} came for {len(prompts)} prompts; give one, or one for each"
        )
    return Texts(prompts, negatives, int(images_each), later, later_negatives)


def read_conditions(
    manifest: Manifest,
    *,
    class_labels: object = None,
    texts: Texts | None = None,
    encode: EncodePrompts | None = None,
    scale: float | None = None,
    given: Mapping[str, object] | None = None,
    given_unconditional: Mapping[str, object] | None = None,
    guided: bool = True,
    skip_layers: Sequence[int] = (),
    frame_rate: float | None = None,
    later: Collection[str] = (),
) -> Conditions:
    """Return the conditions of a run, checked against the denoiser's declaration.

    Args:
        class_labels: an integer or a flat list of them, for a denoiser that takes labels.
        texts: prompts, which ``encode`` turns into conditions.
        scale: what a denoiser with embedded guidance is fed.
        given, given_unconditional: tensors by name, instead of what labels and prompts make.
        guided: whether the unguided half is needed at all.
        skip_layers: the denoiser's blocks that skip-layer guidance leaves out.
        frame_rate: what a denoiser that knows of it is fed.
        later: conditions that are not missed: :meth:`Conditions.joined` brings them.

    Raises:
        InputError: one is missing, unknown, of another type or shape, or out of the declared range.
    """
    denoiser = manifest.components["denoiser"]
    specs = {spec.name: spec for spec in denoiser.inputs if spec.name not in _NO_CONDITIONS}
    conditional = _tensors("conditions", specs, given or {})
    unconditional = _tensors("unconditional", specs, given_unconditional or {})
    if texts is not None:
        assert encode is not None
        made = dict(encode(texts.prompts, False, texts.others))
        negative: dict[str, Array] = {}
        if guided and texts.negatives is not None:
            negative = dict(encode(texts.negatives, True, texts.negative_others))
        if manifest.prompts is not None and manifest.prompts.padding == "dropped":
            made, negative = _without_padding(made, negative, encode.lengths(texts.prompts), texts.images_each)
        conditional = {**_repeated(made, texts.images_each), **conditional}
        unconditional = {**_repeated(negative, texts.images_each), **unconditional}
    if class_labels is not None:
        if "class_labels" not in specs:
            raise InputError("class_labels: this bundle's denoiser takes none")
        conditional["class_labels"] = _labels(specs["class_labels"], class_labels)
    batch = len(next(iter(conditional.values()))) if conditional else 1
    if manifest.guidance.input is not None and scale is not None:
        conditional[manifest.guidance.input] = np.full(batch, scale, specs[manifest.guidance.input].dtype)
    skipping: dict[str, Array] = {}
    if (skip := manifest.guidance.skip_layers) is not None:
        conditional.setdefault(skip, np.zeros((batch, _blocks(specs[skip])), np.int64))
    if skip_layers:
        skipping = _skipping(specs[skip] if skip else None, skip_layers, batch)
    if "frame_rate" in specs and frame_rate is not None:
        conditional.setdefault("frame_rate", np.full(batch, frame_rate, specs["frame_rate"].dtype))
    if missing := [name for name in specs if name not in conditional and name not in later]:
        how = "; give a prompt" if manifest.prompts is not None and missing[0] not in ("class_labels",) else ""
        raise InputError(f"{missing[0]}: this bundle needs it, and none came{how}")
    for name, value in manifest.guidance.unconditional.items():
        unconditional.setdefault(name, np.full_like(conditional[name], value))
    conditions = Conditions(conditional, unconditional, batch, skipping)
    for half in (True, False):
        conditions.sizes(denoiser, conditional=half)  # raises where tensors disagree, the batch included
    for arrays in (conditional, unconditional):
        for name, array in arrays.items():
            check_values(specs[name], array)
    return conditions


def _later(prompts: Prompts, name: str, value: object, place: int, count: int) -> list[str]:
    """Return the texts of the text encoder at ``place``, one for each of ``count`` prompts."""
    if place >= len(prompts.encoders):
        raise InputError(f"{name}: came, but this bundle has no text encoder {place + 1}; leave it out")
    texts = _texts(name, value)
    if len(texts) not in (1, count):
        raise InputError(f"{name}: {len(texts)} came for {count} prompts; give one, or one for each")
    return texts * count if len(texts) == 1 else texts


def _texts(name: str, value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}: {shown(value)} came, expected a text or a list of them")
    return list(texts)


def _without_padding(
    made: dict[str, Array], negative: dict[str, Array], lengths: NDArray[np.int64], images_each: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return what prompts of ``lengths`` tokens and their negatives made, as ``padding="dropped"`` has them."""
    if len(lengths) * images_each > 1:
        return {name: _zero_beyond(array, lengths) for name, array in made.items()}, negative
    first, second = ({name: array[:, : lengths[0]] for name, array in one.items()} for one in (made, negative))
    return first, second


def _zero_beyond(array: Array, lengths: NDArray[np.int64]) -> Array:
    """Return ``array`` [batch, tokens, …] with zeros for the tokens of each sample beyond its length."""
    beyond = np.arange(array.shape[1])[None, :] >= lengths[:, None]
    return np.where(beyond.reshape(*beyond.shape, *[1] * (array.ndim - 2)), np.zeros((), array.dtype), array)


def _repeated(conditions: Mapping[str, Array], times: int) -> dict[str, Array]:
    return {name: np.repeat(array, times, axis=0) if times > 1 else array for name, array in conditions.items()}


def _blocks(spec: TensorSpec) -> int:
    blocks = spec.axes[1]
    assert isinstance(blocks, int)  # the manifest was held against this
    return blocks


def _skipping(spec: TensorSpec | None, layers: Sequence[int], batch: int) -> dict[str, Array]:
    """Return the input that leaves out ``layers``, by name, [batch, blocks]."""
    if spec is None:
        raise InputError("skip_guidance_layers: no blocks of this bundle's denoiser can be left out")
    blocks = _blocks(spec)
    if wrong := [layer for layer in layers if layer >= blocks]:
        raise InputError(f"skip_guidance_layers: {wrong[0]} came, this bundle's denoiser has blocks 0 … {blocks - 1}")
    skipped = np.zeros((batch, blocks), spec.dtype)
    skipped[:, list(layers)] = 1
    return {spec.name: skipped}


def _tensors(field: str, specs: Mapping[str, TensorSpec], given: Mapping[str, object]) -> dict[str, Array]:
    if not isinstance(given, Mapping):
        raise InputError(f"{field}: {shown(given)} came, expected numpy arrays by name")
    tensors: dict[str, Array] = {}
    for name, value in given.items():
        if name not in specs:
            known = ", ".join(specs) or "no conditions"
            raise InputError(f"{field}: {shown(name)} came, this bundle's denoiser takes {known}")
        if not isinstance(value, np.ndarray):
            raise InputError(f"{field}: {name} is a {type(value).__name__}, expected a numpy array")
        tensors[name] = value
    return tensors


def _labels(spec: TensorSpec, value: object) -> Array:
    wrong = InputError(f"{spec.name}: {shown(value)} came, expected an integer or a list of them")
    # numpy would make 1 of a True that stands among integers.
    if isinstance(value, Sequence) and any(isinstance(one, (bool, np.bool_)) for one in value):
        raise wrong
    try:
        array = np.atleast_1d(np.asarray(value))
    except (ValueError, TypeError, OverflowError):  # a ragged list
        raise wrong from None
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise wrong
    check_values(spec, array)
    return array.astype(spec.dtype)
