"""A tiny random SpacetimeDiT pipeline on disk, with no parameter at zero, and the networks in it.

Three heads, patches and grids that are not cubes, a causal VAE of Wan's kind that compresses 4 × 4 pixels and 4 frames.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel

from dit_deploy.exporters.spacetime_dit import SpacetimeDiT, SpacetimeDiTConfig
from tests.families.tokenizers import t5_tokenizer
from tests.models import fill_zeros

__all__ = ["CHANNELS", "TEXT_WIDTH", "make_network", "make_spacetime_dit"]

CHANNELS, TEXT_WIDTH, _TOKENS = 3, 20, 12


def make_network(**options: Any) -> SpacetimeDiT:
    """Return a random network of two blocks whose every part counts: gates, norms and biases too."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "depth": 2, "num_heads": 3, "in_channels": CHANNELS, "text_width": TEXT_WIDTH}
    network = SpacetimeDiT(SpacetimeDiTConfig(**{**sizes, "sample_size": (5, 6, 8), **options}))
    for parameter in network.parameters():
        if parameter.dim() == 1 and parameter.any():  # weights of norms
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    fill_zeros(network, 0.1)
    return network.eval().requires_grad_(False)


def make_spacetime_dit(folder: Path, **options: Any) -> Path:
    """Save a ``SpacetimeDiTPipeline`` folder and return it; ``options`` are the network's."""
    pieces = t5_tokenizer(folder / "tokenizer", model_max_length=_TOKENS)
    network = make_network(**options)
    transformer = folder / "transformer"
    transformer.mkdir()
    (transformer / "config.json").write_text(json.dumps(network.config.to_dict()))
    save_file(network.state_dict(), transformer / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    torch.manual_seed(1)
    text = T5Config(
        vocab_size=pieces, d_model=TEXT_WIDTH, d_kv=8, d_ff=24, num_layers=1, num_heads=3, is_encoder_decoder=False
    )
    T5EncoderModel(text).eval().save_pretrained(folder / "text_encoder")
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.1, -0.2, 0.3],
        latents_std=[1.5, 0.7, 1.1],
        scale_factor_spatial=4,
    )
    fill_zeros(vae).eval().save_pretrained(folder / "vae")  # type: ignore[operator]
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "SpacetimeDiTPipeline",
        "frame_rate": 12,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["dit_deploy", "SpacetimeDiT"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
