"""Score the model: is the picture drawn for a name nearest to that name's own picture, of all in the training set?

    python evaluate.py --data emoji-datasource-google-16.0.0.tgz                    # diffusers, as scores.json was made
    python evaluate.py --data … --bundle DIR --engine E     # the same figures of the project's own runtime

All names were trained on: this measures how well the model remembers, nothing else.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from data import PACKAGE, Emoji, load_emoji
from diffusers import AutoencoderKL
from PIL import Image
from sampling import BundleSampler, Sampler, TorchSampler
from shared import versions, write_json
from train_vae import reconstruction_psnr

HERE = Path(__file__).resolve().parent
COLUMNS, PAIRS_OF_ROWS = 16, 4


def draw(sampler: Sampler, names: list[str], steps: int, scale: float, batch: int, seed: int) -> torch.Tensor:
    """Samples of names, uint8 [n, 3, 64, 64]; batch i is drawn with seed + i."""
    images = []
    for number, start in enumerate(range(0, len(names), batch)):
        drawn = sampler.sample(names[start : start + batch], steps, scale, seed + number)
        images.append(torch.from_numpy(drawn).permute(0, 3, 1, 2))
        print(f"guidance {scale:g}: {min(start + batch, len(names))} of {len(names)}", flush=True)
    return torch.cat(images)


def squared_distances(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of each pair of pictures, uint8 [n, ...] and [m, ...]: float64 [n, m] in 0..1."""
    # Whole numbers below 2^53 throughout, so nothing is rounded before the division.
    a, b = images.flatten(1).double(), others.flatten(1).double()
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2.0 * (a @ b.T)
    return squares / (255.0**2 * a.shape[1])


def remembered(samples: torch.Tensor, chosen: torch.Tensor, images: torch.Tensor) -> dict[str, float]:
    """How near samples [n] of the names numbered `chosen` [n] come to the training pictures [m] of those names.

    Two emoji with the very same picture count as one.
    """
    distances = squared_distances(samples, images)
    own = distances.gather(1, chosen[:, None])
    nearer = (distances < own).sum(dim=1)
    psnr = -10.0 * own.clamp(min=1e-12).log10()
    return {
        "nearest_is_own": float((nearer == 0).double().mean()),
        "own_among_five_nearest": float((nearer < 5).double().mean()),
        "psnr_to_own_db_median": float(psnr.median()),
        "psnr_to_own_db_tenth_percentile": float(psnr.quantile(0.1)),
    }


def save_grid(samples: torch.Tensor, images: torch.Tensor, path: Path) -> None:
    """Write a PNG of samples [n, 3, 64, 64] spread over the set, each above the training picture of its name."""
    places = torch.linspace(0, len(samples) - 1, min(len(samples), COLUMNS * PAIRS_OF_ROWS)).long()
    rows = []
    for part in places.split(COLUMNS):
        for pictures in (samples[part], images[part]):
            row = torch.full((3, 64, COLUMNS * 64), 255, dtype=torch.uint8)
            row[:, :, : len(part) * 64] = torch.cat(list(pictures), dim=2)
            rows.append(row)
    Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()).save(path, optimize=True)


def score(sampler: Sampler, emoji: Emoji, args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as they go into the JSON file; writes the grid of samples too if `args.grid` names one."""
    chosen = torch.arange(0, len(emoji.names), args.every)
    names = [emoji.names[number] for number in chosen.tolist()]
    scales = []
    for number, scale in enumerate(args.guidance_scale):
        start = time.monotonic()
        samples = draw(sampler, names, args.steps, scale, args.batch, args.seed)
        seconds = round(time.monotonic() - start, 1)
        scales.append({"guidance_scale": scale, **remembered(samples, chosen, emoji.images), "seconds": seconds})
        if number == 0 and args.grid:
            save_grid(samples, emoji.images[chosen], args.grid)
    vae = AutoencoderKL.from_pretrained(args.model / "vae", torch_dtype=torch.float32).to(args.device).eval()
    return {
        "samples": {
            "sampler": sampler.name,
            "count": len(names),
            "steps": args.steps,
            "batch": args.batch,
            "seed": args.seed,
        },
        "training_pictures": len(emoji.names),
        "distance": "root of the mean squared difference of RGB pixels",
        "by_guidance_scale": scales,
        "vae_psnr_db": reconstruction_psnr(vae, emoji.images.to(args.device)),
        "versions": versions(),
    }


def print_table(scores: dict[str, Any]) -> None:
    """The scores in words, for a terminal."""
    print(f"\n{'guidance':>8s} {'nearest is own':>15s} {'among five nearest':>19s} {'PSNR to own, median':>20s}")
    for row in scores["by_guidance_scale"]:
        print(
            f"{row['guidance_scale']:8g} {row['nearest_is_own']:15.1%} {row['own_among_five_nearest']:19.1%} "
            f"{row['psnr_to_own_db_median']:17.2f} dB"
        )
    print(f"\nVAE: {scores['vae_psnr_db']:.2f} dB on the training pictures")


def main() -> None:
    """Read the options, score, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, default=Path(PACKAGE), help="the npm package's file (%(default)s)")
    option("--model", type=Path, default=HERE / "model", help="the diffusers folder (beside this script)")
    option("--bundle", type=Path, help="sample with the project's runtime on this bundle instead")
    option("--engine", default="auto", help="the runtime's engine, with --bundle (%(default)s)")
    option("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="diffusers' (%(default)s)")
    option("--output", type=Path, help="JSON file to write the scores to (none)")
    option("--grid", type=Path, help="PNG file to write samples and training pictures to")
    option("--every", type=int, default=1, help="draw each how-manieth name only (%(default)s)")
    option("--steps", type=int, default=20, help="DPM-Solver++ steps (%(default)s)")
    option("--guidance-scale", type=float, nargs="+", default=[3.0], help="the grid is of the first (%(default)s)")
    option("--batch", type=int, default=409, help="samples drawn at a time (%(default)s)")
    option("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    sampler: Sampler
    sampler = BundleSampler(args.bundle, args.engine) if args.bundle else TorchSampler(args.model, args.device)
    scores = score(sampler, load_emoji(args.data), args)
    print_table(scores)
    if args.output:
        write_json(scores, args.output)


if __name__ == "__main__":
    main()
