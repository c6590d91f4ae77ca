"""Wan 2.1 (Wan Team 2025, arXiv 2503.20314) and 2.2: text, and pictures, to video.

The network is diffusers' own but for the rotary embedding, which writes in place there, and for what it computes in
Python. Its forms, all of one class: text to video; image to video, whose latents get the given pictures' beside them;
that with CLIP's view of the pictures besides (Wan 2.1); and the 5-billion model of Wan 2.2, where the first latent
frame is the picture's own, at timestep 0, and each token has a timestep. The 14-billion models of Wan 2.2 are two
networks, one for high noise and one for low.

One thing that the pipelines do is left to the caller: they mend a prompt with ftfy, where that is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from torch import nn

from dit_deploy.bundle import (
    Component,
    Experts,
    Guidance,
    ImageConditions,
    ImageEncoder,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
    TensorSpec,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_wan
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families import _wan_images as pictures
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families._wan_network import Denoiser, MaskedDenoiser, Reference
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import clip_vision, t5
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["Form", "open_pipeline"]

#: Tokens of a prompt, the pipelines' ``max_sequence_length``; models that look through CLIP know no other number.
_TOKENS = 512
#: Pictures a second that the models were trained at: 16, and 24 of the 5-billion model. No config says it.
_FRAME_RATE, _FRAME_RATE_MASKED = 16.0, 24.0
#: The component that sees the given pictures as CLIP does.
_IMAGE_ENCODER = "image_encoder"
#: Patches and tokens at which the denoiser is proved. Training size on a CPU would take hours of a large model.
_PROVED = {"batch": 2, "patch_frames": 3, "patch_height": 6, "patch_width": 10, "sequence_length": 77}


@dataclass(frozen=True)
class Form:
    """Which of the forms a transformer has.

    Attributes:
        channels: of the latents.
        patch: latent frames and pixels of a patch, (frames, height, width).
        text_width: of the text's hidden states.
        positions: patches that the rotary embedding has in each direction.
        beside: channels of the given pictures' latents and their mask, put beside the latents'; 0: none.
        image_width: of CLIP's hidden states; ``None``: it takes none.
        image_tokens: of CLIP's view of a first and a last picture; ``None``: it is of a first one, whatever its tokens.
        masked: each token has a timestep, 0 where a picture is given.
    """

    channels: int
    patch: tuple[int, int, int]
    text_width: int
    positions: int
    beside: int = 0
    image_width: int | None = None
    image_tokens: int | None = None
    masked: bool = False

    @property
    def pictures(self) -> int:
        """How many pictures CLIP sees of a video."""
        return 1 if self.image_tokens is None else 2


def open_pipeline(folder: Path) -> Source:
    """Open a folder that ``WanPipeline`` or ``WanImageToVideoPipeline`` saved.

    Raises:
        SourceError: a part is missing or of another class, parts do not fit each other, or diffusers could not run it.
    """
    index = files.read_json(folder / "model_index.json")
    kind: Any = {one.__name__: one for one in (WanPipeline, WanImageToVideoPipeline)}[index["_class_name"]]
    usual = {name: one.default for name, one in inspect.signature(kind.__call__).parameters.items()}
    transformers = _transformers(folder, index)
    form = _read_form(
        transformers[0], from_image=kind is WanImageToVideoPipeline, masked=bool(index.get("expand_timesteps"))
    )
    if len(transformers) > 1 and _read_form(transformers[1], from_image=form.beside > 0, masked=form.masked) != form:
        raise SourceError(f"{transformers[1]} has other inputs than {transformers[0]}; the two must share theirs")
    record = read_record(folder, *(one.name for one in transformers), "vae", "text_encoder")
    vae = folder / "vae"
    vae_config = autoencoder_wan.read(vae, form.channels)
    compression = int(vae_config["scale_factor_spatial"])
    text = t5.graph(folder / "text_encoder", "text_encoder", tokens=77, attends_mask=True, zero_padding=True)
    check_width(folder, text, form.text_width, "text_dim")
    halves = autoencoder_wan.graphs(vae, vae_config)
    if form.beside:
        halves = [half for half in halves if half.name != "vae_encoder"]  # it is in the graph of the pictures
    conditions, readers = _image_conditions(folder, form, vae_config)
    states = [reader.component.outputs[0] for reader in readers if reader.name == _IMAGE_ENCODER]
    return Source(
        family="wan",
        **record,
        graphs=(
            text,
            *readers,
            *halves,
            *(
                Graph(
                    name,
                    _component(name, form, record["scheduler_config"], states),
                    partial(_build, one, form),
                    _PROVED,
                    reference=partial(_reference, one, form),
                    feeds=pictures.mask_feeds(form.patch) if form.masked else None,
                )
                for name, one in zip(("denoiser", "denoiser_2"), transformers, strict=False)
            ),
        ),
        latents=Latents(
            channels=form.channels,
            frames=(usual["num_frames"] - 1) // autoencoder_wan.FRAMES + 1,
            height=usual["height"] // compression,
            width=usual["width"] // compression,
            patch_size=form.patch[1],
            temporal_patch_size=form.patch[0],
            spatial_compression=compression,
            temporal_compression=autoencoder_wan.FRAMES,
            frame_rate=_FRAME_RATE_MASKED if form.masked else _FRAME_RATE,
        ),
        prediction=Prediction(type="flow_prediction"),
        guidance=Guidance(kind="classifier_free", default_scale=usual["guidance_scale"]),
        scheduler=Scheduler(num_inference_steps=usual["num_inference_steps"]),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer/tokenizer.json",
                    cleaning=("html_unescape", "collapse_whitespace", "strip"),
                ),
            )
        ),
        image_conditions=conditions,
        experts=Experts(component="denoiser_2", boundary=index["boundary_ratio"]) if len(transformers) > 1 else None,
        tiling=autoencoder_wan.tiling(vae_config),
        files={"tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=_TOKENS)},
        notes=("prompts are not mended by ftfy, as diffusers does where it is installed",),
    )


def _transformers(folder: Path, index: Mapping[str, Any]) -> list[Path]:
    """Return the folders of the transformer for high noise and, where there is one, of that for low noise."""
    named = [name for name in ("transformer", "transformer_2") if (index.get(name) or [None])[0] is not None]
    boundary = index.get("boundary_ratio")
    if "transformer" not in named:
        raise SourceError(f"{folder} has no transformer, which its pipeline may do without; it is needed here")
    if boundary is None:
        return [folder / "transformer"]
    if "transformer_2" not in named:
        raise SourceError(f"{folder} has boundary_ratio {boundary} and no transformer_2 for the timesteps below it")
    if not 0 < boundary < 1:
        raise SourceError(f"{folder}: boundary_ratio is {boundary}; expected a number between 0 and 1")
    return [folder / name for name in named]


def _read_form(folder: Path, *, from_image: bool, masked: bool) -> Form:
    """Return the form of the transformer in ``folder``, as the pipeline uses it; see :func:`open_pipeline`."""
    config = read_config(WanTransformer3DModel, folder)
    taken = int(config["in_channels"])
    channels = int(config["out_channels"] or taken)
    beside = autoencoder_wan.FRAMES + channels if from_image and not masked else 0
    if taken != channels + beside:
        raise SourceError(
            f"{folder} takes {taken} channels and predicts {channels}; "
            f"{'image to video' if beside else 'this pipeline'} needs {channels + beside} in"
        )
    frames, height, width = config["patch_size"]
    if height != width or (masked and (frames, height) != (1, 2)):
        raise SourceError(f"{folder} has patches of {frames}×{height}×{width}, which its pipeline does not draw with")
    looks = config["image_dim"] is not None
    if looks != (config["added_kv_proj_dim"] is not None) or (looks and not beside):
        raise SourceError(
            f"{folder} has image_dim {config['image_dim']} and added_kv_proj_dim {config['added_kv_proj_dim']}; "
            "a model that looks at pictures through CLIP has both, and is one of image to video"
        )
    return Form(
        channels=channels,
        patch=(frames, height, width),
        text_width=int(config["text_dim"]),
        positions=int(config["rope_max_seq_len"]),
        beside=beside,
        image_width=config["image_dim"],
        image_tokens=config["pos_embed_seq_len"] if looks else None,
        masked=masked,
    )


def _image_conditions(
    folder: Path, form: Form, vae_config: Mapping[str, Any]
) -> tuple[ImageConditions | None, list[Graph]]:
    """Return what the manifest says of pictures, and the graphs that read them."""
    if form.masked:
        record = ImageConditions(component=pictures.NAME, kept=pictures.LATENTS, mask=pictures.MASK)
        return record, [pictures.first_frame_graph(folder / "vae", vae_config)]
    if not form.beside:
        return None, []
    graphs = [pictures.beside_graph(folder / "vae", vae_config)]
    encoder = None
    if form.image_width is not None:
        graph, size = clip_vision.graph(
            folder / "image_encoder",
            folder / "image_processor",
            _IMAGE_ENCODER,
            pictures=form.pictures,
            output=pictures.STATES,
        )
        *_, tokens, width = graph.component.outputs[0].axes
        if width != form.image_width or form.image_tokens not in (None, tokens):
            raise SourceError(
                f"{folder / 'image_encoder'} makes {tokens} tokens of width {width}, {folder / 'transformer'} takes "
                f"{form.image_tokens or tokens} of {form.image_width}"
            )
        graphs.append(graph)
        encoder = ImageEncoder(component=_IMAGE_ENCODER, size=size)
    last = encoder is None or form.pictures == 2
    return ImageConditions(component=pictures.NAME, required=True, last_image=last, encoder=encoder), graphs


def _build(folder: Path, form: Form) -> nn.Module:
    return (MaskedDenoiser if form.masked else Denoiser)(load_diffusers(WanTransformer3DModel, folder)).eval()


def _reference(folder: Path, form: Form) -> nn.Module:
    return Reference(load_diffusers(WanTransformer3DModel, folder), masked=form.masked)


def _component(
    name: str, form: Form, scheduler_config: Mapping[str, Any], image_states: Sequence[TensorSpec]
) -> Component:
    """Declare the inputs and outputs of a denoiser; ``image_states`` is what CLIP gives, if it takes that."""
    frames, patch, _ = form.patch
    limits: dict[str, Any] = {"temporal_patch_size": frames, "frames_limit": form.positions, "limit": form.positions}
    # Beside pictures: diffusers tells the text from them by its number of tokens.
    text = parts.text_tensor(form.text_width, tokens=_TOKENS) if image_states else parts.text_tensor(form.text_width)
    inputs = [parts.video_tensor(form.channels, patch, **limits), parts.timestep_tensor(scheduler_config), text]
    if form.beside:
        described = "the mask of the frames that are given, and the latents of a video of them alone"
        inputs.append(parts.video_tensor(form.beside, patch, pictures.LATENTS, described, **limits))
    if form.masked:
        described = "of the picture that is given, in its frame"
        inputs.append(parts.video_tensor(form.channels, patch, pictures.LATENTS, described, **limits))
        mask = parts.video_tensor(1, patch, pictures.MASK, "1 where image_latents take the latents' place", **limits)
        inputs.append(mask.model_copy(update={"minimum": 0, "maximum": 1}))
    return Component(
        path=f"{name}/model.onnx",
        inputs=(*inputs, *image_states),
        outputs=parts.video_outputs(form.channels, patch, **limits),
    )
