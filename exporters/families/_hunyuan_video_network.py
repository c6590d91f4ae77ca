"""HunyuanVideo's transformer for export: positions and masks from symbolic sizes; and diffusers' own beside it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import HunyuanVideoTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.exporters.families._attention import attend, heads, normed
from dit_deploy.exporters.families._rotary import Rotary, grid_positions, rotate
from dit_deploy.exporters.masks import MASKED
from dit_deploy.exporters.sinusoid import Sinusoid

__all__ = ["Denoiser", "FromPicture", "Reference"]


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
        angles = network.rope(grid_positions(steps, rows, columns))

        # Patches see all patches and the tokens that are there; so do the tokens, padding among them.
        there = torch.arange(tokens)[None, :] < encoder_attention_mask.sum(dim=1, keepdim=True)
        bias = F.pad((~there).to(x.dtype) * MASKED, (steps * rows * columns, 0))[:, None, None, :]
        bias = bias.expand(-1, -1, steps * rows * columns + tokens, -1)  # [batch, 1, patches + tokens, the same]
        for block in (*network.transformer_blocks, *network.single_transformer_blocks):
            x, text = block(x, text, embedded, bias, angles)

        x = network.proj_out(network.norm_out(x, embedded))
        x = x.reshape(batch, steps, rows, columns, self.channels, p_t, p, p).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return (x.reshape(batch, self.channels, frames, height, width),)

    def refined(self, states: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        """Return the tokens [batch, tokens, hidden] after blocks that the timestep and the texts' mean modulate.

        Tokens attend to each other, padding to the first token alone.

        Args:
            states: [batch, tokens, text_embed_dim].
            timestep, mask: as :meth:`forward` has them.
        """
        refiner = self.transformer.context_embedder
        weights = mask.to(states.dtype)[:, :, None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        embedded = refiner.time_text_embed(timestep, mean)
        pairs = mask[:, :, None] * mask[:, None, :]  # [batch, queries, keys]
        first = (torch.arange(states.shape[1]) == 0)[None, None, :]
        bias = torch.where((pairs > 0) | first, 0.0, MASKED)[:, None]
        x = refiner.proj_in(states)
        for block in refiner.token_refiner.refiner_blocks:
            x = block(x, embedded, bias)
        return x


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
        def projected(x: Tensor, to_q: Any, to_k: Any, to_v: Any, norm_q: Any, norm_k: Any) -> tuple[Tensor, ...]:
            q, k, v = (heads(linear(x), attn.heads) for linear in (to_q, to_k, to_v))  # [batch, tokens, heads, head]
            return normed(norm_q, q), normed(norm_k, k), v

        layers = (attn.to_q, attn.to_k, attn.to_v, attn.norm_q, attn.norm_k)
        q, k, v = projected(hidden_states, *layers)
        if encoder_hidden_states is None:
            return attn.to_out[0](attend(q, k, v, attention_mask))
        assert image_rotary_emb is not None
        q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        if attn.add_q_proj is not None:
            layers = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj, attn.norm_added_q, attn.norm_added_k)
        of_text = projected(encoder_hidden_states, *layers)
        patches = hidden_states.shape[1]
        q, k, v = (torch.cat(pair, dim=1) for pair in zip((q, k, v), of_text, strict=True))
        x = attend(q, k, v, attention_mask)
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
