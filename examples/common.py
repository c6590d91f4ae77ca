"""What the training and the scoring of the three examples share; each finds it through its `shared.py`."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import T5Config, T5EncoderModel

__all__ = [
    "PromptSampler",
    "build_t5",
    "initialise_linears",
    "picture_loss",
    "progress",
    "save_state",
    "save_tensors",
    "to_uint8",
    "trapezoid",
    "versions",
    "whole_folder",
    "write_json",
]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files come to `folder` in the end, each at once: a reader never sees half of one."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    folder.mkdir(parents=True, exist_ok=True)
    for file in partial.iterdir():
        os.replace(file, folder / file.name)
    partial.rmdir()


def write_json(values: dict[str, Any], file: Path) -> None:
    """Write a JSON file, whole or not at all."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, file)


def save_state(state: dict[str, Any], file: Path) -> None:
    """Write what a training run needs to go on, whole or not at all."""
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, file)


def save_tensors(
    module: nn.Module, file: Path, dtype: torch.dtype = torch.float16, left_out: tuple[str, ...] = ()
) -> None:
    """Write a network's weights but for those `left_out`; clones, as safetensors writes tensors that share memory once.

    diffusers and transformers load them as float32 where asked to, whichever `dtype` they are stored in.
    """
    tensors = {
        name: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for name, tensor in module.state_dict().items()
        if name not in left_out
    }
    save_file(tensors, file, metadata={"format": "pt"})


def build_t5(vocabulary: int, width: int, heads: int, feed_forward: int) -> T5EncoderModel:
    """A fresh T5 encoder of two layers: input_ids [n, tokens] -> hidden states [n, tokens, width]."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=32,
        num_heads=heads,
        d_ff=feed_forward,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def initialise_linears(dit: nn.Module) -> None:
    """The DiT paper's beginning of all linear layers, of the patches' too: Xavier, biases at zero."""
    for module in dit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    patch: Any = dit.pos_embed.proj
    nn.init.xavier_uniform_(patch.weight.view(patch.weight.shape[0], -1))
    nn.init.zeros_(patch.bias)


def picture_loss(decoded: torch.Tensor, images: torch.Tensor, edge_weight: float) -> torch.Tensor:
    """L1 on pixels [n, c, h, w] and, for want of a perceptual loss, on their differences down and across."""
    loss = (decoded - images).abs().mean()
    for ours, theirs in zip(_edges(decoded), _edges(images), strict=True):
        loss = loss + edge_weight * (ours - theirs).abs().mean()
    return loss


def _edges(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finite differences of images [n, c, h, w] down and across: [n, c, h - 1, w] and [n, c, h, w - 1]."""
    return images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]


def progress(
    seconds: float, steps: float = math.inf, device: str | torch.device = "cpu", before: float = 0.0
) -> Iterator[tuple[int, float]]:
    """Count steps from 0 until `seconds` are over, or `steps` steps if that comes first.

    Gives (step, share of the run that is over, 0..1). A run that goes on counts the seconds `before` too. A GPU is
    waited for every 20 steps, or the clock would run behind it.
    """
    start, step = time.monotonic(), 0
    share = before / seconds
    while share < 1.0 and step < steps:
        yield step, share
        step += 1
        if torch.device(device).type == "cuda" and step % 20 == 0:
            torch.cuda.synchronize()
        share = max((before + time.monotonic() - start) / seconds, step / steps)


def trapezoid(share: float, step: int, warmup: int, fall: float) -> float:
    """The learning rate's factor in 0..1: a linear rise over `warmup` steps, a plateau, a half cosine over `fall`."""
    rise = min(1.0, (step + 1) / warmup)
    left = min(1.0, max(0.0, 1.0 - share) / fall)
    return rise * 0.5 * (1.0 - math.cos(math.pi * left))


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float images in 0..1, any shape, rounded to uint8 in 0..255."""
    return np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)


class PromptSampler:
    """The project's own runtime on a bundle that draws captions."""

    def __init__(self, bundle: Path, engine: str) -> None:
        # Imported here, as the scores of the PyTorch networks must not need the runtime.
        from dit_deploy import Bundle, Pipeline

        self.pipeline = Pipeline(Bundle.open(bundle), engine=engine)
        self.name = f"dit_deploy ({engine})"

    def draw(self, captions: list[str], steps: int, guidance_scale: float, seed: int) -> Any:
        """What the runtime gives for captions, as arrays in 0..1."""
        return self.pipeline(
            prompt=captions,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            seed=seed,
            output_type="numpy",
        )


def versions() -> dict[str, str]:
    """What scores were made with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }
