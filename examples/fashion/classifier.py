"""A small CNN that tells the ten classes apart: the judge of the samples, trained on real images only."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from data import CLASS_NAMES, load_split
from torch import nn
from train_vae import cosine_with_warmup

FEATURES = 128
"""Width of the penultimate layer, on which the Fréchet distance is taken."""


class Classifier(nn.Module):
    """Three convolutions and two linears: grey images [n, 1, 28, 28] in [-1, 1] -> logits [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            _stage(1, 32),  # -> [n, 32, 14, 14]
            _stage(32, 64),  # -> [n, 64, 7, 7]
            _stage(64, 128),  # -> [n, 128, 3, 3]
            nn.Flatten(),
            nn.Linear(128 * 3 * 3, FEATURES),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(FEATURES, len(CLASS_NAMES))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10] of images [n, 1, 28, 28] in [-1, 1]."""
        return self.head(self.dropout(self.stages(images)))

    @torch.no_grad()
    def judge(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicted labels, int64 [n], and features, float32 [n, 128], of grey uint8 images [n, 32, 32]."""
        self.eval()
        features = torch.cat([self.stages(_crop(batch)) for batch in images.split(500)])
        return self.head(features).argmax(dim=1), features


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.MaxPool2d(2),  # before the norm, which then has a quarter of the work
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _crop(images: torch.Tensor) -> torch.Tensor:
    """Grey uint8 [n, 32, 32] in 0..255 to float32 [n, 1, 28, 28] in [-1, 1]: the data set's own frame."""
    return (images[:, None, 2:-2, 2:-2].float() / 127.5 - 1.0).contiguous()


def _augment(images: torch.Tensor) -> torch.Tensor:
    """Mirror half of the images [n, 32, 32], shift all by up to a pixel: mild, so that labels stay true."""
    mirrored = torch.where(torch.rand(len(images))[:, None, None] < 0.5, images.flip(2), images)
    down, across = torch.randint(-1, 2, (2,)).tolist()
    return mirrored.roll((down, across), (1, 2))  # the margin is two black pixels: nothing wraps round


def train_classifier(data: Path, epochs: int, batch: int, seed: int) -> Classifier:
    """Train on the 60 000 training images; the test set is not looked at."""
    torch.manual_seed(seed)
    images, labels = load_split(data, "train")
    model = Classifier()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: cosine_with_warmup(step, steps, 200))
    start = time.monotonic()
    for epoch in range(epochs):
        model.train()
        correct = 0
        order = torch.randperm(len(images))
        for chosen in order[: len(images) // batch * batch].view(-1, batch):
            logits = model(_crop(_augment(images[chosen])))
            loss = nn.functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            correct += int((logits.argmax(dim=1) == labels[chosen]).sum())
        share = correct / order.numel()
        seconds = time.monotonic() - start
        print(f"classifier epoch {epoch + 1}: {share:.4f} of training images, {seconds:.0f} s", flush=True)
    return model.eval()


def cached_classifier(path: Path, data: Path, epochs: int = 8, batch: int = 128, seed: int = 1) -> Classifier:
    """The classifier in file `path`, or a newly trained one that is then written there."""
    model = Classifier()
    if path.is_file():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    model = train_classifier(data, epochs, batch, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(model.state_dict(), partial)
    os.replace(partial, path)
    return model
