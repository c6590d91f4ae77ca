"""The project's own video model: :mod:`~dit_deploy.exporters.spacetime_dit` beside a VAE, a T5 encoder, a scheduler.

Its folder is laid out as a diffusers pipeline, with a ``model_index.json`` of the class ``SpacetimeDiTPipeline``. That
class is in no library; the folder is read here. ``transformer/config.json`` holds a ``SpacetimeDiTConfig``, the other
parts are diffusers' and transformers'. ``frame_rate`` in the index is that of playback.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit_deploy.bundle import Axis, Guidance, Latents, Prediction, PromptEncoder, Prompts, Scheduler, TensorSpec, Tiling
from dit_deploy.bundle.manifest import Component
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_wan, autoencoders
from dit_deploy.exporters import weights as files
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.modules import check_class, parameters_without_storage
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig
from dit_deploy.exporters.text_encoders import t5
from dit_deploy.exporters.tokenizers import max_length, tokenizer_json

__all__ = ["denoiser_component", "load", "open_pipeline", "read_config"]

#: Tokens of a prompt where the tokenizer sets no limit.
_TOKENS = 120
_MASK = "encoder_attention_mask"


def open_pipeline(folder: Path) -> Source:
    """Open a ``SpacetimeDiTPipeline`` folder.

    Raises:
        SourceError: a part is missing, or the parts do not fit each other.
    """
    transformer, vae, text_encoder = folder / "transformer", folder / "vae", folder / "text_encoder"
    index = files.read_json(folder / "model_index.json")
    config = read_config(transformer)
    record = read_record(folder, "transformer", "vae", "text_encoder", kind="spacetime_dit_pipeline")
    scheduler_config = record["scheduler_config"]
    halves, compression, tiling = _autoencoder(vae, config)
    tokens = max_length(folder / "tokenizer", _TOKENS)
    encoder = t5.graph(text_encoder, "text_encoder", tokens=tokens, attends_mask=True, mask_output=_MASK)
    check_width(folder, encoder, config.text_width, "text_width")
    frames, height, width = config.sample_size
    p_t, p_h, p_w = config.patch_size
    denoiser = Graph(
        "denoiser",
        denoiser_component(config, scheduler_config),
        lambda: load(transformer),
        {
            "batch": 2,
            "patch_frames": max(1, (frames - 1) // p_t + 1),
            "patch_height": height // p_h,
            "patch_width": width // p_w,
            "sequence_length": tokens,
        },
        feeds=parts.mask_feeds(_MASK),
    )
    return Source(
        family="spacetime_dit",
        **record,
        graphs=(encoder, *halves, denoiser),
        latents=Latents(
            channels=config.in_channels,
            frames=frames,
            height=height,
            width=width,
            patch_size=p_h,
            temporal_patch_size=p_t,
            frame_rate=index.get("frame_rate"),
            **compression,
        ),
        prediction=_prediction(scheduler_config),
        guidance=Guidance(kind="classifier_free", default_scale=3.0),
        scheduler=Scheduler(num_inference_steps=20),
        prompts=Prompts(encoders=(PromptEncoder(component="text_encoder", tokenizer="tokenizer/tokenizer.json"),)),
        files={"tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=tokens)},
        tiling=tiling,
    )


def read_config(folder: Path) -> SpacetimeDiTConfig:
    """Return the config of the network in ``folder``.

    Raises:
        SourceError: it is of another class or does not fit, or its patches are not square, which a manifest asks for.
    """
    config = SpacetimeDiTConfig.from_dict(check_class(folder, SpacetimeDiT.__name__))
    p_t, p_h, p_w = config.patch_size
    if p_h != p_w:
        raise SourceError(f"{folder} has patches of {p_h} rows and {p_w} columns; a bundle has square ones")
    frames, height, width = config.sample_size
    if (frames - 1) % p_t or height % p_h or width % p_w:
        raise SourceError(
            f"{folder}: sample_size {frames}, {height}, {width} is not made of patches {p_t}, {p_h}, {p_w}"
        )
    return config


def load(folder: Path) -> SpacetimeDiT:
    """Return the network in ``folder`` in float32; weights that are float32 on disk stay mapped from it.

    Raises:
        SourceError: see :func:`read_config`; or the weights do not fit their config.
    """
    config = read_config(folder)
    with parameters_without_storage():
        network = SpacetimeDiT(config)
    tensors = {name: tensor.float() for name, tensor in files.folder_tensors(folder).items()}
    try:
        network.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise SourceError(f"{folder}: the weights do not fit their config.json: {reason}") from error
    return network.eval().requires_grad_(False)


def _autoencoder(folder: Path, config: SpacetimeDiTConfig) -> tuple[list[Graph], dict[str, Any], Tiling | None]:
    """Return the halves of the VAE, its compression as the manifest has it, and the pieces that diffusers cuts.

    It is Wan's, causal in time, or one of pictures, which takes frame by frame.
    """
    channels = config.in_channels
    if files.read_json(folder / "config.json").get("_class_name") == "AutoencoderKLWan":
        found = autoencoder_wan.read(folder, channels)
        compression = {
            "spatial_compression": int(found["scale_factor_spatial"]),
            "temporal_compression": autoencoder_wan.FRAMES,
        }
        return autoencoder_wan.graphs(folder, found), compression, autoencoder_wan.tiling(found)
    halves, (spatial, scale, shift) = autoencoders.graphs(folder, channels, config.sample_size[1])
    return halves, {"spatial_compression": spatial, "scaling_factor": scale, "shift_factor": shift}, None


def _prediction(scheduler_config: Mapping[str, Any]) -> Prediction:
    """Return what the output means: velocity where the scheduler follows a flow, else what its config says."""
    if str(scheduler_config.get("_class_name", "")).startswith("FlowMatch"):
        return Prediction(type="flow_prediction")
    return parts.read_prediction(scheduler_config)


def denoiser_component(config: SpacetimeDiTConfig, scheduler_config: Mapping[str, Any]) -> Component:
    """Declare the network's inputs and output."""
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            _video(config, "latents"),
            parts.timestep_tensor(scheduler_config),
            parts.text_tensor(config.text_width),
            parts.mask_tensor(_MASK),
        ),
        outputs=(_video(config, "prediction", "what the model predicts"),),
    )


def _video(config: SpacetimeDiTConfig, name: str, description: str = "") -> TensorSpec:
    """Declare latents, float32 [batch, channels, p_t · patch_frames + 1 − p_t, height, width]."""
    p_t, p_h, _ = config.patch_size
    tensor = parts.video_tensor(config.in_channels, p_h, name, description, temporal_patch_size=p_t)
    frames = Axis(name="patch_frames", multiple=p_t, offset=1 - p_t)
    return tensor.model_copy(update={"axes": (*tensor.axes[:2], frames, *tensor.axes[3:])})
