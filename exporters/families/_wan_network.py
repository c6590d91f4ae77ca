"""Wan's transformer around diffusers' own modules, with what is computed in Python there said as a graph can say it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional as F

from dit_deploy.exporters.families._attention import attend, heads
from dit_deploy.exporters.families._rotary import ExactRotary, grid_positions, rotate
from dit_deploy.exporters.sinusoid import Sinusoid

__all__ = ["Denoiser", "MaskedDenoiser", "Reference"]

_THETA = 10000.0


class Denoiser(nn.Module):
    """The denoiser of one timestep a sample.

    Args:
        transformer: is changed: its attention and time embedding are replaced.
    """

    def __init__(self, transformer: WanTransformer3DModel) -> None:
        super().__init__()
        config = transformer.config
        self.patch: tuple[int, int, int] = tuple(config.patch_size)
        self.out_channels: int = config.out_channels or config.in_channels
        side = 2 * (config.attention_head_dim // 6)
        self.rotary = ExactRotary((config.attention_head_dim - 2 * side, side, side), _THETA)
        transformer.rope = nn.Identity()
        transformer.condition_embedder.timesteps_proj = Sinusoid(config.freq_dim)
        transformer.set_attn_processor(_Attention())
        self.transformer = transformer

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        image_latents: Tensor | None = None,
        encoder_hidden_states_image: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the flow.

        Args:
            latents: [batch, channels, frames, height, width], each side a multiple of the patch's.
            timestep: [batch], a training index.
            encoder_hidden_states: [batch, tokens, text width]; padding is zeros, and attended to.
            image_latents: [batch, 4 + channels, frames, height, width], of a model that gets pictures beside the
                latents.
            encoder_hidden_states_image: [batch, image tokens, image width], of one that looks through CLIP.

        Returns:
            the prediction, shaped like ``latents``.
        """
        x = latents if image_latents is None else torch.cat([latents, image_latents], dim=1)
        embedded, modulation = self.embed(timestep)
        return (self.predict(x, embedded, modulation, encoder_hidden_states, encoder_hidden_states_image),)

    def embed(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return of timesteps [n] their embeddings [n, width], and what these make of each block [n, 6, width]."""
        embedder = self.transformer.condition_embedder
        embedded = embedder.time_embedder(embedder.timesteps_proj(timestep))
        return embedded, embedder.time_proj(F.silu(embedded)).unflatten(1, (6, -1))

    def predict(
        self, x: Tensor, embedded: Tensor, modulation: Tensor, text: Tensor, image_states: Tensor | None = None
    ) -> Tensor:
        """Return the prediction for latents ``x``; embedding and modulation are of the samples, or of each token.

        Args:
            x: [batch, channels in, frames, height, width].
            embedded: [batch, width], or [batch, tokens, width].
            modulation: [batch, 6, width], or [batch, tokens, 6, width].
            text, image_states: see :meth:`forward`.
        """
        network = self.transformer
        embedder = network.condition_embedder
        grid = network.patch_embedding(x)  # [batch, width, patches in time, rows, columns]
        sizes = grid.shape[2:]
        x = grid.flatten(2).transpose(1, 2)  # [batch, tokens, width]
        conditions = (embedder.text_embedder(text), self._seen(image_states))
        rotary = self._positions(*sizes)
        for block in network.blocks:
            x = block(x, conditions, modulation, rotary)

        scale_shift = network.scale_shift_table + embedded.unsqueeze(-2)  # [batch, (tokens,) 2, width]
        shift, scale = scale_shift.unbind(-2) if embedded.ndim == 3 else scale_shift.chunk(2, dim=-2)
        x = network.proj_out(network.norm_out(x) * (1 + scale) + shift)
        x = x.reshape(-1, *sizes, *self.patch, self.out_channels).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def _seen(self, states: Tensor | None) -> Tensor | None:
        """Return CLIP's hidden states as keys and values are made of them; those of two pictures have positions."""
        if states is None:
            return None
        embedder = self.transformer.condition_embedder.image_embedder
        if embedder.pos_embed is not None:
            states = states + embedder.pos_embed
        return embedder.norm2(embedder.ff(embedder.norm1(states)))

    def _positions(self, *sizes: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [1, tokens, 1, head] of a grid of patches."""
        cos, sin = self.rotary(grid_positions(*sizes))
        return cos[None, :, None], sin[None, :, None]


class MaskedDenoiser(Denoiser):
    """The denoiser of a timestep for each token: the sample's, and 0 where a picture is given."""

    def forward(  # type: ignore[override]
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        image_latents: Tensor,
        image_mask: Tensor,
    ) -> tuple[Tensor]:
        """Predict the flow; see :meth:`Denoiser.forward`.

        Args:
            image_latents: [batch, channels, frames, height, width], ready for the denoiser.
            image_mask: [batch, 1, frames, height, width], 1 where they take the latents' place, else 0.
        """
        x = torch.where(image_mask > 0, image_latents, latents)
        given = image_mask[:, 0, :: self.patch[0], :: self.patch[1], :: self.patch[2]].flatten(1) > 0  # [batch, tokens]
        # There are two timesteps, whatever the number of tokens.
        embedded, modulation = (
            torch.where(given.reshape(*given.shape, *(1,) * (one.ndim - 1)), one[:, None], other[:, None])
            for one, other in zip(self.embed(torch.zeros(1)), self.embed(timestep), strict=True)
        )  # [batch, tokens, width], [batch, tokens, 6, width]
        return (self.predict(x, embedded, modulation, encoder_hidden_states),)


class _Attention:
    """diffusers' ``WanAttnProcessor`` without writing in place.

    What a block attends to is (text, pictures or ``None``): the pictures have keys and values of their own, and their
    share is added. diffusers has both in one tensor, and splits it at 512 tokens from the end.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor | None] | None = None,
        attention_mask: None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        source, pictures = (hidden_states, None) if encoder_hidden_states is None else encoder_hidden_states

        def split(x: Tensor) -> Tensor:
            return heads(x, attn.heads)  # [batch, tokens, heads, head]

        q, k = split(attn.norm_q(attn.to_q(hidden_states))), split(attn.norm_k(attn.to_k(source)))
        if rotary_emb is not None:
            q, k = rotate(q, *rotary_emb), rotate(k, *rotary_emb)
        x = attend(q, k, split(attn.to_v(source)))
        if pictures is not None:
            x = x + attend(q, split(attn.norm_added_k(attn.add_k_proj(pictures))), split(attn.add_v_proj(pictures)))
        return attn.to_out[0](x)


class Reference(nn.Module):
    """diffusers' transformer as it is, called as its pipelines call it; inputs as the denoiser's."""

    def __init__(self, transformer: WanTransformer3DModel, *, masked: bool) -> None:
        super().__init__()
        self.transformer, self.masked = transformer, masked

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        image_latents: Tensor | None = None,
        last: Tensor | None = None,
    ) -> tuple[Tensor]:
        """Predict the flow; ``last`` is the input after ``image_latents``: their mask, or CLIP's hidden states."""
        states = None
        if self.masked:
            assert image_latents is not None and last is not None
            first_frame_mask = 1 - last
            latents = (1 - first_frame_mask) * image_latents + first_frame_mask * latents
            timestep = (first_frame_mask[:, 0, :, ::2, ::2] * timestep[:, None, None, None]).flatten(1)
        elif image_latents is not None:
            latents, states = torch.cat([latents, image_latents], dim=1), last
        if states is not None and (positions := self.transformer.config.pos_embed_seq_len) is not None:
            states = states.reshape(-1, positions // 2, states.shape[2])  # a sample's two pictures, one by one
        prediction = self.transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=encoder_hidden_states,
            encoder_hidden_states_image=states,
            return_dict=False,
        )[0]
        return (prediction,)
