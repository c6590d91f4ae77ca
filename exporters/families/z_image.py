"""Z-Image (Tongyi-MAI 2025, arXiv 2511.22699): one stream of picture and text, each refined on its own before.

diffusers' transformer takes lists of pictures and of texts, and pads each to a multiple of 32 tokens with a learned
token that takes part like any other. A picture's positions begin after its text's padding, so samples differ.
Here both are tensors: how much padding a sample has, and where its picture begins, follows from the mask in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF, RopeEmbedder
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle import (
    Axis,
    Component,
    Guidance,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
)
from dit_deploy.errors import SourceError
from dit_deploy.exporters import autoencoders
from dit_deploy.exporters.families import _parts as parts
from dit_deploy.exporters.families._attention import attend, heads, normed
from dit_deploy.exporters.families._folder import check_width, read_record
from dit_deploy.exporters.families._rotary import rotate
from dit_deploy.exporters.masks import MASKED
from dit_deploy.exporters.modules import load_diffusers, read_config
from dit_deploy.exporters.sinusoid import Sinusoid
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import qwen
from dit_deploy.exporters.tokenizers import load_tokenizer, tokenizer_json

__all__ = ["Denoiser", "open_pipeline"]

#: Tokens of a prompt, those of the chat template included: the pipeline's ``max_sequence_length``.
_TOKENS = 512
#: The pipeline draws 1024 × 1024 pixels by default, in latent pixels. No config says it.
_SAMPLE_SIZE = 128
#: Latent pixels on a side of a token, which the pipeline leaves at the transformer's default.
_PATCH = 2
#: Sizes at which graphs are proved; see flux.
_PROVED = 16
#: The pipeline takes timesteps from this, whatever the scheduler counts to.
_LAST_TIMESTEP = 1000


def open_pipeline(folder: Path) -> Source:
    """Open a ``ZImagePipeline`` folder.

    Raises:
        SourceError: a part is missing, or of another class than Z-Image's; or parts do not fit each other.
    """
    transformer = folder / "transformer"
    config = read_config(ZImageTransformer2DModel, transformer)
    channels, width = int(config["in_channels"]), int(config["cap_feat_dim"])
    limits = _limits(transformer, config)
    encoder = qwen.graph(folder / "text_encoder", "text_encoder", tokens=_TOKENS, hidden_layer=-2)
    check_width(folder, encoder, width, "cap_feat_dim")
    halves, (compression, scale, shift) = autoencoders.graphs(folder / "vae", channels, 2 * _PROVED)
    template = _chat_template(folder / "tokenizer")
    denoiser = Graph(
        "denoiser",
        _component(channels, width, *limits),
        lambda: Denoiser(load_diffusers(ZImageTransformer2DModel, transformer)),
        {"batch": 2, "patch_height": _PROVED, "patch_width": _PROVED, "sequence_length": 77},
        reference=lambda: _Reference(load_diffusers(ZImageTransformer2DModel, transformer)),
        feeds=parts.mask_feeds(),
    )
    return Source(
        family="z_image",
        **read_record(folder, "text_encoder", "vae", "transformer"),
        graphs=(encoder, *halves, denoiser),
        latents=Latents(
            channels=channels,
            height=_SAMPLE_SIZE,
            width=_SAMPLE_SIZE,
            patch_size=_PATCH,
            spatial_compression=compression,
            scaling_factor=scale,
            shift_factor=shift,
        ),
        prediction=Prediction(type="flow_prediction"),
        # conditional + s · (conditional - unconditional), on above 0
        guidance=Guidance(kind="classifier_free", default_scale=5.0, scale_offset=1.0),
        scheduler=Scheduler(num_inference_steps=50, sigmas="linspace", strength="rounded_up"),
        prompts=Prompts(
            encoders=(
                PromptEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer/tokenizer.json",
                    prompt_template=template,
                    negative_template=template,
                ),
            )
        ),
        files={
            "tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=_TOKENS, padding="longest")
        },
    )


def _limits(folder: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many tokens a text, and patches a side, may have; :class:`SourceError` for another kind of model."""
    if config["siglip_feat_dim"] is not None:
        raise SourceError(f"{folder} has siglip_feat_dim, which Z-Image's text-to-image models do not have")
    sizes = list(zip(config["all_patch_size"], config["all_f_patch_size"], strict=False))
    if (_PATCH, 1) not in sizes:
        raise SourceError(f"{folder} has patches of {sizes} (side, frames); a ZImagePipeline uses ({_PATCH}, 1)")
    text, rows, columns = config["axes_lens"]
    # Positions of text begin at 1, and the picture has the one after it.
    tokens = (int(text) - 2) // SEQ_MULTI_OF * SEQ_MULTI_OF
    if tokens < _TOKENS:
        raise SourceError(f"{folder}: axes_lens has {text} positions for texts; {_TOKENS} tokens need {_TOKENS + 2}")
    return tokens, min(int(rows), int(columns))


def _chat_template(folder: Path) -> str:
    """Return what the tokenizer's chat template makes of a prompt, ``{}`` standing for it.

    Raises:
        SourceError: there is no chat template, or it changes the prompt.
    """
    tokenizer = load_tokenizer(folder)

    def render(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, enable_thinking=True)
        )

    try:
        template = render("{}")
        faithful = template.count("{}") == 1 and all(
            render(prompt) == template.replace("{}", prompt) for prompt in ("", " A  b\n", "<c> & 'd'")
        )
    except Exception as error:  # templates are programs, which raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise SourceError(f"{folder}: the chat template cannot be used: {reason}") from error
    if not faithful:
        raise SourceError(f"{folder}: the chat template does more than put a text before and after the prompt")
    return template


def _component(channels: int, width: int, tokens: int, side: int) -> Component:
    length = Axis(name="sequence_length", maximum=tokens)
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            parts.latents_tensor(channels, _PATCH, limit=side),
            parts.timestep_tensor({"num_train_timesteps": _LAST_TIMESTEP}),
            parts.text_tensor(width, tokens=length),
            parts.mask_tensor(tokens=length, description="1 where a token is; tokens stand first"),
        ),
        outputs=parts.output_tensors(channels, _PATCH, limit=side),
    )


class Denoiser(nn.Module):
    """diffusers' transformer on tensors, with rotary embedding in real numbers.

    Args:
        transformer: is changed: its attention is replaced.
    """

    def __init__(self, transformer: ZImageTransformer2DModel) -> None:
        super().__init__()
        for block in (*transformer.noise_refiner, *transformer.context_refiner, *transformer.layers):
            block.attention.set_processor(_Attention())
        self.sinusoid = Sinusoid(transformer.t_embedder.frequency_embedding_size)
        self.rotary = _Rotary(transformer.rope_embedder)
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, height, width], height and width even.
            timestep: [batch], a training index of 0 … 1000, which is noise.
            encoder_hidden_states: [batch, sequence_length, cap_feat_dim].
            encoder_attention_mask: int64 [batch, sequence_length], 1 where a token is; a text's tokens stand first.

        Returns:
            the prediction, shaped like ``latents``.
        """
        network, key = self.transformer, f"{_PATCH}-1"
        batch, channels, height, width = latents.shape
        rows, columns = height // _PATCH, width // _PATCH
        time = (_LAST_TIMESTEP - timestep) / _LAST_TIMESTEP  # 0 is noise
        embedded = network.t_embedder.mlp(self.sinusoid(time * network.t_scale))  # [batch, at most 256]

        # Text: learned tokens fill it up to the next multiple of 32; what is beyond that is not attended to.
        count = encoder_attention_mask.sum(dim=1, keepdim=True)  # [batch, 1]
        filled = (count + (SEQ_MULTI_OF - 1)) // SEQ_MULTI_OF * SEQ_MULTI_OF
        text, place = _filled_up(network.cap_embedder(encoder_hidden_states))  # [batch, places, dim], [places]
        text = torch.where((place < count)[:, :, None], text, network.cap_pad_token)
        bias = (place >= filled).to(text.dtype)[:, None, None, :] * MASKED  # [batch, 1, 1, places]
        places = text.shape[1]
        text_angles = self.rotary(place + 1, torch.zeros_like(place), torch.zeros_like(place))
        for block in network.context_refiner:
            text = block(text, bias.expand(-1, -1, places, -1), text_angles)

        # The picture, its channels last within a token; its padding stands at position 0.
        x = latents.reshape(batch, channels, rows, _PATCH, columns, _PATCH).permute(0, 2, 4, 3, 5, 1)
        x = network.all_x_embedder[key](x.reshape(batch, rows * columns, _PATCH**2 * channels))
        x, token = _filled_up(x)  # [batch, tokens, dim], [tokens]
        real = token < rows * columns
        x = torch.where(real[:, None], x, network.x_pad_token)
        row = torch.arange(rows)[:, None].expand(rows, columns).reshape(-1)
        column = torch.arange(columns)[None, :].expand(rows, columns).reshape(-1)
        last = token.clamp(max=rows * columns - 1)
        angles = self.rotary((filled + 1) * real, row[last] * real, column[last] * real)
        for block in network.noise_refiner:
            x = block(x, None, angles, embedded)

        tokens = x.shape[1]
        x = torch.cat([x, text], dim=1)
        angles = tuple(
            torch.cat([one, other.expand(batch, -1, -1, -1)], dim=1)
            for one, other in zip(angles, text_angles, strict=True)
        )
        bias = F.pad(bias, (tokens, 0)).expand(-1, -1, tokens + places, -1)
        for block in network.layers:
            x = block(x, bias, angles, embedded)

        x = network.all_final_layer[key](x[:, : rows * columns], c=embedded)
        x = x.reshape(batch, rows, columns, _PATCH, _PATCH, channels).permute(0, 5, 1, 3, 2, 4)
        return (-x.reshape(batch, channels, height, width),)


def _filled_up(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``x`` [batch, n, dim] with its last token repeated up to a multiple of 32, and the tokens' numbers."""
    length = x.shape[1]
    number = torch.arange((length + (SEQ_MULTI_OF - 1)) // SEQ_MULTI_OF * SEQ_MULTI_OF)
    return x[:, number.clamp(max=length - 1)], number


class _Rotary(nn.Module):
    """Cosines and sines of positions on three axes, read from tables: diffusers computes the angles in float64."""

    def __init__(self, embedder: RopeEmbedder) -> None:
        super().__init__()
        tables = embedder.precompute_freqs_cis(embedder.axes_dims, embedder.axes_lens, embedder.theta)
        for index, table in enumerate(tables):
            for name, part in (("cos", table.real), ("sin", table.imag)):
                self.register_buffer(f"{name}_{index}", part.repeat_interleave(2, dim=1), persistent=False)

    def forward(self, *positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [batch or 1, tokens, 1, head] of three tensors, [batch, tokens] or [tokens]."""
        shape = positions[0].shape  # the others broadcast to it
        cos, sin = (
            torch.cat(
                [self.get_buffer(f"{name}_{index}")[one].expand(*shape, -1) for index, one in enumerate(positions)], -1
            )
            for name in ("cos", "sin")
        )
        return _by_head(cos), _by_head(sin)


def _by_head(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[-2:])[:, :, None, :]


class _Attention:
    """diffusers' ``ZSingleStreamAttnProcessor`` in real numbers, for a mask that has the scores' axes already."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        assert freqs_cis is not None
        q, k, v = (
            heads(project(hidden_states), attn.heads)  # [batch, tokens, heads, head]
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = (rotate(normed(norm, one), *freqs_cis) for norm, one in ((attn.norm_q, q), (attn.norm_k, k)))
        return attn.to_out[0](attend(q, k, v, attention_mask))


class _Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipeline calls it."""

    def __init__(self, transformer: ZImageTransformer2DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, latents: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> tuple[Tensor]:
        texts = [one[mask.bool()] for one, mask in zip(encoder_hidden_states, encoder_attention_mask, strict=True)]
        pictures = list(latents.unsqueeze(2).unbind(dim=0))
        prediction = self.transformer(pictures, (1000 - timestep) / 1000, texts, return_dict=False)[0]
        return (-torch.stack(prediction).squeeze(2),)
