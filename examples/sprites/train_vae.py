"""Train the VAE, then encode clips for the DiT.

    python train_vae.py --data emoji-datasource-google-16.0.0.tgz --work WORK

Writes model/vae and WORK/latents.safetensors. It begins as a network of pictures: its convolutions look at no earlier
frame, its layers that halve and double the number of frames average and repeat. A third of the run trains it on single
frames, which are cheap, and the rest on clips. Until the last part it sees 32 x 32 pixels about the sprite: the network
is made of convolutions, and the rest of a clip is one colour.
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
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample, patchify, unpatchify
from networks import PATCH, build_vae, save_vae
from safetensors.torch import save_file
from shared import progress, save_state, trapezoid
from torch import nn
from training import take_step

from dit_deploy.exporters.autoencoder_wan import at_once

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

    def frames(self, count: int) -> torch.Tensor:
        """Single frames [n, 3, 1, 32, 32] in [-1, 1], one of each of some clips."""
        crops, places = self.batch(count, whole=False), self.dice.integers(0, FRAMES, count)
        return torch.stack([crop[:, place : place + 1] for crop, place in zip(crops, places, strict=True)])


class Whole(nn.Module):
    """The VAE with each clip sent through at once, which is the same and quicker than diffusers' frames in turn."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.encoder, self.quant_conv = at_once(vae.encoder), vae.quant_conv
        self.post_quant_conv, self.decoder = vae.post_quant_conv, at_once(vae.decoder)

    def encode(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the variance of clips [n, 3, f, h, w] in [-1, 1]."""
        mean, log_variance = self.quant_conv(self.encoder(patchify(clips, PATCH))).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Clips of latents, which may leave [-1, 1]."""
        decoded: torch.Tensor = unpatchify(self.decoder(self.post_quant_conv(latents), first_chunk=True), PATCH)
        return decoded


@torch.no_grad()
def begin_with_pictures(vae: AutoencoderKLWan) -> None:
    """Let no frame see an earlier one: pairs of frames become their mean, and are both what it was."""
    for module in vae.modules():
        if isinstance(module, WanCausalConv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, :2] = 0
    for module in vae.modules():
        if isinstance(module, WanResample) and module.mode.endswith("3d"):
            channels = module.time_conv.in_channels
            same = torch.eye(channels)[:, :, None, None]  # [out, in, 1, 1]
            weight, bias = module.time_conv.weight, module.time_conv.bias
            bias.zero_()
            weight.zero_()
            if module.mode == "downsample3d":
                weight[:, :, 1], weight[:, :, 2] = 0.5 * same, 0.5 * same
            else:
                weight[:channels, :, 2], weight[channels:, :, 2] = same, same


def edges(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finite differences of clips [n, c, f, h, w] down and across."""
    return clips[..., 1:, :] - clips[..., :-1, :], clips[..., 1:] - clips[..., :-1]


def vae_loss(vae: Whole, clips: torch.Tensor, kl_weight: float, edge_weight: float) -> torch.Tensor:
    """The training loss (a scalar) for clips [n, 3, f, h, w] in [-1, 1]; the KL is per latent element.

    Squares beside absolute differences: by the latter alone a sprite, few pixels of many, is best left out.
    """
    mean, log_variance = vae.encode(clips)
    decoded = vae.decode(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
    difference = decoded - clips
    loss = difference.abs().mean() + 4.0 * difference.square().mean()
    for ours, theirs in zip(edges(decoded), edges(clips), strict=True):
        loss = loss + edge_weight * (ours - theirs).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    return loss + kl_weight * kl


@torch.no_grad()
def reconstruction_psnr(vae: Whole, clips: torch.Tensor) -> float:
    """PSNR in dB of clips [n, 3, 17, h, w] through encoder mean and decoder, from the overall MSE."""
    decoded = torch.cat([vae.decode(vae.encode(some)[0]) for some in clips.split(8)])
    return -10.0 * math.log10(float(((decoded.clamp(-1, 1) - clips) / 2.0).square().mean()))


@torch.no_grad()
def encode_all(vae: Whole, clips: Clips, rounds: int) -> dict[str, torch.Tensor]:
    """The posterior of every clip from `rounds` beginnings: mean and std [n, 16, 5, 8, 8], and `clip`, its number."""
    numbers = torch.arange(len(clips.clips)).repeat(rounds)
    means, stds = [], []
    for some in numbers.split(16):
        mean, log_variance = vae.encode(torch.stack([clips.whole(clips.clips[number]) for number in some]))
        means.append(mean)
        stds.append(torch.exp(0.5 * log_variance))
    # Convolutions leave channels last, which safetensors does not take.
    return {"mean": torch.cat(means).contiguous(), "std": torch.cat(stds).contiguous(), "clip": numbers}


def main() -> None:
    """Read the options, train, encode the clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, default=Path(PACKAGE), help="the npm package's file (%(default)s)")
    option("--model", type=Path, default=HERE / "model", help="where the pipeline folder goes")
    option("--work", type=Path, default=Path(tempfile.gettempdir()) / "sprites_train")
    option("--seconds", type=float, default=900.0, help="how long to train (%(default)s)")
    option("--batch", type=int, default=16, help="crops a step; of whole clips a quarter of it (%(default)s)")
    option("--frames", type=float, default=0.33, help="share of the run, its beginning, on frames (%(default)s)")
    option("--whole", type=float, default=0.25, help="share of the run, its end, that sees whole clips (%(default)s)")
    option("--lr", type=float, default=1e-3, help="peak learning rate (%(default)s)")
    option("--kl-weight", type=float, default=1e-4, help="(%(default)s)")
    option("--edge-weight", type=float, default=0.25, help="(%(default)s)")
    option("--rounds", type=int, default=4, help="beginnings of each clip that are encoded (%(default)s)")
    option("--log-every", type=int, default=50, help="steps between lines of the log (%(default)s)")
    option("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    clips = Clips(args.data, args.seed)
    vae = build_vae()
    begin_with_pictures(vae)
    network = Whole(vae)
    print(f"VAE: {sum(p.numel() for p in vae.parameters())} parameters", flush=True)

    start = time.monotonic()
    optimiser = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    losses: list[float] = []
    for number, share in progress(args.seconds):
        if share < args.frames:
            batch = clips.frames(2 * args.batch)
        else:
            whole = share > 1.0 - args.whole
            batch = clips.batch(args.batch // 4 if whole else args.batch, whole)
        loss = vae_loss(network, batch, args.kl_weight, args.edge_weight)
        losses.append(take_step(loss, optimiser, args.lr * trapezoid(share, number, warmup=50, fall=0.6)))
        if len(losses) % args.log_every == 0:
            mean = sum(losses[-args.log_every :]) / args.log_every
            psnr = reconstruction_psnr(network, batch)
            print(f"{len(losses):6d}  loss {mean:.4f}  {psnr:.2f} dB  {time.monotonic() - start:.0f} s", flush=True)
            save_state({"model": network.state_dict()}, args.work / "vae.pt")
    print(f"{len(losses)} steps, {time.monotonic() - start:.0f} s", flush=True)

    network.half().float()  # what is stored
    latents = encode_all(network, clips, args.rounds)
    means, stds = latents["mean"], latents["std"]
    # The variance of a sampled latent: that of the means plus the posterior's own.
    variance = means.var(dim=(0, 2, 3, 4)) + stds.square().mean(dim=(0, 2, 3, 4))
    vae = build_vae()  # with diffusers' own layers
    vae.load_state_dict(network.state_dict())
    vae.register_to_config(latents_mean=means.mean(dim=(0, 2, 3, 4)).tolist(), latents_std=variance.sqrt().tolist())
    save_vae(vae, args.model / "vae")
    save_file(latents, args.work / "latents.safetensors")
    psnr = reconstruction_psnr(network, torch.stack([clips.whole(clip) for clip in clips.clips[::24]]))
    print(
        f"{len(means)} clips of {SIZE} pixels encoded, {time.monotonic() - start:.0f} s; psnr {psnr:.2f} dB", flush=True
    )


if __name__ == "__main__":
    main()
