"""HunyuanVideo's transformer for export: positions and masks from symbolic sizes; and diffusers' own beside it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.exporters.families._embeddings import Sinusoid, rotate

__all__ = ["Denoiser", "FromPicture", "Reference", "Rotary"]

#: What is added to the score of a token that is not attended to; its exponential is 0 beside any score.
_MASKED = -10000.0


class Denoiser(nn.Module):
    """diffusers' transformer with positions, masks and rotary embedding as a graph can say them.

    Args:
        transformer: is changed: its attention and the sines of its time embeddings are replaced.
    """

    def __init__(self, transformer: HunyuanVideoTransformer3DModel) -> None:
        super().__init__()
        config = transformer.config
        transformer.set_attn_processor(_Attention())
        for embedder in (transformer.time_text_embed, transformer.context_embedder.time_text_embed):
            embedder.time_proj = Sinusoid(embedder.time_proj.num_channels)
        transformer.rope = Rotary(config.rope_axes_dim, config.rope_theta)
        self.transformer = transformer
        self.patch, self.patch_frames = int(config.patch_size), int(config.patch_size_t)
        self.channels = int(config.out_channels or config.in_channels)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, in_channels, frames, height, width].
            timestep: [batch], sigma · 1000.
            encoder_hidden_states: [batch, sequence_length, text_embed_dim], padding included.
            encoder_attention_mask: int64 [batch, sequence_length], 1 where a token is; these come first.
            pooled_projections: [batch, pooled_projection_dim].
            guidance: [batch], the scale itself, where the model embeds it.

        Returns:
            the prediction, [batch, out_channels, frames, height, width].
        """
        network, p, p_t = self.transformer, self.patch, self.patch_frames
        batch, _, frames, height, width = latents.shape
        steps, rows, columns = frames // p_t, height // p, width // p
        tokens = encoder_hidden_states.shape[1]
        embedded, _ = network.time_text_embed(
            timestep, pooled_projections, None if guidance is None else guidance * 1000.0
        )
        x = network.x_embedder(latents)  # [batch, patches, hidden]
        text = self.refined(encoder_hidden_states, timestep, encoder_attention_mask)  # [batch, tokens, hidden]
        angles = network.rope(steps, rows, columns)

        # Patches see all patches and the tokens that are there; so do the tokens, padding among them.
        there = torch.arange(tokens)[None, :] < encoder_attention_mask.sum(dim=1, keepdim=True)
        bias = F.pad((~there).to(x.dtype) * _MASKED, (steps * rows * columns, 0))[:, None, None, :]
        bias = bias.expand(-1, -1, steps * rows * columns + tokens, -1)  # [batch, 1, patches + tokens, the same]
        for block in (*network.transformer_blocks, *network.single_transformer_blocks):
            x, text = block(x, text, embedded, bias, angles)

        x = network.proj_out(network.norm_out(x, embedded))
        x = x.reshape(batch, steps, rows, columns, self.channels, p_t, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return (x.reshape(batch, self.channels, frames, height, width),)

    def refined(self, states: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        """Return the tokens [batch, tokens, hidden] after blocks that the timestep and the texts' mean modulate.

        Tokens attend to each other, padding to the first token alone.
        """
        refiner = self.transformer.context_embedder
        weights = mask.to(states.dtype)[:, :, None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        embedded = refiner.time_text_embed(timestep, mean)
        pairs = mask[:, :, None] * mask[:, None, :]  # [batch, queries, keys]
        first = (torch.arange(states.shape[1]) == 0)[None, None, :]
        bias = torch.where((pairs > 0) | first, 0.0, _MASKED)[:, None]
        x = refiner.proj_in(states)
        for block in refiner.token_refiner.refiner_blocks:
            x = block(x, embedded, bias)
        return x


class Rotary(nn.Module):
    """Cosines and sines of frame, row and column of each patch; each value twice in a row.

    Angles are rounded to float32 as diffusers rounds them.
    """

    frequencies: Tensor
    axis: Tensor

    def __init__(self, axes_dims: tuple[int, ...], theta: float) -> None:
        super().__init__()
        exponents = [torch.arange(0, size, 2, dtype=torch.float32) / size for size in axes_dims]
        frequencies = torch.cat([1.0 / (theta**one) for one in exponents]).repeat_interleave(2)
        axis = torch.cat([torch.full((size,), index) for index, size in enumerate(axes_dims)])
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("axis", axis, persistent=False)

    def forward(self, steps: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each [steps · rows · columns, 1, head]."""
        grid = (steps, rows, columns)
        frame = torch.arange(steps)[:, None, None].expand(grid)
        row = torch.arange(rows)[None, :, None].expand(grid)
        column = torch.arange(columns)[None, None, :].expand(grid)
        positions = torch.stack([frame, row, column], dim=-1).reshape(steps * rows * columns, 3)
        angles = (positions[:, self.axis].to(torch.float32) * self.frequencies)[:, None, :]
        return angles.cos(), angles.sin()


class _Attention:
    """diffusers' ``HunyuanVideoAttnProcessor2_0`` and, for the refiner's tokens alone, its ``AttnProcessor2_0``.

    The mask is what is added to scores, with the scores' axes. Only patches, which stand first, have positions.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        def heads(x: Any) -> Any:
            return x.unflatten(-1, (attn.heads, -1))  # [batch, tokens, heads, head]

        def normed(norm: nn.Module | None, x: Tensor) -> Tensor:
            return x if norm is None else norm(x)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask).transpose(1, 2).flatten(2)

        def projected(x: Tensor, added: bool) -> tuple[Tensor, Tensor, Tensor]:
            if added:
                q, k, v = attn.add_q_proj(x), attn.add_k_proj(x), attn.add_v_proj(x)
                return normed(attn.norm_added_q, heads(q)), normed(attn.norm_added_k, heads(k)), heads(v)
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
            return normed(attn.norm_q, heads(q)), normed(attn.norm_k, heads(k)), heads(v)

        q, k, v = projected(hidden_states, added=False)
        if encoder_hidden_states is None:
            return attn.to_out[0](attend(q, k, v))
        assert image_rotary_emb is not None
        q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        of_text = projected(encoder_hidden_states, added=attn.add_q_proj is not None)
        patches = hidden_states.shape[1]
        x = attend(*(torch.cat(pair, dim=1) for pair in zip((q, k, v), of_text, strict=True)))
        x, text = x[:, :patches], x[:, patches:]
        if getattr(attn, "to_out", None) is not None:
            x = attn.to_out[0](x)
        if getattr(attn, "to_add_out", None) is not None:
            text = attn.to_add_out(text)
        return x, text


class Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipeline calls it."""

    def __init__(self, transformer: HunyuanVideoTransformer3DModel) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        return self.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask.to(latents.dtype),
            pooled_projections=pooled_projections,
            guidance=None if guidance is None else guidance * 1000.0,
            return_dict=False,
        )


class FromPicture(nn.Module):
    """A network of the above that takes the latents of a picture beside those of the video (SkyReels)."""

    def __init__(self, network: Denoiser | Reference) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        pooled_projections: Tensor,
        image_latents: Tensor,
        guidance: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the flow from latents and ``image_latents`` of the same shape; see :class:`Denoiser`."""
        return self.network(
            torch.cat([latents, image_latents], dim=1),
            timestep,
            encoder_hidden_states,
            encoder_attention_mask,
            pooled_projections,
            guidance,
        )
