"""Tiny random pipelines, made by diffusers, that draw something: no parameter is all zeros.

A freshly constructed DiT is adaLN-Zero and outputs zeros, so parity on it would prove nothing. Sizes are
unlike diffusers' own test configurations.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

__all__ = ["make_autoencoder", "make_original", "make_pipeline", "make_transformer"]


def fill_zeros(module: nn.Module, std: float = 0.05) -> nn.Module:
    """Give every all-zero parameter small random values."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=std)
    return module


def share_embedders(model: DiTTransformer2DModel) -> None:
    """Give every block the first one's embedder values, as in the converted official weights."""
    first = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first)


def make_transformer(
    *,
    sample_size: int = 16,
    patch_size: int = 4,
    in_channels: int = 6,
    heads: int = 3,
    head_dim: int = 24,
    layers: int = 2,
    num_classes: int = 17,
    learned_variance: bool = True,
    shared_embedder: bool = True,
    seed: int = 0,
) -> DiTTransformer2DModel:
    """Return a random DiT of diffusers; see :func:`make_pipeline`."""
    torch.manual_seed(seed)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=in_channels,
        out_channels=in_channels * (2 if learned_variance else 1),
        num_layers=layers,
        sample_size=sample_size,
        patch_size=patch_size,
        num_embeds_ada_norm=num_classes,
        norm_num_groups=1,
    )
    fill_zeros(model)
    if shared_embedder:
        share_embedders(model)
    return model.eval()


def make_autoencoder(kind: str = "kl", latent_channels: int = 6, seed: int = 0) -> AutoencoderKL | AutoencoderTiny:
    """Return a random autoencoder that compresses 4 × 4 pixels."""
    torch.manual_seed(seed)
    if kind == "tiny":
        model: nn.Module = AutoencoderTiny(
            encoder_block_out_channels=(16, 16, 16),
            decoder_block_out_channels=(16, 16, 16),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
            latent_channels=latent_channels,
        )
    else:
        model = AutoencoderKL(
            latent_channels=latent_channels,
            block_out_channels=(16, 24, 24),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=8,
            scaling_factor=0.3,
        )
    return fill_zeros(model).eval()


def make_pipeline(folder: Path, *, vae: str = "kl", seed: int = 0, in_channels: int = 6, **sizes: int | bool) -> Path:
    """Save a random ``DiTPipeline`` in ``folder`` and return it: 64 × 64 pixels, 17 classes by default."""
    transformer = make_transformer(seed=seed, in_channels=in_channels, **sizes)  # type: ignore[arg-type]
    num_classes = transformer.config.num_embeds_ada_norm
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    DiTPipeline(transformer, make_autoencoder(vae, in_channels, seed), scheduler).save_pretrained(folder)
    # The official pipelines name their classes here; save_pretrained drops the names.
    index = folder / "model_index.json"
    labels = {str(label): f"kind {label}" for label in range(num_classes)}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": labels}))
    return folder


def make_original(model: DiTTransformer2DModel) -> dict[str, Tensor]:
    """Return a diffusers DiT's weights as a facebookresearch/DiT ``state_dict``: the conversion backwards."""
    theirs = model.state_dict()
    weights: dict[str, Tensor] = {"pos_embed": model.pos_embed.pos_embed.clone()}

    def copy(ours: str, name: str) -> None:
        for part in ("weight", "bias"):
            weights[f"{ours}.{part}"] = theirs[f"{name}.{part}"].clone()

    copy("x_embedder.proj", "pos_embed.proj")
    embedder = "transformer_blocks.0.norm1.emb"
    copy("t_embedder.mlp.0", f"{embedder}.timestep_embedder.linear_1")
    copy("t_embedder.mlp.2", f"{embedder}.timestep_embedder.linear_2")
    weights["y_embedder.embedding_table.weight"] = theirs[f"{embedder}.class_embedder.embedding_table.weight"].clone()
    for index in range(model.config.num_layers):
        block, name = f"blocks.{index}", f"transformer_blocks.{index}"
        copy(f"{block}.adaLN_modulation.1", f"{name}.norm1.linear")
        copy(f"{block}.attn.proj", f"{name}.attn1.to_out.0")
        copy(f"{block}.mlp.fc1", f"{name}.ff.net.0.proj")
        copy(f"{block}.mlp.fc2", f"{name}.ff.net.2")
        for part in ("weight", "bias"):
            rows = [theirs[f"{name}.attn1.to_{which}.{part}"] for which in "qkv"]
            weights[f"{block}.attn.qkv.{part}"] = torch.cat(rows)
    copy("final_layer.adaLN_modulation.1", "proj_out_1")
    copy("final_layer.linear", "proj_out_2")
    return weights
