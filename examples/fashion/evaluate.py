"""Score the model: does a classifier trained on real images see in each sample the class that was asked for?

    python evaluate.py                          # PyTorch, as scores.json was made
    python evaluate.py --bundle DIR --engine E  # the same figures of the project's own runtime

Takes about ten minutes on two CPU cores, most of it for the classifier (cached) and for drawing 2000 samples.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from classifier import FEATURES, Classifier, cached_classifier
from data import CLASS_NAMES, DEFAULT_DATA, load_split, to_rgb
from diffusers import AutoencoderKL
from PIL import Image
from sampling import BundleSampler, Sampler, TorchSampler
from shared import versions, write_json
from train_vae import reconstruction_psnr

HERE = Path(__file__).resolve().parent


def frechet_distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Squared 2-Wasserstein distance between Gaussians fitted to features [n, d] and [m, d] (Fréchet 1957).

    The formula of FID (Heusel et al. 2017, arXiv:1706.08500) on other features: the figures do not compare
    with FIDs, only with each other.
    """
    a, b = ours.double().numpy(), theirs.double().numpy()
    gap = a.mean(axis=0) - b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The product of two covariances has real eigenvalues >= 0; rounding leaves specks beside that.
    roots = np.sqrt(np.clip(np.linalg.eigvals(cov_a @ cov_b).real, 0.0, None))
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2.0 * roots.sum())


def draw(sampler: Sampler, per_class: int, batch: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples as grey uint8 [n, 32, 32] and the labels asked for [n]; n = 10 * per_class.

    Batch i is drawn with seed + i, and labels go round the classes, so that any batch holds all of them.
    """
    labels = torch.arange(len(CLASS_NAMES)).repeat(per_class)

    def one(index: int, chosen: torch.Tensor) -> torch.Tensor:
        colour = torch.from_numpy(sampler.sample(chosen.tolist(), seed + index))
        print(f"batch {index + 1} of {-(-len(labels) // batch)}", flush=True)
        return colour.float().mean(dim=3).round().to(torch.uint8)

    if sampler.workers == 1:
        return torch.cat(list(map(one, itertools.count(), labels.split(batch)))), labels
    # A batch a thread, rather than threads inside each operation: see train_dit.py.
    with ThreadPoolExecutor(sampler.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        images = list(pool.map(one, itertools.count(), labels.split(batch)))
    return torch.cat(images), labels


def first_of_each_class(labels: torch.Tensor, per_class: int) -> torch.Tensor:
    """Indices of the first `per_class` images of every class in labels [n]."""
    return torch.cat([(labels == label).nonzero()[:per_class, 0] for label in range(len(CLASS_NAMES))])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Grey uint8 images [n, 32, 32] through the VAE and back."""
    decoded = [vae.decode(vae.encode(to_rgb(batch)).latent_dist.mode()).sample for batch in images.split(250)]
    return ((torch.cat(decoded).mean(dim=1) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def agreement(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
    """Share of predictions [n] that equal labels [n]: overall, and for each class."""
    right = (predicted == labels).double()
    per_class = {name: float(right[labels == label].mean()) for label, name in enumerate(CLASS_NAMES)}
    return {"overall": float(right.mean()), "per_class": per_class}


def save_grid(images: torch.Tensor, labels: torch.Tensor, columns: int, path: Path) -> None:
    """Write a PNG with a row for each class: the first `columns` of its grey uint8 images [n, 32, 32]."""
    chosen = images[first_of_each_class(labels, columns)]
    rows = chosen.view(len(CLASS_NAMES), columns, 32, 32).permute(0, 2, 1, 3).reshape(-1, columns * 32)
    Image.fromarray(rows.numpy()).resize((columns * 64, len(CLASS_NAMES) * 64), Image.Resampling.LANCZOS).save(path)


def score(sampler: Sampler, model: Path, data: Path, judge: Classifier, args: argparse.Namespace) -> dict[str, Any]:
    """All figures, as they go into the JSON file; writes the grid of samples too if `args.grid` names one."""
    test_images, test_labels = load_split(data, "t10k")
    train_images, train_labels = load_split(data, "train")
    named_test, test_features = judge.judge(test_images)

    start = time.monotonic()
    samples, asked = draw(sampler, args.per_class, args.batch, args.seed)
    seconds = time.monotonic() - start
    if args.grid:
        save_grid(samples, asked, min(12, args.per_class), args.grid)
    named, features = judge.judge(samples)

    vae = AutoencoderKL.from_pretrained(model / "vae").float().eval()
    real = train_images[first_of_each_class(train_labels, args.per_class)]
    _, real_features = judge.judge(real)
    _, decoded_features = judge.judge(reconstruct(vae, real))
    named_decoded, _ = judge.judge(reconstruct(vae, test_images))
    return {
        "samples": {
            "sampler": sampler.name,
            "count": len(asked),
            "per_class": args.per_class,
            "steps": args.steps,
            "guidance_scale": args.guidance_scale,
            "batch": args.batch,
            "seed": args.seed,
            "seconds": round(seconds, 1),
        },
        "named_as_asked": agreement(named, asked),
        "classifier": {
            "parameters": sum(p.numel() for p in judge.parameters()),
            "test_accuracy": agreement(named_test, test_labels),
            "test_accuracy_on_vae_reconstructions": agreement(named_decoded, test_labels)["overall"],
        },
        "frechet_distance_to_test_set": {
            "note": f"on the classifier's {FEATURES} penultimate features; not FID",
            "samples": frechet_distance(features, test_features),
            "as_many_training_images": frechet_distance(real_features, test_features),
            "their_vae_reconstructions": frechet_distance(decoded_features, test_features),
        },
        "vae_test_psnr_db": reconstruction_psnr(vae, test_images),
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def print_table(scores: dict[str, Any]) -> None:
    """The scores in words, for a terminal."""
    accuracy, named = scores["classifier"]["test_accuracy"], scores["named_as_asked"]
    print(f"\n{'class':14s} {'samples named as asked':>24s} {'test images named right':>24s}")
    for name in CLASS_NAMES:
        print(f"{name:14s} {named['per_class'][name]:24.1%} {accuracy['per_class'][name]:24.1%}")
    print(f"{'all':14s} {named['overall']:24.1%} {accuracy['overall']:24.1%}")
    print("\nFréchet distance to the test set on the classifier's features (not FID):")
    for key in ("samples", "as_many_training_images", "their_vae_reconstructions"):
        print(f"  {key.replace('_', ' '):28s} {scores['frechet_distance_to_test_set'][key]:8.2f}")
    print(f"\nVAE: {scores['vae_test_psnr_db']:.2f} dB on the test set")


def main() -> None:
    """Read the options, score, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = Path(tempfile.gettempdir()) / "fashion_train"
    option = parser.add_argument
    option("--data", type=Path, default=DEFAULT_DATA, help="the data set's folder (%(default)s)")
    option("--model", type=Path, default=HERE / "model", help="the diffusers folder (beside this script)")
    option("--bundle", type=Path, help="sample with the project's runtime on this bundle instead")
    option("--engine", default="auto", help="the runtime's engine, with --bundle (%(default)s)")
    option("--classifier", type=Path, default=work / "classifier.pt", help="the classifier's cache (%(default)s)")
    option("--output", type=Path, help="JSON file to write the scores to (none)")
    option("--grid", type=Path, help="PNG file to write the first samples of each class to")
    option("--per-class", type=int, default=200, help="samples of each class (%(default)s)")
    option("--steps", type=int, default=50, help="DDIM steps (%(default)s)")
    option("--guidance-scale", type=float, default=4.0, help="classifier-free guidance (%(default)s)")
    option("--batch", type=int, default=100, help="samples drawn at a time (%(default)s)")
    option("--seed", type=int, default=0, help="(%(default)s)")
    option("--threads", type=int, default=2, help="CPU threads of PyTorch (%(default)s)")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    judge = cached_classifier(args.classifier, args.data)
    sampler: Sampler
    if args.bundle:
        sampler = BundleSampler(args.bundle, args.engine, args.steps, args.guidance_scale)
    else:
        sampler = TorchSampler(args.model, args.steps, args.guidance_scale, args.threads)
    scores = score(sampler, args.model, args.data, judge, args)
    print_table(scores)
    if args.output:
        write_json(scores, args.output)


if __name__ == "__main__":
    main()
