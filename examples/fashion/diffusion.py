"""The diffusion the DiT is trained with: linear betas, noise prediction, learned-range variance.

Names follow Ho et al. 2020 (arXiv:2006.11239) for the process and Nichol & Dhariwal 2021 (arXiv:2102.09672)
for the hybrid loss, whose code (improved-diffusion) the DiT paper's training uses too.
"""

from __future__ import annotations

import math

import torch
from networks import BETA_END, BETA_START, LATENT_CHANNELS, TRAIN_TIMESTEPS


class GaussianDiffusion:
    """The forward process q and the loss of a network that predicts its noise and variance."""

    def __init__(self) -> None:
        betas = torch.linspace(BETA_START, BETA_END, TRAIN_TIMESTEPS, dtype=torch.float64)
        alphas = 1.0 - betas
        alpha_bars = alphas.cumprod(0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bars[:-1]])
        posterior = betas * (1.0 - previous) / (1.0 - alpha_bars)
        # At t = 0 it is zero, whose logarithm the loss cannot take (improved-diffusion does the same).
        posterior[0] = posterior[1]
        self.signal = alpha_bars.sqrt().float()
        self.noise = (1.0 - alpha_bars).sqrt().float()
        self.log_betas = betas.log().float()
        self.log_posterior = posterior.log().float()
        # The mean of q(x_{t-1} | x_t, x_0) differs from the model's by this much times the error in epsilon.
        self.mean_per_epsilon = (betas / ((1.0 - alpha_bars).sqrt() * alphas.sqrt())).float()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """x_t of x_0 = latents [n, 4, 8, 8], normal noise of that shape and timestep [n] in 0..999."""
        return _at(self.signal, timestep) * latents + _at(self.noise, timestep) * noise

    def loss(
        self, output: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The hybrid loss's two terms, scalars to be added: MSE on epsilon, and the variational bound.

        `output` is the network's [n, 8, 8, 8] for x_t, `noise` what made it [n, 4, 8, 8]. The bound trains
        the variance only: the predicted noise is detached in it. Its unit is bits a latent element for one
        timestep; so unweighted it is improved-diffusion's 0.001 * L_vlb, as 1000 timesteps make up the bound.
        """
        epsilon, place = output.split(LATENT_CHANNELS, dim=1)
        mse = (epsilon - noise).square().mean()

        fraction = (place + 1.0) / 2.0
        log_true = _at(self.log_posterior, timestep)
        log_model = fraction * _at(self.log_betas, timestep) + (1.0 - fraction) * log_true
        squared = (_at(self.mean_per_epsilon, timestep) * (epsilon.detach() - noise)).square()
        error = squared * (-log_model).exp()
        divergence = 0.5 * (log_model - log_true + (log_true - log_model).exp() + error - 1.0)
        # At t = 0 the bound has -log p(x_0 | x_1). improved-diffusion bins it for 8-bit pixels; latents have
        # no bins, so here it is the plain Gaussian density (the learned range keeps the variance in bounds).
        likelihood = 0.5 * (math.log(2.0 * math.pi) + log_model + error)
        first = (timestep == 0).view(-1, 1, 1, 1)
        bound = torch.where(first, likelihood, divergence).mean() / math.log(2.0)
        return mse, bound


def _at(table: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """table[timestep] shaped [n, 1, 1, 1], to multiply latents."""
    return table[timestep].view(-1, 1, 1, 1)


def stratified_timesteps(n: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """n timesteps, int64 in 0..999: each uniform, one in each n-th of the range.

    The spread lowers the loss's noise without changing its mean (Kingma et al. 2021, arXiv:2107.00630, I.1).
    """
    offset = torch.rand((), generator=generator)
    return ((torch.arange(n) + offset) / n * TRAIN_TIMESTEPS).long().clamp(0, TRAIN_TIMESTEPS - 1)
