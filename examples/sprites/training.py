"""One step of training on a few CPU cores."""

from __future__ import annotations

import torch


def take_step(loss: torch.Tensor, optimiser: torch.optim.Optimizer, rate: float, clip: float = 1.0) -> float:
    """One optimiser step at this learning rate with the gradient's norm cut at `clip`; gives the loss."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([one for group in optimiser.param_groups for one in group["params"]], clip)
    optimiser.step()
    return float(loss.detach())
