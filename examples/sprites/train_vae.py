"""Train the VAE, then encode clips for the DiT.

    python train_vae.py --data emoji-datasource-google-16.0.0.tgz --work WORK

Writes model/vae and WORK/latents.safetensors. The loss is L1 on pixels and on finite differences (edges), and a small
KL term (Rombach et al. 2022, arXiv:2112.10752). Most steps see 32 x 32 pixels about the sprite: the network is made of
convolutions, and the rest of a clip is one colour. The last see whole clips.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from data import FRAMES, PACKAGE, SIZE, SPRITE_SIZE, Clip, all_clips, load_sprites, path, random_start, render
from diffusers import AutoencoderKLWan
from networks import build_vae, save_vae
from safetensors.torch import save_file
from training import progress, save_state, take_step, trapezoid

HERE = Path(__file__).resolve().parent
CROP = 32


def to_clip(frames: np.ndarray) -> torch.Tensor:
    """Frames [17, 3, h, w] in 0..1 to float32 [3, 17, h, w] in [-1, 1], the VAE's range."""
    return torch.from_numpy(frames * 2 - 1).transpose(0, 1)


def cropped_start(clip: Clip, dice: np.random.Generator) -> tuple[int, int]:
    """A place to begin from which half the way on the sprite is in the crop, most of it."""
    middle = path(clip.direction, clip.speed, (0, 0))[FRAMES // 2]
    across, down = dice.integers(-SPRITE_SIZE // 4, CROP - 3 * SPRITE_SIZE // 4, 2) - middle
    return int(across), int(down)


class Clips:
    """Draws training clips: whole ones, or the sprite's neighbourhood."""

    def __init__(self, package: Path, seed: int) -> None:
        self.sprites = load_sprites(package)
        self.clips = [clip for clip in all_clips() if not clip.held_out]
        self.dice = np.random.default_rng(seed)

    def whole(self, clip: Clip) -> torch.Tensor:
        """A clip [3, 17, 64, 64] in [-1, 1] that begins somewhere."""
        places = path(clip.direction, clip.speed, random_start(clip, self.dice))
        return to_clip(render(self.sprites[clip.sprite], clip.background, places))

    def crop(self, clip: Clip) -> torch.Tensor:
        """What 32 x 32 pixels see of it, [3, 17, 32, 32] in [-1, 1]."""
        places = path(clip.direction, clip.speed, cropped_start(clip, self.dice))
        return to_clip(render(self.sprites[clip.sprite], clip.background, places, CROP))

    def batch(self, count: int, whole: bool) -> torch.Tensor:
        """A number of either."""
        chosen = self.dice.choice(len(self.clips), count, replace=False)
        return torch.stack([(self.whole if whole else self.crop)(self.clips[number]) for number in chosen])


def edges(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finite differences of clips [n, c, f, h, w] down and across."""
    return clips[..., 1:, :] - clips[..., :-1, :], clips[..., 1:] - clips[..., :-1]


def vae_loss(vae: AutoencoderKLWan, clips: torch.Tensor, kl_weight: float, edge_weight: float) -> torch.Tensor:
    """The training loss (a scalar) for clips [n, 3, 17, h, w] in [-1, 1]; the KL is per latent element."""
    mean, log_variance = vae.encode(clips).latent_dist.parameters.chunk(2, dim=1)
    log_variance = log_variance.clamp(-30.0, 20.0)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    # As `vae.decode` decodes, without its clamp: what is clipped has no gradient.
    decoded = decode_unclipped(vae, latents)
    loss = (decoded - clips).abs().mean()
    for ours, theirs in zip(edges(decoded), edges(clips), strict=True):
        loss = loss + edge_weight * (ours - theirs).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return loss + kl_weight * kl


def decode_unclipped(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Clips of latents, which may leave [-1, 1]: the first frame, then four at a time, with the layers' caches."""
    vae.clear_cache()
    inputs, pieces = vae.post_quant_conv(latents), []
    for frame in range(latents.shape[2]):
        vae._conv_idx = [0]
        piece = vae.decoder(
            inputs[:, :, frame : frame + 1],
            feat_cache=vae._feat_map,
            feat_idx=vae._conv_idx,
            first_chunk=frame == 0,
        )
        pieces.append(piece)
    vae.clear_cache()
    patched = torch.cat(pieces, dim=2)  # [n, 3 · 4, frames, h / 2, w / 2]
    batch, _, frames, height, width = patched.shape
    split = patched.view(batch, 3, 2, 2, frames, height, width)  # colour, column, row
    return split.permute(0, 1, 4, 5, 3, 6, 2).reshape(batch, 3, frames, 2 * height, 2 * width)


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLWan, clips: torch.Tensor) -> float:
    """PSNR in dB of clips [n, 3, 17, 64, 64] through encoder mean and decoder, from the overall MSE."""
    total = 0.0
    for clip in clips.split(1):
        decoded = vae.decode(vae.encode(clip).latent_dist.mode()).sample
        total += float(((decoded - clip) / 2.0).square().mean())
    return -10.0 * math.log10(total / len(clips))


@torch.no_grad()
def encode_all(vae: AutoencoderKLWan, clips: Clips, rounds: int) -> dict[str, torch.Tensor]:
    """The posterior of every clip from `rounds` beginnings: mean and std [n · rounds, 16, 5, 8, 8], and `clip`, its number."""
    means, stds, numbers = [], [], []
    for _ in range(rounds):
        for number, clip in enumerate(clips.clips):
            posterior = vae.encode(clips.whole(clip)[None]).latent_dist
            means.append(posterior.mean)
            stds.append(posterior.std)
            numbers.append(number)
    return {"mean": torch.cat(means), "std": torch.cat(stds), "clip": torch.tensor(numbers)}


def main() -> None:
    """Read the options, train, encode the clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, default=Path(PACKAGE), help="the npm package's file (%(default)s)")
    option("--model", type=Path, default=HERE / "model", help="where the pipeline folder goes")
    option("--work", type=Path, default=Path(tempfile.gettempdir()) / "sprites_train")
    option("--seconds", type=float, default=1000.0, help="how long to train (%(default)s)")
    option("--batch", type=int, default=16, help="crops a step; of whole clips a quarter of it (%(default)s)")
    option("--whole", type=float, default=0.25, help="share of the run, its end, that sees whole clips (%(default)s)")
    option("--lr", type=float, default=2e-3, help="peak learning rate (%(default)s)")
    option("--kl-weight", type=float, default=3e-4, help="(%(default)s)")
    option("--edge-weight", type=float, default=0.5, help="(%(default)s)")
    option("--rounds", type=int, default=6, help="beginnings of each clip that are encoded (%(default)s)")
    option("--log-every", type=int, default=50, help="steps between lines of the log (%(default)s)")
    option("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    clips = Clips(args.data, args.seed)
    vae = build_vae()
    print(f"VAE: {sum(p.numel() for p in vae.parameters())} parameters", flush=True)

    start = time.monotonic()
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    losses: list[float] = []
    for number, share in progress(args.seconds):
        whole = share > 1.0 - args.whole
        batch = clips.batch(args.batch // 4 if whole else args.batch, whole)
        loss = vae_loss(vae, batch, args.kl_weight, args.edge_weight)
        losses.append(take_step(loss, optimiser, args.lr * trapezoid(share, number, warmup=50, fall=0.6)))
        if len(losses) % args.log_every == 0:
            mean = sum(losses[-args.log_every :]) / args.log_every
            print(f"{len(losses):6d}  loss {mean:.4f}  {time.monotonic() - start:.0f} s", flush=True)
            save_state({"model": vae.state_dict()}, args.work / "vae.pt")
    print(f"{len(losses)} steps of {args.batch}, {time.monotonic() - start:.0f} s", flush=True)

    vae.eval()
    vae.half().float()  # what is stored
    latents = encode_all(vae, clips, args.rounds)
    means, stds = latents["mean"], latents["std"]
    # The variance of a sampled latent: that of the means plus the posterior's own.
    variance = means.var(dim=(0, 2, 3, 4)) + stds.square().mean(dim=(0, 2, 3, 4))
    vae.register_to_config(
        latents_mean=means.mean(dim=(0, 2, 3, 4)).tolist(), latents_std=variance.sqrt().tolist()
    )
    save_vae(vae, args.model / "vae")
    save_file(latents, args.work / "latents.safetensors")
    psnr = reconstruction_psnr(vae, torch.stack([clips.whole(clip) for clip in clips.clips[::24]]))
    print(f"{len(means)} clips of {SIZE} pixels encoded, {time.monotonic() - start:.0f} s; psnr {psnr:.2f} dB", flush=True)


if __name__ == "__main__":
    main()
