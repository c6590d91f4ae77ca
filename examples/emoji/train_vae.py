"""Train the VAE, then encode the data set for the DiT.

    python train_vae.py --data emoji-datasource-google-16.0.0.tgz --work WORK

Writes model/vae and WORK/latents.safetensors. The loss is that of `../fashion/train_vae.py`: L1 on pixels and on finite
differences (edges), and a small KL term (Rombach et al. 2022, arXiv:2112.10752).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from data import PACKAGE, load_emoji, to_float
from diffusers import AutoencoderKL
from networks import build_vae, save_component
from safetensors.torch import save_file
from shared import picture_loss, progress, trapezoid
from training import Step, make_optimiser

HERE = Path(__file__).resolve().parent


def vae_loss(vae: AutoencoderKL, images: torch.Tensor, kl_weight: float, edge_weight: float) -> torch.Tensor:
    """The training loss (a scalar) for images [n, 3, 64, 64] in [-1, 1]; the KL is per latent element."""
    mean, log_variance = vae.encode(images).latent_dist.parameters.float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-30.0, 20.0)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    decoded = vae.decode(latents).sample.float()
    loss = picture_loss(decoded, images, edge_weight)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return loss + kl_weight * kl


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """PSNR in dB of uint8 images [n, 3, 64, 64] through encoder mean and decoder, from the overall MSE."""
    total = 0.0
    for batch in images.split(128):
        original = to_float(batch)
        decoded = vae.decode(vae.encode(original).latent_dist.mode()).sample.clamp(-1, 1)
        total += float(((decoded - original) / 2.0).square().mean(dim=(1, 2, 3)).sum())
    return -10.0 * math.log10(total / len(images))


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The posterior of uint8 images [n, 3, 64, 64]: means and deviations, [n, 8, 16, 16] each."""
    posteriors = [vae.encode(to_float(batch)).latent_dist for batch in images.split(128)]
    # The halves of one tensor: safetensors takes only tensors of their own.
    means = torch.cat([posterior.mean for posterior in posteriors]).contiguous()
    return means, torch.cat([posterior.std for posterior in posteriors]).contiguous()


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Give each latent channel mean 0 and deviation 1 over the data set, by the 1 x 1 convolutions between the halves.

    Emoji are mostly white, so latents are far from centred; PixArt's scaling factor alone could not mend it.
    """
    means, stds = encode_all(vae, images)
    shift = means.mean(dim=(0, 2, 3))
    # The variance of a sampled latent: that of the means plus the posterior's own.
    scale = (means.var(dim=(0, 2, 3)) + stds.square().mean(dim=(0, 2, 3))).sqrt()
    mean_rows, log_variance_rows = slice(0, len(shift)), slice(len(shift), None)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[mean_rows] /= scale[:, None, None, None]
    before.bias[mean_rows] = (before.bias[mean_rows] - shift) / scale
    before.bias[log_variance_rows] -= 2.0 * scale.log()
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale[None, :, None, None]


def main() -> None:
    """Read the options, train, encode the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(PACKAGE), help="the npm package's file (%(default)s)")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="where the pipeline folder goes")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "emoji_train")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to train (%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="optimiser steps at most (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--kl-weight", type=float, default=3e-4, help="(%(default)s)")
    parser.add_argument("--edge-weight", type=float, default=0.5, help="(%(default)s)")
    parser.add_argument("--log-every", type=int, default=500, help="steps between lines of the log (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    images = load_emoji(args.data).images.to(device)
    pictures = to_float(images)

    vae = build_vae().to(device)
    print(f"VAE: {sum(p.numel() for p in vae.parameters())} parameters", flush=True)

    def loss_of() -> torch.Tensor:
        chosen = torch.randint(len(pictures), (args.batch,), device=device)
        return vae_loss(vae, pictures[chosen], args.kl_weight, args.edge_weight)

    start = time.monotonic()
    step = Step(loss_of, make_optimiser(vae.parameters(), device), device)
    taken, loss = 0, torch.zeros(())
    for number, share in progress(args.seconds, args.steps, device):
        loss = step(args.lr * trapezoid(share, number, warmup=100, fall=0.7))
        taken = number + 1
        if taken % args.log_every == 0:
            print(f"{taken:6d}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    print(f"{taken} steps of {args.batch}, loss {loss.item():.4f}, {time.monotonic() - start:.0f} s", flush=True)

    vae.eval()
    standardise(vae, images)
    vae.half().float()  # what is stored
    save_component(vae, args.model / "vae")
    means, stds = encode_all(vae, images)
    save_file({"mean": means.cpu(), "std": stds.cpu()}, args.work / "latents.safetensors")
    psnr = reconstruction_psnr(vae, images)
    print(f"psnr {psnr:.2f} dB, posterior std {float(stds.mean()):.3f}, std of means {float(means.std()):.3f}")


if __name__ == "__main__":
    main()
