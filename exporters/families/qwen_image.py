"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324): joint attention between the states of Qwen2.5-VL and the picture.

Packing, centred positions and rotary embedding are inside the graph: a runtime sees latents [batch, 16, height, width].
The network is diffusers' own but for its attention, which computes with complex numbers there, and what it computes in
Python: the positions, and whether a mask is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import (
    Component,
    Guidance,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoder_qwen
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._attention import attend, heads
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families._patches import packed, unpacked
from dit_deploy.exporters.families._rotary import Rotary, picture_positions, rotate
from dit_deploy.exporters.masks import MASKED
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import qwen
from dit_deploy.exporters.tokenizers import tokenizer_json

__all__ = ["Denoiser", "open_pipeline"]

#: What the pipeline asks the language model; the tokens before the prompt are dropped from what it answers.
_TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
_DROPPED = 34
#: Tokens of a prompt: the pipeline's ``max_sequence_length``. It lets the encoder read 1024, and takes the first 512 of
#: what it gives; as no token sees a later one, reading no more is the same.
_TOKENS = 512
#: The pipeline's ``default_sample_size``, in latent pixels: pictures of 1024 × 1024. No config says it.
_SAMPLE_SIZE = 128
#: Latent pixels on a side of a token: the pipeline packs 2 × 2 of them.
_PATCH = 2
#: Sizes at which graphs are proved; see flux.
_PROVED = 16
#: Positions of diffusers' table in each direction. Text stands after half of the picture's longer side.
_POSITIONS = 4096
_THETA = 10000
#: What other models of this class do, and text-to-image does not.
_UNUSED = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")


def open_pipeline(folder: Path) -> Source:
    """Open a ``QwenImagePipeline`` folder.

    Raises:
        SourceError: a part is missing, or of another class than Qwen-Image's; or parts do not fit each other.
    """
    transformer = folder / "transformer"
    config = read_config(QwenImageTransformer2DModel, transformer)
    channels, width = _latent_channels(transformer, config), int(config["joint_attention_dim"])
    encoder = qwen.graph(folder / "text_encoder", "text_encoder", tokens=_TOKENS + _DROPPED, drop=_DROPPED)
    check_width(folder, encoder, width, "joint_attention_dim")
    halves, compression = autoencoder_qwen.graphs(folder / "vae", channels, 2 * _PROVED)
    denoiser = Graph(
        "denoiser",
        _component(channels, width),
        lambda: Denoiser(load_diffusers(QwenImageTransformer2DModel, transformer)),
        {"batch": 2, "patch_height": _PROVED, "patch_width": _PROVED, "sequence_length": 77},
        reference=lambda: _Reference(load_diffusers(QwenImageTransformer2DModel, transformer)),
        feeds=parts.mask_feeds(),
    )
    return Source(
        family="qwen_image",
        **read_record(folder, "text_encoder", "vae", "transformer"),
        graphs=(encoder, *halves, denoiser),
        latents=Latents(
            channels=channels,
            height=_SAMPLE_SIZE,
            width=_SAMPLE_SIZE,
            patch_size=_PATCH,
            spatial_compression=compression,
        ),
        prediction=Prediction(type="flow_prediction", timestep_unit="sigma"),
        guidance=Guidance(kind="classifier_free", default_scale=4.0, normalise="token"),
        scheduler=Scheduler(num_inference_steps=50, sigmas="linspace", strength="rounded_up"),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer/tokenizer.json",
                    prompt_template=_TEMPLATE,
                    negative_template=_TEMPLATE,
                ),
            ),
            negative=None,
        ),
        files={
            "tokenizer/tokenizer.json": lambda: tokenizer_json(
                folder / "tokenizer", length=_TOKENS + _DROPPED, padding="longest"
            )
        },
    )


def _latent_channels(folder: Path, config: Mapping[str, Any]) -> int:
    """Return the latents' channels; :class:`SourceError` for a transformer of another kind than Qwen-Image's."""
    channels, patch = int(config["in_channels"]), int(config["patch_size"])
    out = int(config["out_channels"] or channels)
    if patch != _PATCH or channels != out * _PATCH**2:
        raise SourceError(
            f"{folder} has patch_size {patch}, {channels} channels in and {out} out; a QwenImagePipeline's has "
            "patch_size 2 and four times as many in as out"
        )
    if used := [name for name in _UNUSED if config.get(name)]:
        raise SourceError(f"{folder} has {used[0]}, which Qwen-Image's text-to-image models do not have")
    return out


def _component(channels: int, width: int) -> Component:
    # half of the longer side and the text share the positions above 0
    limit = 2 * (_POSITIONS - _TOKENS - _DROPPED)
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            parts.latents_tensor(channels, _PATCH, limit=limit),
            parts.sigma_tensor(),
            parts.text_tensor(width),
            parts.mask_tensor(),
        ),
        outputs=parts.output_tensors(channels, _PATCH, limit=limit),
    )


class Denoiser(nn.Module):
    """diffusers' transformer on unpacked latents, with positions and rotary embedding in real numbers.

    Args:
        transformer: is changed: its attention and its time embedding's sines are replaced.
    """

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        super().__init__()
        transformer.set_attn_processor(_Attention())
        time = transformer.time_text_embed.time_proj
        transformer.time_text_embed.time_proj = Sinusoid(time.num_channels, time.scale)
        self.rotary = Rotary(transformer.config.axes_dims_rope, _THETA)
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, height, width], height and width even.
            timestep: [batch], sigma in 0 … 1.
            encoder_hidden_states: [batch, sequence_length, joint_attention_dim].
            encoder_attention_mask: int64 [batch, sequence_length], 1 where a token is.

        Returns:
            the prediction, shaped like ``latents``.
        """
        network = self.transformer
        rows, columns = (side // _PATCH for side in latents.shape[2:])
        tokens = encoder_hidden_states.shape[1]
        x = network.img_in(packed(latents, _PATCH))  # [batch, patches, hidden]
        text = network.txt_in(network.txt_norm(encoder_hidden_states))  # [batch, tokens, hidden]
        embedded = network.time_text_embed(timestep, x)  # [batch, hidden]
        angles = self.rotary(_positions(rows, columns, tokens))

        # A mask of ones changes nothing, so that there is one graph for texts of one length and of several.
        bias = (1 - encoder_attention_mask.to(x.dtype)) * MASKED
        bias = F.pad(bias, (0, rows * columns))[:, None, None, :]
        bias = bias.expand(-1, -1, tokens + rows * columns, -1)  # [batch, 1, tokens + patches, tokens + patches]
        for block in network.transformer_blocks:
            text, x = block(
                hidden_states=x,
                encoder_hidden_states=text,
                encoder_hidden_states_mask=bias,
                temb=embedded,
                image_rotary_emb=angles,
            )

        x = network.proj_out(network.norm_out(x, embedded))
        return (unpacked(x, latents.shape, _PATCH),)


def _positions(rows: int, columns: int, tokens: int) -> Tensor:
    """Return the positions of text, then picture, whole numbers [tokens + rows · columns, 3].

    A picture's rows and columns are counted from its middle. Text goes on after half of the longer side, with the same
    number for all axes.
    """
    picture = picture_positions(
        torch.arange(rows) - (rows - rows // 2), torch.arange(columns) - (columns - columns // 2)
    )
    start = torch.maximum(torch.full((1,), rows // 2), torch.full((1,), columns // 2))
    text = (start + torch.arange(tokens))[:, None].expand(tokens, 3)
    return torch.cat([text, picture])


class _Attention:
    """diffusers' ``QwenDoubleStreamAttnProcessor2_0`` in real numbers, for a mask that has the scores' axes already."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        def split(x: Tensor) -> Tensor:
            return heads(x, attn.heads)  # [batch, tokens, heads, head]

        assert image_rotary_emb is not None
        picture, text = hidden_states, encoder_hidden_states
        q = torch.cat([attn.norm_added_q(split(attn.add_q_proj(text))), attn.norm_q(split(attn.to_q(picture)))], dim=1)
        k = torch.cat([attn.norm_added_k(split(attn.add_k_proj(text))), attn.norm_k(split(attn.to_k(picture)))], dim=1)
        v = torch.cat([split(attn.add_v_proj(text)), split(attn.to_v(picture))], dim=1)
        q, k = (rotate(one, *image_rotary_emb) for one in (q, k))
        x = attend(q, k, v, encoder_hidden_states_mask)  # [batch, tokens, hidden]
        tokens = text.shape[1]
        return attn.to_out[0](x[:, tokens:]), attn.to_add_out(x[:, :tokens])


class _Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipeline calls it."""

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        batch, channels, height, width = latents.shape
        prediction = self.transformer(
            hidden_states=QwenImagePipeline._pack_latents(latents, batch, channels, height, width),
            timestep=timestep,
            encoder_hidden_states_mask=None if encoder_attention_mask.all() else encoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        return (QwenImagePipeline._unpack_latents(prediction, height, width, 1).squeeze(2),)
