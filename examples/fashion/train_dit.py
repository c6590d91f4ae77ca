"""Train the DiT on the latents that train_vae.py wrote: about an hour on two CPU cores.

    python train_dit.py --work WORK     # writes model/transformer; started again, it goes on where it was

The folder gets the exponential moving average of the weights, which samples better than the last step's.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel
from diffusion import GaussianDiffusion, stratified_timesteps
from networks import NULL_CLASS, build_dit, save_component, save_index
from safetensors.torch import load_file
from shared import save_state

HERE = Path(__file__).resolve().parent


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move `average`'s parameters towards `model`'s: average = decay * average + (1 - decay) * model."""
    # parameters() lists the shared embedder once.
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def rate_factor(step: int, steps: int, warmup: int, decay: float = 0.3) -> float:
    """The learning rate's factor in 0..1: a linear rise, a plateau, a linear fall over the last `decay`.

    The plateau lets a run be made shorter or longer after it began, by another --steps, at no loss.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / (decay * steps))


class Trainer:
    """The state of a training run, which can be written to a file and taken up again."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.model: DiTTransformer2DModel = build_dit(args.width, args.layers)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=args.weight_decay
        )
        self.diffusion = GaussianDiffusion()
        # Each thread takes its share of the batch through the whole network by itself: PyTorch's own threads
        # meet after every operation, and all wait there for one whose core is busy with something else.
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(args.threads, initializer=torch.set_num_threads, initargs=(1,))
        self.step = 0
        self.seconds = 0.0

    def train_step(self, means: torch.Tensor, stds: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        """One optimiser step on posteriors [n, 4, 8, 8] (scaled) and labels [n]; the loss's two terms."""
        n = len(labels)
        latents = means + stds * torch.randn_like(means)
        class_labels = torch.where(torch.rand(n) < self.args.label_dropout, NULL_CLASS, labels)
        timestep = stratified_timesteps(n)
        noise = torch.randn_like(latents)
        noisy = self.diffusion.add_noise(latents, noise, timestep)

        for group in self.optimiser.param_groups:
            group["lr"] = self.args.lr * rate_factor(self.step, self.args.steps, self.args.warmup)
        self.optimiser.zero_grad(set_to_none=True)
        parts = (part.chunk(self.args.threads) for part in (noisy, noise, timestep, class_labels))
        shares = zip(*parts, strict=True)
        terms = list(self.pool.map(lambda share: self._backward(*share, weight=len(share[0]) / n), shares))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        # Early on a short memory, or the average would hold on to the initial weights.
        update_average(self.average, self.model, min(self.args.ema, (1 + self.step) / (10 + self.step)))
        mse, bound = (sum(values) for values in zip(*terms, strict=True))
        return mse, bound

    def _backward(
        self,
        noisy: torch.Tensor,
        noise: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor,
        weight: float,
    ) -> tuple[float, float]:
        """Add `weight` times the gradients of a share of a batch; the loss's two terms, times that too."""
        output = self.model(noisy, timestep=timestep, class_labels=class_labels).sample
        mse, bound = self.diffusion.loss(output, noise, timestep)
        ((mse + bound) * weight).backward()
        return mse.item() * weight, bound.item() * weight

    def save(self, state_file: Path) -> None:
        """Write the averaged weights to the model folder and all state to `state_file`, never half of it."""
        save_component(self.average, self.args.model / "transformer")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        save_state(state, state_file)

    def load(self, state_file: Path) -> None:
        """Take up the run that `save` wrote."""
        state = torch.load(state_file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        self.step, self.seconds = state["step"], state["seconds"]


def batches(n: int, batch: int, steps: int, seed: int) -> torch.Tensor:
    """Indices [steps, batch] into n samples: each epoch a fresh permutation."""
    generator = torch.Generator().manual_seed(seed)
    epochs = steps * batch // n + 1
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(epochs)])
    return order[: steps * batch].view(steps, batch)


def main() -> None:
    """Read the options, train, save now and then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the pipeline's folder")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "fashion_train")
    parser.add_argument("--steps", type=int, default=2800, help="optimiser steps (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="latents a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (%(default)s)")
    parser.add_argument("--warmup", type=int, default=200, help="steps to the peak learning rate (%(default)s)")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="(%(default)s)")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the weights' average (%(default)s)")
    parser.add_argument("--label-dropout", type=float, default=0.1, help="share of null labels (%(default)s)")
    parser.add_argument("--width", type=int, default=192, help="width of the tokens (%(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    latents = load_file(args.work / "latents.safetensors")
    trainer = Trainer(args)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"DiT: {parameters} parameters, the shared embedder counted once", flush=True)
    save_index(args.model)
    state_file = args.work / "dit_state.pt"
    if state_file.exists():
        trainer.load(state_file)
        print(f"going on from step {trainer.step}", flush=True)
    order = batches(len(latents["labels"]), args.batch, args.steps, args.seed)

    sums, count = [0.0, 0.0], 0
    last = time.monotonic()
    while trainer.step < args.steps:
        chosen = order[trainer.step]
        terms = trainer.train_step(latents["mean"][chosen], latents["std"][chosen], latents["labels"][chosen])
        sums, count = [total + term for total, term in zip(sums, terms, strict=True)], count + 1
        now = time.monotonic()
        trainer.seconds, last = trainer.seconds + now - last, now
        if trainer.step % 50 == 0:
            mse, bound = (total / count for total in sums)
            print(f"{trainer.step:5d}  mse {mse:.4f}  vlb {bound:.4f}  {trainer.seconds:.0f} s", flush=True)
            sums, count = [0.0, 0.0], 0
        if trainer.step % args.save_every == 0 or trainer.step == args.steps:
            trainer.save(state_file)


if __name__ == "__main__":
    main()
