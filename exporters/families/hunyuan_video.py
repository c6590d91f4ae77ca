"""HunyuanVideo (Kong et al. 2024, arXiv 2412.03603): joint and single blocks over the tokens of a video and a prompt;
and SkyReels V1 (Skywork 2025), the same network with the latents of a first picture beside the video's.

Positions in time, rows and columns are inside the graph: a runtime sees latents [batch, 16, frames, height, width]. The
network is diffusers' own but for its attention, whose mask is made in place there, and for what it computes in Python:
the positions and the masks.

The prompt is read by two encoders: a Llama that is asked to describe a video, whose states before its last two layers
are the text's tokens, and CLIP, whose pooled state is added to the timestep. Guidance is embedded; a negative prompt
counts where ``true_cfg_scale`` is above 1.

Tencent's own image-to-video models (``HunyuanVideoImageToVideoPipeline``) are not supported: their Llama reads the
picture too, at a place in the middle of the prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import (
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from torch import nn

from dit_deploy.bundle import (
    Component,
    Guidance,
    ImageConditions,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_hunyuan_video as autoencoder
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families._hunyuan_video_network import Denoiser, FromPicture, Reference
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import clip, llama
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["denoiser_component", "open_pipeline"]

#: What the pipeline asks the Llama; the tokens before the prompt are dropped from what it answers.
_TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
)
_DROPPED = 95
#: Tokens of a prompt for the Llama, the pipeline's ``max_sequence_length``; and for CLIP.
_TOKENS, _CLIP_TOKENS = 256, 77
#: ``hidden_states`` of the Llama that are read: the pipeline skips two layers.
_HIDDEN_LAYER = -3
#: Frames a second, as the model was trained and its authors save videos.
_FRAME_RATE = 24.0
#: Sizes at which graphs are proved, in patches; the training size on a CPU would take hours.
_PROVED = {"frames": 3, "side": 8}
#: The component that makes the latents of the first picture, and the condition that they are.
_PICTURE, _PICTURE_LATENTS = "image_latents_encoder", "image_latents"


def open_pipeline(folder: Path) -> Source:
    """Open a folder that ``HunyuanVideoPipeline`` or ``HunyuanSkyreelsImageToVideoPipeline`` saved.

    Raises:
        SourceError: a part is missing, or of another kind than the pipeline's; or parts do not fit each other.
    """
    name = files.read_json(folder / "model_index.json")["_class_name"]
    kinds = (HunyuanVideoPipeline, HunyuanSkyreelsImageToVideoPipeline)
    kind: Any = {one.__name__: one for one in kinds}[name]
    usual = {name: one.default for name, one in inspect.signature(kind.__call__).parameters.items()}
    from_picture = kind is HunyuanSkyreelsImageToVideoPipeline
    transformer, vae = folder / "transformer", folder / "vae"
    config = _config(transformer, from_picture=from_picture)
    record = read_record(folder, "text_encoder", "text_encoder_2", "vae", "transformer")
    channels, patch, patch_frames = (int(config[name]) for name in ("out_channels", "patch_size", "patch_size_t"))
    text = llama.graph(
        folder / "text_encoder",
        "text_encoder",
        tokens=_TOKENS + _DROPPED,
        hidden_layer=_HIDDEN_LAYER,
        drop=_DROPPED,
    )
    pooled = clip.graph(
        folder / "text_encoder_2",
        "text_encoder_2",
        tokens=_CLIP_TOKENS,
        hidden_output=None,
        pooled_output="pooled_projections",
        projection=False,
    )
    for graph, key in ((text, "text_embed_dim"), (pooled, "pooled_projection_dim")):
        check_width(folder, graph, int(config[key]), key)
    halves, compression, scale = autoencoder.graphs(vae, channels, _PROVED["frames"], 2 * _PROVED["side"])
    if from_picture:
        picture = autoencoder.picture_graph(vae, _PICTURE, _PICTURE_LATENTS, 2 * _PROVED["side"])
        halves = [picture, *(half for half in halves if half.name == "vae_decoder")]

    def network(make: type[Denoiser] | type[Reference]) -> nn.Module:
        made = make(load_diffusers(HunyuanVideoTransformer3DModel, transformer))
        return FromPicture(made) if from_picture else made

    denoiser = Graph(
        "denoiser",
        denoiser_component(config, record["scheduler_config"]),
        lambda: network(Denoiser),
        {
            "batch": 2,
            "patch_frames": _PROVED["frames"],
            "patch_height": _PROVED["side"],
            "patch_width": _PROVED["side"],
            "sequence_length": 77,
        },
        reference=lambda: network(Reference),
        feeds=_feeds,
    )
    guided = bool(config["guidance_embeds"])
    return Source(
        family="hunyuan_video",
        **record,
        graphs=(text, pooled, *halves, denoiser),
        latents=Latents(
            channels=channels,
            frames=(usual["num_frames"] - 1) // autoencoder.TEMPORAL + 1,
            height=usual["height"] // compression,
            width=usual["width"] // compression,
            patch_size=patch,
            temporal_patch_size=patch_frames,
            spatial_compression=compression,
            temporal_compression=autoencoder.TEMPORAL,
            scaling_factor=scale,
            frame_rate=_FRAME_RATE,
        ),
        prediction=Prediction(type="flow_prediction", timestep_unit="training_index"),
        # Both are guided by a negative prompt, too, where true_cfg_scale is above 1.
        guidance=Guidance(kind="embedded", input="guidance", default_scale=usual["guidance_scale"])
        if guided
        else Guidance(),
        scheduler=Scheduler(
            num_inference_steps=usual["num_inference_steps"], sigmas="linspace_to_zero", strength="rounded_up"
        ),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer/tokenizer.json",
                    prompt_template=_TEMPLATE,
                    negative_template=_TEMPLATE,
                ),
                PromptEncoder(component="text_encoder_2", tokenizer="tokenizer_2/tokenizer.json"),
            ),
            negative=None,
        ),
        image_conditions=ImageConditions(component=_PICTURE, required=True) if from_picture else None,
        tiling=autoencoder.tiling(compression),
        files={
            "tokenizer/tokenizer.json": lambda: tokenizer_json(
                folder / "tokenizer", length=_TOKENS + _DROPPED, as_saved=True
            ),
            "tokenizer_2/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer_2", length=_CLIP_TOKENS),
        },
        notes=(f"diffusers' pipeline has true_cfg_scale {usual['true_cfg_scale']:g} where none is given; here it is 1",)
        if usual["true_cfg_scale"] != 1
        else (),
    )


def _config(folder: Path, *, from_picture: bool) -> Mapping[str, Any]:
    """Return the transformer's config with the class's defaults; :class:`SourceError` for another kind of model."""
    config = read_config(HunyuanVideoTransformer3DModel, folder)
    if (kind := config["image_condition_type"]) is not None:
        raise SourceError(
            f"{folder} has image_condition_type {kind}: it makes videos of pictures, which its Llama reads beside the "
            "prompt; that is not supported"
        )
    taken, made = config["in_channels"], config["out_channels"] or config["in_channels"]
    if taken != made * (2 if from_picture else 1):
        expected = "twice as many in as out, for the picture's" if from_picture else "as many in as out"
        raise SourceError(f"{folder} has {taken} channels in and {made} out; expected {expected}")
    return {**config, "out_channels": made}


def denoiser_component(config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> Component:
    """Declare the denoiser's inputs and outputs; ``config`` is the transformer's."""
    sizes = int(config["out_channels"]), int(config["patch_size"])
    frames = int(config["patch_size_t"])
    inputs = [
        parts.video_tensor(*sizes, temporal_patch_size=frames),
        parts.timestep_tensor(scheduler_config),
        parts.text_tensor(int(config["text_embed_dim"])),
        parts.mask_tensor(),
        parts.pooled_tensor(int(config["pooled_projection_dim"])),
    ]
    if config["in_channels"] > config["out_channels"]:
        described = "of the first picture, zeros after it"
        inputs.append(parts.video_tensor(*sizes, _PICTURE_LATENTS, described, temporal_patch_size=frames))
    if config["guidance_embeds"]:
        inputs.append(parts.guidance_tensor())
    outputs = parts.video_outputs(*sizes, temporal_patch_size=frames)
    return Component(path="denoiser/model.onnx", inputs=tuple(inputs), outputs=outputs)


def _feeds(sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return masks of texts of different lengths, and guidance scales, which are not read where none is embedded."""
    return {**parts.mask_feeds()(sizes, seed), **parts.guidance_feeds(sizes, seed)}
