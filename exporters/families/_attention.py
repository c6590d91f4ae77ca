"""Attention of diffusers' blocks as a graph can say it: biases come with the scores' axes, and nothing is in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dit_deploy.exporters.families._rotary import rotate

__all__ = ["Attention", "attend", "heads", "normed"]


def heads(x: Tensor, count: int) -> Tensor:
    """Return ``x`` [batch, tokens, heads · head] as [batch, tokens, heads, head]."""
    return torch.unflatten(x, -1, (count, -1))


def normed(norm: Callable[[Tensor], Tensor] | None, x: Tensor) -> Tensor:
    """Return ``x`` normalised, or as it is where a model has no ``norm`` for it."""
    return x if norm is None else norm(x)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what queries attend to, the heads joined: [batch, queries, heads · head].

    Args:
        q, k, v: [batch, tokens, heads, head].
        bias: is added to the scores, [batch, 1 or heads, queries, keys].
    """
    q, k, v = (one.transpose(1, 2) for one in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


class Attention:
    """diffusers' ``AttnProcessor2_0``, ``SanaAttnProcessor2_0`` and ``LTXVideoAttnProcessor``.

    Queries and keys are normalised where the model does it, then turned where there are angles; both are done to all
    heads together.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return [batch, tokens, hidden]; ``attention_mask`` is a bias, see :func:`attend`."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k = normed(attn.norm_q, attn.to_q(hidden_states)), normed(attn.norm_k, attn.to_k(source))
        if image_rotary_emb is not None:
            q, k = rotate(q, *image_rotary_emb), rotate(k, *image_rotary_emb)
        q, k, v = (heads(one, attn.heads) for one in (q, k, attn.to_v(source)))
        projected: Tensor = attn.to_out[0](attend(q, k, v, attention_mask))
        return projected
