"""Train the text encoder and the DiT together, on the latents that train_vae.py wrote.

    python train_dit.py --data emoji-datasource-google-16.0.0.tgz --work WORK

Writes model/transformer, model/text_encoder, model/tokenizer and model/scheduler. Started again with more --seconds, it
goes on where it was. The folder gets the exponential moving average of the weights.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from data import PACKAGE, load_emoji
from networks import (
    MAX_TOKENS,
    build_dit,
    build_scheduler,
    build_text_encoder,
    save_component,
    save_index,
    train_tokenizer,
)
from safetensors.torch import load_file
from shared import progress, save_state, trapezoid
from torch import nn
from torch.nn import functional as F
from training import Step, make_optimiser

HERE = Path(__file__).resolve().parent


class Captioned(nn.Module):
    """The text encoder and the DiT: what is trained."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder: Any = build_text_encoder(vocabulary)
        self.transformer: Any = build_dit(self.text_encoder.config.d_model)

    def forward(
        self, latents: torch.Tensor, timestep: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """v [n, 8, 16, 16] of noisy latents, timestep [n] in 0..999, and token ids and mask [n, tokens]."""
        # As transformers would make it of a mask [n, tokens]; but that looks whether it is all ones, and waits for it.
        bias = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        text = self.text_encoder(input_ids, attention_mask=bias.expand(-1, 1, input_ids.shape[1], -1))[0]
        conditions = {"resolution": None, "aspect_ratio": None}
        output: torch.Tensor = self.transformer(
            latents,
            encoder_hidden_states=text,
            encoder_attention_mask=attention_mask,
            timestep=timestep,
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]
        return output


class Batches:
    """Draws what a step trains on, on the device that holds it all."""

    def __init__(
        self, latents: dict[str, torch.Tensor], ids: torch.Tensor, mask: torch.Tensor, batch: int, dropout: float
    ) -> None:
        device = ids.device
        self.means, self.stds = latents["mean"].to(device), latents["std"].to(device)
        self.ids, self.mask = ids, mask  # [n + 1, variants, tokens]: the last is the empty caption
        self.batch, self.dropout = batch, dropout
        cumulative = build_scheduler().alphas_cumprod.to(device)
        self.signal, self.noise = cumulative.sqrt(), (1.0 - cumulative).sqrt()
        self.places = torch.arange(batch, device=device)

    def loss(self, model: Captioned) -> torch.Tensor:
        """The mean squared error of v = signal * noise - level * latents (Salimans & Ho 2022, arXiv:2202.00512)."""
        device, count = self.ids.device, len(self.means)
        chosen = torch.randint(count, (self.batch,), device=device)
        variant = torch.randint(self.ids.shape[1], (self.batch,), device=device)
        captions = torch.where(torch.rand(self.batch, device=device) < self.dropout, count, chosen)
        # One timestep in each of `batch` equal parts of the range: the loss varies less from step to step.
        share = (self.places + torch.rand(self.batch, device=device)) / self.batch
        timestep = (share * len(self.signal)).long().clamp(max=len(self.signal) - 1)
        latents = self.means[chosen] + self.stds[chosen] * torch.randn_like(self.means[chosen])
        noise = torch.randn_like(latents)
        signal, level = (levels[timestep][:, None, None, None] for levels in (self.signal, self.noise))
        output = model(
            signal * latents + level * noise, timestep, self.ids[captions, variant], self.mask[captions, variant]
        )
        return F.mse_loss(output.float(), signal * noise - level * latents)


def tokenised(tokenizer: Any, captions: list[list[str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and masks [n, variants, tokens] of captions, padded to MAX_TOKENS."""
    flat = [caption for variants in captions for caption in variants]
    encoded = tokenizer(flat, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    shape = (len(captions), len(captions[0]), MAX_TOKENS)
    return encoded.input_ids.view(shape), encoded.attention_mask.view(shape)


def save_model(average: Captioned, folder: Path) -> None:
    """Write both networks to the pipeline's folder."""
    save_component(average.transformer, folder / "transformer")
    save_component(average.text_encoder, folder / "text_encoder")


def main() -> None:
    """Read the options, train, save now and then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(PACKAGE), help="the npm package's file (%(default)s)")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="the pipeline's folder")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "emoji_train")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to train in all (%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="optimiser steps at most (%(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="latents a step (%(default)s)")
    parser.add_argument("--lr", type=float, default=8e-4, help="peak learning rate (%(default)s)")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the weights' average (%(default)s)")
    parser.add_argument("--dropout", type=float, default=0.1, help="share of empty captions (%(default)s)")
    parser.add_argument("--log-every", type=int, default=500, help="steps between lines of the log (%(default)s)")
    parser.add_argument("--save-every", type=float, default=45.0, help="seconds between checkpoints (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.manual_seed(args.seed)
    captions = load_emoji(args.data).captions
    tokenizer = train_tokenizer(caption for variants in captions for caption in variants)
    save_component(tokenizer, args.model / "tokenizer")
    save_index(args.model)
    ids, mask = tokenised(tokenizer, [*captions, [""] * len(captions[0])])
    print(f"{len(tokenizer)} pieces, {int(mask.sum(dim=-1).max())} tokens in the longest caption", flush=True)

    latents = load_file(args.work / "latents.safetensors")
    model = Captioned(len(tokenizer)).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimiser = make_optimiser(model.parameters(), device)
    for name, part in (("DiT", model.transformer), ("text encoder", model.text_encoder)):
        print(f"{name}: {sum(p.numel() for p in part.parameters())} parameters", flush=True)
    state_file = args.work / "dit_state.pt"
    before, taken = 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        before, taken = state["seconds"], state["step"]
        print(f"going on from step {taken}, {before:.0f} s", flush=True)

    start = time.monotonic()
    batches = Batches(latents, ids.to(device), mask.to(device), args.batch, args.dropout)
    step = Step(lambda: batches.loss(model), optimiser, device)
    print(f"the first steps took {time.monotonic() - start:.1f} s", flush=True)
    weights = [list(one.parameters()) for one in (average, model)]
    total, saved, every, first = torch.zeros((), device=device), time.monotonic(), 5, taken
    start = time.monotonic()
    for number, share in progress(args.seconds, args.steps - taken, device, before):
        total += step(args.lr * trapezoid(share, first + number, warmup=300, fall=0.5))
        taken = first + number + 1
        if taken % every == 0:
            # Early on a short memory, or the average would hold on to the initial weights.
            decay = min(args.ema**every, (1 + taken) / (10 * every + taken))
            torch._foreach_lerp_(*weights, 1.0 - decay)
        if taken % args.log_every == 0:
            mean = total.item() / args.log_every
            print(f"{taken:6d}  mse {mean:.4f}  {before + time.monotonic() - start:.0f} s", flush=True)
            total.zero_()
        if time.monotonic() - saved > args.save_every:
            save_model(average, args.model)
            saved = time.monotonic()
    seconds = before + time.monotonic() - start
    print(f"{taken} steps of {args.batch}, {seconds:.0f} s", flush=True)
    save_model(average, args.model)
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": taken,
        "seconds": seconds,
    }
    save_state(state, state_file)


if __name__ == "__main__":
    main()
