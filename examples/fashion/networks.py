"""The two networks, in diffusers' own classes, and their folder on disk.

The DiT is Peebles & Xie's (ICCV 2023, arXiv:2212.09748) with adaLN-Zero blocks. diffusers' class of it
differs from the paper's code in two ways that matter to training: it does not zero the modulations, and each
block owns a copy of the timestep and label embedder where the original has one. `build_dit` mends both.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from data import CLASS_NAMES, IMAGE_SIZE
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from shared import initialise_linears, save_tensors, whole_folder, write_json

LATENT_CHANNELS = 4
LATENT_SIZE = 8
"""Side of the latents: 32 pixels / 4."""

NULL_CLASS = len(CLASS_NAMES)
"""The label that stands for "no class" in classifier-free guidance: the class table's last row."""

TRAIN_TIMESTEPS = 1000
BETA_START = 1e-4
BETA_END = 0.02


def build_vae() -> AutoencoderKL:
    """A fresh VAE, 0.7 M parameters: images [n, 3, 32, 32] in [-1, 1] <-> latents [n, 4, 8, 8]."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
    )


def build_dit(width: int = 192, layers: int = 6, head_dim: int = 32) -> DiTTransformer2DModel:
    """A fresh DiT: latents [n, 4, 8, 8], timestep [n] in 0..999, class_labels [n] in 0..10 -> [n, 8, 8, 8].

    The output's first four channels are the predicted noise, the last four the variance's place in its range
    (Nichol & Dhariwal 2021, arXiv:2102.09672). All blocks share one embedder *module*, so it is trained once;
    `save_component` writes it out once a block, as diffusers' format has it.

    Keep it in eval mode while training too: in train mode each diffusers block would drop class labels on its
    own, each other ones; `train_dit.py` drops them once for all blocks.
    """
    dit = DiTTransformer2DModel(
        num_attention_heads=width // head_dim,
        attention_head_dim=head_dim,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,
        num_layers=layers,
        sample_size=LATENT_SIZE,
        patch_size=2,
        num_embeds_ada_norm=len(CLASS_NAMES),
        norm_type="ada_norm_zero",
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_elementwise_affine=False,
    )
    _initialise(dit)
    shared = dit.transformer_blocks[0].norm1.emb
    for block in dit.transformer_blocks[1:]:
        block.norm1.emb = shared
    return dit.eval()


def _initialise(dit: DiTTransformer2DModel) -> None:
    """The paper's initialisation: Xavier for linears, N(0, 0.02) embedders, zero modulations and output."""
    initialise_linears(dit)
    for block in dit.transformer_blocks:
        embedder = block.norm1.emb
        torch.nn.init.normal_(embedder.class_embedder.embedding_table.weight, std=0.02)
        torch.nn.init.normal_(embedder.timestep_embedder.linear_1.weight, std=0.02)
        torch.nn.init.normal_(embedder.timestep_embedder.linear_2.weight, std=0.02)
        torch.nn.init.zeros_(block.norm1.linear.weight)
    for module in (dit.proj_out_1, dit.proj_out_2):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)


def build_scheduler() -> DDIMScheduler:
    """The sampler's noise schedule, the one trained with: linear betas, 1000 steps, epsilon prediction."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="linear",
        prediction_type="epsilon",
        clip_sample=False,
        # The last step lands on the clean image (alpha_bar = 1), not on the first training step's noise.
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        steps_offset=0,
    )


def save_component(
    component: AutoencoderKL | DiTTransformer2DModel | DDIMScheduler,
    folder: Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write one part of the pipeline to `folder`, whole files only; its weights as `dtype`."""
    with whole_folder(folder) as partial:
        component.save_config(str(partial))
        if not isinstance(component, DDIMScheduler):
            # Not diffusers' save_pretrained: readers would miss the embedders of all blocks but the first.
            save_tensors(component, partial / "diffusion_pytorch_model.safetensors", dtype)


def save_index(folder: Path) -> None:
    """Write the pipeline's `model_index.json` and its scheduler's folder."""
    save_component(build_scheduler(), folder / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": diffusers.__version__,
        "id2label": {str(label): name for label, name in enumerate(CLASS_NAMES)},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(index, folder / "model_index.json")
