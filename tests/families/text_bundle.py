"""A bundle with a text encoder and nothing else that is hard: a T5, its tokenizer, and a denoiser of a few layers.

For tests of what every family with prompts shares; it also shows how a network of one's own is exported.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from dit_deploy.bundle import (
    Axis,
    Component,
    Guidance,
    Latents,
    Prediction,
    PromptEncoder,
    Prompts,
    Scheduler,
    TensorSpec,
)
from dit_deploy.exporters.source import Graph, Source
from dit_deploy.exporters.text_encoders import t5
from dit_deploy.exporters.tokenizers import tokenizer_json

from .tokenizers import t5_tokenizer

__all__ = ["TOKENS", "WIDTH", "text_source"]

TOKENS, WIDTH = 24, 32


class TextDenoiser(nn.Module):
    """Patches of 2 × 2 attend to the prompt's tokens: epsilon of latents [batch, 4, 2·patch_height, 2·patch_width]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, WIDTH, 2, stride=2)
        self.time = nn.Linear(1, WIDTH)
        self.q, self.k, self.v = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.leave = nn.ConvTranspose2d(WIDTH, 4, 2, stride=2)

    def forward(self, latents: Tensor, timestep: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor]:
        x = self.enter(latents) + self.time(timestep[:, None] / 1000)[:, :, None, None]
        batch, width, height, across = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # [batch, patches, width]
        scores = self.q(tokens) @ self.k(states).transpose(1, 2) * width**-0.5
        seen = torch.softmax(scores + ((1 - mask) * -10000.0)[:, None, :], dim=-1)
        x = x + (seen @ self.v(states)).transpose(1, 2).reshape(batch, width, height, across)
        return (self.leave(torch.tanh(x)),)


class Join(nn.Module):
    """What a family does between its text encoders and its denoiser; here it doubles the states."""

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return states * 2, (mask > 0).to(torch.int64)


def text_source(folder: Path, model: nn.Module | None = None, *, join: bool = False) -> Source:
    """Return a source whose prompts are read by a T5.

    Args:
        folder: where the encoder and the tokenizer are saved, as a pipeline has them.
        model: the encoder, a :class:`T5EncoderModel` of width ``WIDTH``; a random one by default.
        join: with a component ``conditions`` between the encoder and the denoiser.
    """
    torch.manual_seed(0)
    vocabulary = t5_tokenizer(folder / "tokenizer")
    sizes = {"d_model": WIDTH, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    if model is None:
        model = T5EncoderModel(T5Config(vocab_size=vocabulary, feed_forward_proj="gated-gelu", **sizes))
    model.save_pretrained(folder / "text_encoder")  # type: ignore[operator]
    denoiser = TextDenoiser().eval().requires_grad_(False)
    encoder = t5.graph(
        folder / "text_encoder",
        "text_encoder",
        tokens=TOKENS,
        attends_mask=True,
        output="text_states" if join else "encoder_hidden_states",
        mask_output="text_mask" if join else "encoder_attention_mask",
    )
    batch, length = Axis(name="batch"), Axis(name="sequence_length")
    grid = (batch, 4, Axis(name="patch_height", multiple=2), Axis(name="patch_width", multiple=2))
    component = Component(
        path="denoiser/model.onnx",
        inputs=(
            TensorSpec(name="latents", dtype="float32", axes=grid),
            TensorSpec(name="timestep", dtype="float32", axes=(batch,), minimum=0, maximum=999),
            TensorSpec(name="encoder_hidden_states", dtype="float32", axes=(batch, length, WIDTH)),
            TensorSpec(name="encoder_attention_mask", dtype="int64", axes=(batch, length), minimum=0, maximum=1),
        ),
        outputs=(TensorSpec(name="prediction", dtype="float32", axes=grid),),
    )
    between = Component(path="conditions/model.onnx", inputs=encoder.component.outputs, outputs=component.inputs[2:])
    typical = {"batch": 2, "patch_height": 8, "patch_width": 8, "sequence_length": TOKENS}
    return Source(
        family="own",
        kind="test",
        name="text",
        graphs=(
            encoder,
            *([Graph("conditions", between, Join, {"batch": 2, "sequence_length": TOKENS})] if join else []),
            Graph("denoiser", component, lambda: denoiser, typical),
        ),
        latents=Latents(channels=4, height=16, width=16, patch_size=2, spatial_compression=8),
        prediction=Prediction(type="epsilon"),
        guidance=Guidance(kind="classifier_free", default_scale=4.0),
        scheduler_config={"_class_name": "DDIMScheduler", "num_train_timesteps": 1000},
        scheduler=Scheduler(num_inference_steps=10),
        digest_files=(),
        float32_bytes=1 << 20,
        prompts=Prompts(
            encoders=(PromptEncoder(component="text_encoder", tokenizer="tokenizer/tokenizer.json"),),
            join="conditions" if join else None,
        ),
        files={
            "tokenizer/tokenizer.json": lambda: tokenizer_json(folder / "tokenizer", length=TOKENS),
            "tokenizer/unpadded.json": lambda: tokenizer_json(folder / "tokenizer", length=TOKENS, padding="none"),
            "tokenizer/negative.json": lambda: tokenizer_json(folder / "tokenizer", length=TOKENS // 2),
        },
    )
