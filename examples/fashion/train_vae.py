"""Train the VAE, then encode the training set for the DiT: about ten minutes on two CPU cores.

    python train_vae.py --work WORK     # writes model/vae and WORK/latents.safetensors

Loss: L1 on pixels, L1 on the image's finite differences (edges, a cheap stand-in for a perceptual loss), and
a small KL term as in latent diffusion (Rombach et al. 2022, arXiv:2112.10752).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from data import DEFAULT_DATA, load_split, to_rgb
from diffusers import AutoencoderKL
from networks import build_vae, save_component, save_index
from safetensors.torch import save_file
from shared import picture_loss

HERE = Path(__file__).resolve().parent


def vae_loss(vae: AutoencoderKL, images: torch.Tensor, kl_weight: float, edge_weight: float) -> torch.Tensor:
    """The training loss (a scalar) for images [n, 3, 32, 32] in [-1, 1]; the KL is per latent element."""
    posterior = vae.encode(images).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    loss = picture_loss(decoded, images, edge_weight)
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    return loss + kl_weight * kl


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """The learning rate's factor in 0..1 at `step` of `steps`: a linear rise, then a half cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """PSNR in dB of grey uint8 images [n, 32, 32] through encoder mean and decoder, from the overall MSE.

    Over the inner 28 x 28 pixels only: the black margin is all but free and would flatter the figure.
    """
    total = 0.0
    for batch in images.split(250):
        original = to_rgb(batch)
        decoded = vae.decode(vae.encode(original).latent_dist.mode()).sample.clamp(-1, 1)
        difference = (decoded - original)[:, :, 2:-2, 2:-2] / 2.0  # in units of the whole range
        total += float(difference.square().mean(dim=(1, 2, 3)).sum())
    return -10.0 * math.log10(total / len(images))


@torch.no_grad()
def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The posterior of grey uint8 images [n, 32, 32]: unscaled means and deviations, [n, 4, 8, 8] each."""
    means, stds = [], []
    for batch in images.split(250):
        posterior = vae.encode(to_rgb(batch)).latent_dist
        # The halves of one tensor: safetensors takes only tensors of their own.
        means.append(posterior.mean.contiguous())
        stds.append(posterior.std.contiguous())
    return torch.cat(means), torch.cat(stds)


def main() -> None:
    """Read the options, train, encode the training set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="the data set's folder (%(default)s)")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="where the pipeline folder goes")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "fashion_train")
    parser.add_argument("--steps", type=int, default=1900, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--kl-weight", type=float, default=5e-4, help="(%(default)s)")
    parser.add_argument("--edge-weight", type=float, default=0.5, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    train_images, train_labels = load_split(args.data, "train")
    test_images, _ = load_split(args.data, "t10k")

    vae = build_vae()
    print(f"VAE: {sum(p.numel() for p in vae.parameters())} parameters", flush=True)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=args.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: cosine_with_warmup(s, args.steps, 100))
    epochs = args.steps * args.batch // len(train_images) + 1
    order = torch.cat([torch.randperm(len(train_images)) for _ in range(epochs)])
    start = time.monotonic()
    for step in range(args.steps):
        images = to_rgb(train_images[order[step * args.batch : (step + 1) * args.batch]])
        loss = vae_loss(vae, images, args.kl_weight, args.edge_weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            psnr = reconstruction_psnr(vae, test_images[:250])
            seconds = time.monotonic() - start
            print(f"{step + 1:5d}  loss {loss.item():.4f}  psnr {psnr:.2f} dB  {seconds:.0f} s", flush=True)
            save_component(vae, args.model / "vae")
    vae.eval()

    means, stds = encode_all(vae, train_images)
    # The variance of a *sampled* latent: that of the means plus the posterior's own.
    scaling_factor = float(1.0 / (means.var() + stds.square().mean()).sqrt())
    vae.register_to_config(scaling_factor=scaling_factor)
    # float16 keeps the whole pipeline below 20 MB.
    save_component(vae, args.model / "vae", torch.float16)
    save_index(args.model)
    save_file(
        {"mean": means.mul(scaling_factor), "std": stds.mul(scaling_factor), "labels": train_labels},
        args.work / "latents.safetensors",
    )
    channels = (means * scaling_factor).std(dim=(0, 2, 3)).tolist()
    psnr = reconstruction_psnr(vae, test_images)
    print(f"test psnr {psnr:.2f} dB, scaling factor {scaling_factor:.4f}, std a channel {channels}")
    print(f"posterior std {float(stds.mean()) * scaling_factor:.3f}, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
