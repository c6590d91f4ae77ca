"""Manifest version 1: the one declaration that exporters, builders, runtimes and docs derive from.

Everything that a runtime must know about a model stands here once, so that no runtime holds a
constant of a model family. ``manifest.schema.json`` beside this file is generated from these classes
(``python -m dit_deploy.bundle.schema``).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ._fit import check_decoder, check_denoiser, check_encoder, check_guidance, check_prompts
from ._fit_video import check_experts, check_frames, check_image_conditions
from ._record import Name, Positive, Record, Sha256
from ._video import Experts, ImageConditions, ImageEncoder, Tiling

__all__ = [
    "FORMAT",
    "VERSION",
    "Axis",
    "Component",
    "Experts",
    "FileRecord",
    "Guidance",
    "ImageConditions",
    "ImageEncoder",
    "Latents",
    "Manifest",
    "Name",
    "Positive",
    "Prediction",
    "PromptEncoder",
    "Prompts",
    "Record",
    "Scheduler",
    "Sha256",
    "SourceRecord",
    "TensorSpec",
    "Tiling",
]

FORMAT = "dit-deploy-bundle"
VERSION = 1

DType = Literal["float32", "float16", "bfloat16", "int64", "int32", "bool"]
ClassIndex = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,8})$")]


class Axis(Record):
    """One dynamic axis: ``multiple`` × the free size ``name`` + ``offset``, with the free size at least ``minimum``.

    ``Axis(name="patch_height", multiple=2)`` is a latent height of 2, 4, 6, …; ``Axis(name="latent_frames", multiple=4,
    offset=-3)`` are the 1, 5, 9, … frames that a causal autoencoder makes of 1, 2, 3, … latent ones. ``minimum`` and
    ``maximum`` bound the free size itself, not what it gives (a position table may end somewhere).
    """

    name: Name
    multiple: Positive = 1
    offset: int = 0
    minimum: Positive = 1
    maximum: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Axis:
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"axis {self.name}: maximum {self.maximum} is below minimum {self.minimum}")
        if (smallest := self.size(self.minimum)) < 1:
            raise ValueError(f"axis {self.name}: its smallest size is {smallest}, expected at least 1")
        return self

    def size(self, free: int) -> int:
        """Return the axis's size for a free size."""
        return free * self.multiple + self.offset

    def free(self, size: int) -> int | None:
        """Return the free size that gives ``size``, within the bounds; ``None`` where there is none."""
        free, rest = divmod(size - self.offset, self.multiple)
        outside = free < self.minimum or (self.maximum is not None and free > self.maximum)
        return None if rest or outside else free


class TensorSpec(Record):
    """One input or output of a component.

    ``axes`` holds an integer for a fixed size and an :class:`Axis` for a dynamic one. ``minimum`` and
    ``maximum`` are the range of the values, both ends included; ``None`` says unbounded.
    """

    name: Name
    dtype: DType
    axes: tuple[Positive | Axis, ...]
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> TensorSpec:
        if self.minimum is not None and self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(f"{self.name}: maximum {self.maximum} is below minimum {self.minimum}")
        return self

    def axis_names(self) -> set[str]:
        """Return the names of the free sizes of this tensor."""
        return {axis.name for axis in self.axes if isinstance(axis, Axis)}


class Component(Record):
    """One ONNX graph of the bundle: its file, what its weights are stored as, and what goes in and comes out."""

    path: str
    weights: Literal["float32", "float16", "bfloat16"] = "float32"
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Component:
        for tensors in (self.inputs, self.outputs):
            names = [tensor.name for tensor in tensors]
            if len(set(names)) != len(names):
                raise ValueError(f"{self.path}: tensor names repeat: {names}")
        return self

    @model_validator(mode="after")
    def _outputs_follow(self) -> Component:
        # A runtime allocates outputs before it runs, from the sizes of the inputs alone.
        known = set().union(*(tensor.axis_names() for tensor in self.inputs))
        for tensor in self.outputs:
            if unknown := tensor.axis_names() - known:
                raise ValueError(f"{self.path}: output {tensor.name} has axes of no input: {sorted(unknown)}")
        return self

    def input(self, name: str) -> TensorSpec:
        """Return the input called ``name``; ``KeyError`` where there is none."""
        return {tensor.name: tensor for tensor in self.inputs}[name]

    def output(self, name: str) -> TensorSpec:
        """Return the output called ``name``; ``KeyError`` where there is none."""
        return {tensor.name: tensor for tensor in self.outputs}[name]


class Latents(Record):
    """Geometry of the latents, and the size that the model was trained at.

    ``height`` and ``width`` are in latent pixels: a picture has ``height × spatial_compression`` rows; ``frames``, in
    latent frames, is there for videos only. How many pictures they are follows from the VAE decoder's axes; without a
    decoder, ``1 + (frames - 1) × temporal_compression``. A patch has ``temporal_patch_size`` latent frames.
    ``frame_rate``: pictures a second that a video is played at. ``noise_axes``: the order in which frames and channels
    of noise are drawn; CogVideoX's pipelines have frames before channels.
    ``scaling_factor`` and ``shift_factor`` are inside the VAE graphs; they stand here to be read.
    """

    channels: Positive
    frames: Positive | None = None
    height: Positive
    width: Positive
    patch_size: Positive
    temporal_patch_size: Positive = 1
    spatial_compression: Positive
    temporal_compression: Positive = 1
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    frame_rate: Annotated[float, Field(gt=0)] | None = None
    noise_axes: Literal["channels_frames", "frames_channels"] = "channels_frames"


class Prediction(Record):
    """What the denoiser's output ``prediction`` means.

    ``timestep_unit``: ``training_index`` counts 0 … ``num_train_timesteps - 1``; ``sigma`` is the flow
    time in 0 … 1. ``learned_range_variance`` says that there is an output ``variance`` whose −1 … 1 runs
    from the smallest to the largest posterior log-variance (Nichol & Dhariwal 2021, eq. 15).
    """

    type: Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
    timestep_unit: Literal["training_index", "sigma"] = "training_index"
    learned_range_variance: bool = False


class Guidance(Record):
    """How the family guides, and what its main knob ``guidance_scale`` means.

    ``classifier_free`` is unconditional + (scale + ``scale_offset``) · (conditional − unconditional), on where the
    factor is above 1; ``embedded`` hands the scale to the denoiser as its condition ``input`` (FLUX.1 dev). With
    ``embedded`` and ``none`` a run may be guided in the classifier-free way beside it, by a knob of its own.
    ``unconditional`` gives the value of each condition for the unguided half; conditions made of a prompt are made of
    the negative prompt there. ``channels`` is how many leading latent channels are guided; ``None`` means all. The
    original DiT guides three of four "for exact reproducibility". ``normalise``: ``token`` brings each token of the
    guided prediction back to the length of the conditional one (Qwen-Image). ``skip_layers`` is the input that leaves
    out blocks for skip-layer guidance, int64 [batch, blocks], 1 for one that is left out; all 0 where a run has none.
    ``variance``: a learned variance is guided like the prediction (Latte), not the conditional one.
    """

    kind: Literal["none", "classifier_free", "embedded"] = "none"
    unconditional: dict[Name, int | float] = Field(default={})
    channels: Positive | None = None
    default_scale: float = 1.0
    scale_offset: float = 0.0
    input: Name | None = None
    normalise: Literal["token"] | None = None
    skip_layers: Name | None = None
    variance: bool = False


class Scheduler(Record):
    """The diffusers scheduler config that the model came with, unchanged, and what its pipeline does with it.

    ``sigmas``: ``scheduler`` leaves the noise levels to the config, ``linspace`` passes 1 … 1/steps as FLUX's pipeline
    does, ``linspace_to_zero`` those of steps + 1 levels from 1 to 0 but the last, as HunyuanVideo's. A config with
    dynamic shifting is shifted by the number of tokens in any case. ``strength``: how steps · strength of
    image-to-image becomes a number of steps; pipelines of flow models round it up.
    """

    path: str = "scheduler/scheduler_config.json"
    num_inference_steps: Positive = 50
    sigmas: Literal["scheduler", "linspace", "linspace_to_zero"] = "scheduler"
    strength: Literal["rounded_down", "rounded_up"] = "rounded_down"


class PromptEncoder(Record):
    """How a prompt becomes the token ids of one text encoder, a component of the bundle.

    ``tokenizer`` is a ``tokenizer.json`` of the ``tokenizers`` library, truncation and padding included;
    ``negative_tokenizer`` another for negative prompts, where they are cut at another length. The text is cleaned in
    the order of ``cleaning``, then put in place of ``{}`` in the template.
    """

    component: Name
    tokenizer: str
    negative_tokenizer: str | None = None
    cleaning: tuple[Literal["html_unescape", "lowercase", "strip", "collapse_whitespace"], ...] = ()
    prompt_template: str = "{}"
    negative_template: str = "{}"

    @field_validator("prompt_template", "negative_template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError(f"template {template!r} must hold {{}} once, where the prompt goes")
        return template


class Prompts(Record):
    """How prompts become conditions of the denoiser.

    Each encoder takes ``input_ids`` [batch, tokens] and, where it declares it, ``attention_mask``; names of outputs
    occur once among all encoders. The component ``join`` makes conditions of them; without one they are conditions
    themselves. ``negative`` is the negative prompt where none is given; ``None``: such a run is not guided.

    ``padding``: ``kept`` hands on what the encoder makes of it. ``dropped`` (Latte): a run of one sample has as many
    tokens as its prompt, the negative prompt too; in a run of several what stands for a prompt's padding is zeros, and
    negative prompts stay as they are.
    """

    encoders: tuple[PromptEncoder, ...] = Field(min_length=1)
    join: Name | None = None
    negative: str | None = ""
    padding: Literal["kept", "dropped"] = "kept"

    @model_validator(mode="after")
    def _one_has_padding(self) -> Prompts:
        if self.padding == "dropped" and (len(self.encoders) > 1 or self.join is not None):
            raise ValueError("prompts.padding can be dropped of one encoder without join")
        return self


class SourceRecord(Record):
    """What the bundle was made from: its kind, its name, and the SHA-256 over its weights' bytes."""

    kind: str
    name: str
    sha256: Sha256


class FileRecord(Record):
    """Size in bytes and SHA-256 of one file."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


# Matched whole: ``$`` alone would let a final newline through.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_RESERVED = ("manifest.json", "manifest.json.sha256")
_LATER = ("calibration/", "engines/", "parity/")


def check_relative_path(path: str, what: str = "bundle") -> str:
    """Return ``path`` if it is a plain relative POSIX path that stays below its root, else raise ``ValueError``.

    ``what`` is what the root is, for the message.
    """
    if len(path) > 240 or not all(_SEGMENT.fullmatch(segment) for segment in path.split("/")):
        raise ValueError(f"path {path!r} is not a plain relative path inside the {what} (letters, digits, . _ - and /)")
    return path


class Manifest(Record):
    """The whole of ``manifest.json``."""

    format: Literal["dit-deploy-bundle"] = "dit-deploy-bundle"
    version: Literal[1] = 1
    created_by: str
    family: Name
    source: SourceRecord
    latents: Latents
    components: dict[Name, Component]
    prediction: Prediction
    guidance: Guidance = Guidance()
    scheduler: Scheduler = Scheduler()
    prompts: Prompts | None = None
    image_conditions: ImageConditions | None = None
    experts: Experts | None = None
    tiling: Tiling | None = None
    labels: dict[ClassIndex, str] = Field(default={}, description="class index → its name, where the source has names")
    files: dict[str, FileRecord]

    @field_validator("files")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for path in files:
            check_relative_path(path)
            if path in _RESERVED or path.startswith(_LATER):
                raise ValueError(f"{path} has records of its own and does not belong under files")
        return files

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if "denoiser" not in self.components:
            raise ValueError(f"components lack a denoiser: {sorted(self.components)}")
        for path in (*(component.path for component in self.components.values()), self.scheduler.path):
            if path not in self.files:
                raise ValueError(f"{path} is named but has no record under files")
        return self

    @model_validator(mode="after")
    def _components_fit(self) -> Manifest:
        """Hold the parts of the manifest against the signatures that every runtime relies on."""
        denoiser = self.components["denoiser"]
        check_denoiser(denoiser, self.latents, self.prediction)
        made = check_prompts(self.prompts, self.components, self.files) if self.prompts is not None else set()
        check_guidance(self.guidance, denoiser, self.latents, made)
        if self.image_conditions is not None:
            check_image_conditions(self.image_conditions, self.components)
        if self.experts is not None:
            check_experts(self.experts, self.components)
        if "vae_encoder" in self.components:
            check_encoder(self.components["vae_encoder"], self.latents)
        if "vae_decoder" in self.components:
            check_decoder(self.components["vae_decoder"], self.latents)
        check_frames(self.components, self.latents)
        return self

    def to_json(self) -> str:
        """Return the manifest as indented JSON that ends in a newline, the same bytes for the same values."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema (draft 2020-12) of manifest version 1."""
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema()}
