"""diffusers' own DiT, as the reference that an export is held against.

``DiTTransformer2DModel.forward`` ends in an unpatchify that assumes a square grid. For every other grid the
reference is the model's own modules with that last step written out.
"""

from __future__ import annotations

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DiffusersDiT"]


class DiffusersDiT(nn.Module):
    """A ``DiTTransformer2DModel`` with the signature of our denoiser, for any patch grid."""

    def __init__(self, model: DiTTransformer2DModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor, ...]:
        """Return ``prediction`` and, with learned variance, ``variance``, each shaped like ``latents``."""
        if latents.shape[2] == latents.shape[3]:
            output = self.model(latents, timestep=timestep, class_labels=class_labels).sample
        else:
            output = self.forward_oblong(latents, timestep, class_labels)
        return output.chunk(2, dim=1) if self.model.out_channels == 2 * latents.shape[1] else (output,)

    def forward_oblong(self, latents: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Run the model's own modules, and unpatchify for a grid that need not be square."""
        model, patch, channels = self.model, self.model.patch_size, self.model.out_channels
        height, width = latents.shape[2] // patch, latents.shape[3] // patch
        hidden_states = model.pos_embed(latents)
        for block in model.transformer_blocks:
            hidden_states = block(hidden_states, timestep=timestep, class_labels=class_labels)
        embedder = model.transformer_blocks[0].norm1.emb
        conditioning = embedder(timestep, class_labels, hidden_dtype=hidden_states.dtype)
        shift, scale = model.proj_out_1(F.silu(conditioning)).chunk(2, dim=1)
        output = model.proj_out_2(model.norm_out(hidden_states) * (1 + scale[:, None]) + shift[:, None])
        output = output.reshape(-1, height, width, patch, patch, channels)
        return torch.einsum("nhwpqc->nchpwq", output).reshape(-1, channels, height * patch, width * patch)
