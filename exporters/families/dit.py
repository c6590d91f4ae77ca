"""The class-conditional DiT of Peebles & Xie (ICCV 2023, arXiv 2212.09748), written to be traced.

One network serves both checkpoint formats: diffusers' ``DiTTransformer2DModel`` and the original
facebookresearch/DiT. They differ in three numbers only, which :class:`DiTConfig` holds. Unlike either of
them, positions and unpatchify are computed from the actual patch grid, so that one graph serves every
height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.bundle.manifest import Axis, Component, Guidance, Latents, TensorSpec
from dit_deploy.errors import SourceError
from dit_deploy.exporters.families import _parts as parts

__all__ = ["ARCHITECTURES", "DiT", "DiTConfig", "denoiser_component", "guidance"]

FREQUENCIES = 256  # width of the sinusoidal timestep embedding, the same in both formats


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of a DiT. ``DiTConfig(hidden_size=1152, depth=28, num_heads=16)`` is DiT-XL/2 at 256×256 pixels.

    Attributes:
        sample_size: latent height and width in training; positions are scaled to it.
        shared_embedder: one timestep and label embedder for all blocks. diffusers keeps a copy in each.
        frequency_shift: 0 in the original, 1 in diffusers: timestep frequencies run over
            ``10000 ** (-i / (128 - frequency_shift))``.
        mlp_norm_eps: epsilon of each block's second LayerNorm: 1e-6 in the original, ``norm_eps`` in diffusers.
        approximate_gelu: the tanh form, as both use by default.
    """

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int = 2
    in_channels: int = 4
    out_channels: int = 8
    sample_size: int = 32
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    shared_embedder: bool = True
    frequency_shift: float = 0.0
    mlp_norm_eps: float = 1e-6
    approximate_gelu: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise SourceError(
                f"hidden size {self.hidden_size} must be a multiple of the {self.num_heads} heads, "
                "and of 4 for sin-cos positions"
            )
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise SourceError(
                f"a DiT predicts {self.in_channels} channels, or {2 * self.in_channels} with learned variance; "
                f"this one has {self.out_channels}"
            )

    @property
    def learned_variance(self) -> bool:
        """Whether the second half of the output channels is the learned-range variance."""
        return self.out_channels == 2 * self.in_channels


#: The twelve models of the paper (table 1): name → hidden size, depth, heads, patch size.
ARCHITECTURES: dict[str, tuple[int, int, int, int]] = {
    f"DiT-{size}/{patch}": (hidden_size, depth, num_heads, patch)
    for size, hidden_size, depth, num_heads in (
        ("S", 384, 12, 6),
        ("B", 768, 12, 12),
        ("L", 1024, 24, 16),
        ("XL", 1152, 28, 16),
    )
    for patch in (2, 4, 8)
}


def geometric_frequencies(count: int, shift: float = 0.0) -> Tensor:
    """Return [count] frequencies 10000 ** (-i / (count - shift)) (Vaswani et al. 2017).

    They are constants, so they stay on the CPU in float32, rounded once from float64, even where the
    network around them is built without storage.
    """
    exponents = torch.arange(count, dtype=torch.float64, device="cpu") / (count - shift)
    return torch.pow(10000.0, -exponents).to(torch.float32)


def sincos_positions(height: int, width: int, frequencies: Tensor, base_size: int) -> Tensor:
    """Return the position embedding [1, height · width, 4 · frequencies] of a patch grid, row by row.

    Positions run over 0 … ``base_size`` whatever the grid, so that a larger picture is the training grid
    sampled more finely (as diffusers' ``PatchEmbed``). The first half of the channels encodes the column,
    the second the row, as in MAE and the original DiT ("here w goes first").
    """

    def encode(length: int) -> Tensor:  # [length, 2 · frequencies]: sines, then cosines
        steps = torch.arange(length, device=frequencies.device)
        # Not by ``length``: that is a shape, which lives on the host, and arithmetic on a GPU that reads a number
        # from there cannot be captured in a CUDA graph. The last step tells the same, where the steps are.
        angles = (steps * base_size / (steps[-1] + 1))[:, None] * frequencies[None, :]
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    by_row = encode(height)[:, None, :].expand(height, width, -1)
    by_column = encode(width)[None, :, :].expand(height, width, -1)
    return torch.cat([by_column, by_row], dim=2).flatten(0, 1)[None]


class Embedder(nn.Module):
    """Timestep and class label → conditioning vector [batch, hidden_size]."""

    frequencies: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        frequencies = geometric_frequencies(FREQUENCIES // 2, config.frequency_shift)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.timestep_in = nn.Linear(FREQUENCIES, config.hidden_size)
        self.timestep_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.class_table = nn.Embedding(config.num_classes + 1, config.hidden_size)  # the last row is the null class

    def forward(self, timestep: Tensor, class_labels: Tensor) -> Tensor:
        angles = timestep[:, None].float() * self.frequencies[None, :]  # [batch, 128]
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.timestep_in.weight.dtype)  # [batch, 256]
        return self.timestep_out(F.silu(self.timestep_in(embedding))) + self.class_table(class_labels)


def modulate(hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return ``hidden_states`` [batch, tokens, hidden] scaled by 1 + ``scale`` and shifted, each [batch, hidden]."""
    return hidden_states * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """Transformer block with adaLN-Zero modulation (Peebles & Xie 2023, section 3.2)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        hidden, mlp = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.num_heads = config.num_heads
        self.modulation = nn.Linear(hidden, 6 * hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.to_q = nn.Linear(hidden, hidden)
        self.to_k = nn.Linear(hidden, hidden)
        self.to_v = nn.Linear(hidden, hidden)
        self.to_out = nn.Linear(hidden, hidden)
        self.mlp_norm = nn.LayerNorm(hidden, eps=config.mlp_norm_eps, elementwise_affine=False)
        self.mlp_in = nn.Linear(hidden, mlp)
        self.mlp_out = nn.Linear(mlp, hidden)
        self.activation = nn.GELU(approximate="tanh" if config.approximate_gelu else "none")

    def attention(self, hidden_states: Tensor) -> Tensor:
        def heads(projected: Tensor) -> Tensor:  # [batch, tokens, hidden] → [batch, heads, tokens, head]
            return projected.reshape(*projected.shape[:2], self.num_heads, -1).transpose(1, 2)

        attended = F.scaled_dot_product_attention(
            heads(self.to_q(hidden_states)), heads(self.to_k(hidden_states)), heads(self.to_v(hidden_states))
        )
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def forward(self, hidden_states: Tensor, conditioning: Tensor) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.modulation(conditioning).chunk(6, dim=1)
        attended = self.attention(modulate(self.attention_norm(hidden_states), shift_msa, scale_msa))
        hidden_states = hidden_states + gate_msa[:, None] * attended
        expanded = self.activation(self.mlp_in(modulate(self.mlp_norm(hidden_states), shift_mlp, scale_mlp)))
        return hidden_states + gate_mlp[:, None] * self.mlp_out(expanded)


class DiT(nn.Module):
    """The denoiser. Its initial weights are torch's defaults, there to be loaded over."""

    position_frequencies: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        hidden, patch = config.hidden_size, config.patch_size
        self.register_buffer("position_frequencies", geometric_frequencies(hidden // 4), persistent=False)
        self.patch_embed = nn.Conv2d(config.in_channels, hidden, kernel_size=patch, stride=patch)
        self.embedders = nn.ModuleList(Embedder(config) for _ in range(1 if config.shared_embedder else config.depth))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_modulation = nn.Linear(hidden, 2 * hidden)
        self.final_norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.final_linear = nn.Linear(hidden, patch * patch * config.out_channels)

    def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor, ...]:
        """Predict the noise, and with learned variance the variance too.

        Args:
            latents: [batch, channels, height, width]; height and width are multiples of the patch size.
            timestep: [batch], a training index 0 … 999; fractions are allowed.
            class_labels: int64 [batch], 0 … num_classes; ``num_classes`` itself is the null class.

        Returns:
            ``prediction`` and, with learned variance, ``variance``; both shaped like ``latents``.
        """
        config, patch = self.config, self.config.patch_size
        tokens = self.patch_embed(latents)  # [batch, hidden, patch_height, patch_width]
        height, width = tokens.shape[2], tokens.shape[3]
        positions = sincos_positions(height, width, self.position_frequencies, config.sample_size // patch)
        hidden_states = tokens.flatten(2).transpose(1, 2) + positions.to(tokens.dtype)  # [batch, tokens, hidden]

        conditionings = [F.silu(embedder(timestep, class_labels)) for embedder in self.embedders]
        for index, block in enumerate(self.blocks):
            hidden_states = block(hidden_states, conditionings[index % len(conditionings)])

        shift, scale = self.final_modulation(conditionings[0]).chunk(2, dim=1)
        output = self.final_linear(modulate(self.final_norm(hidden_states), shift, scale))
        output = output.reshape(-1, height, width, patch, patch, config.out_channels)
        output = output.permute(0, 5, 1, 3, 2, 4).reshape(-1, config.out_channels, height * patch, width * patch)
        return output.chunk(2, dim=1) if config.learned_variance else (output,)


def denoiser_component(config: DiTConfig, num_train_timesteps: int) -> Component:
    """Declare the denoiser's inputs and outputs."""
    batch = Axis(name="batch")
    prediction, *variance = parts.output_tensors(
        config.in_channels, config.patch_size, variance=config.learned_variance
    )
    return Component(
        path="denoiser/model.onnx",
        inputs=(
            parts.latents_tensor(config.in_channels, config.patch_size),
            TensorSpec(
                name="timestep",
                dtype="float32",
                axes=(batch,),
                unit="training index",
                minimum=0,
                maximum=num_train_timesteps - 1,
            ),
            TensorSpec(
                name="class_labels",
                dtype="int64",
                axes=(batch,),
                minimum=0,
                maximum=config.num_classes,
                description=f"{config.num_classes} is the null class",
            ),
        ),
        outputs=(prediction.model_copy(update={"description": "the predicted noise"}), *variance),
    )


def latents(config: DiTConfig, spatial_compression: int, scaling_factor: float, shift_factor: float) -> Latents:
    """Declare the latents' geometry."""
    return Latents(
        channels=config.in_channels,
        height=config.sample_size,
        width=config.sample_size,
        patch_size=config.patch_size,
        spatial_compression=spatial_compression,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def guidance(config: DiTConfig, channels: int | None) -> Guidance:
    """Declare classifier-free guidance (Ho & Salimans 2022) towards the null class; 4.0 is DiTPipeline's default."""
    return Guidance(
        kind="classifier_free",
        unconditional={"class_labels": config.num_classes},
        channels=channels,
        default_scale=4.0,
    )
