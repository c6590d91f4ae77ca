"""Train the text encoder and the DiT together, on the latents that train_vae.py wrote.

    python train_dit.py --work WORK

Writes model/transformer, model/text_encoder, model/tokenizer, model/scheduler and model/model_index.json, every few
minutes too. Started again with more --seconds, it goes on where it was. The folder gets the exponential moving average
of the weights. Now and then a few held-out prompts are drawn, and their motions measured.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from data import all_clips
from diffusers import AutoencoderKLWan
from motion import measure
from networks import SHIFT, TOKENS, build_dit, build_text_encoder, build_tokenizer, save_dit, save_index, save_text
from safetensors.torch import load_file
from sampling import decode, draw
from shared import progress, save_state, trapezoid
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from training import take_step

HERE = Path(__file__).resolve().parent


class Captioned(nn.Module):
    """The text encoder and the DiT: what is trained."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder: Any = build_text_encoder(vocabulary)
        self.transformer = build_dit(self.text_encoder.config.d_model)

    def forward(
        self, latents: torch.Tensor, timestep: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Velocity of noisy latents [n, 16, 5, 8, 8], timestep [n] in 0..1000, token ids and mask [n, tokens]."""
        text = self.text_encoder(input_ids, attention_mask=attention_mask)[0]
        output: torch.Tensor = self.transformer(latents, timestep, text, attention_mask)[0]
        return output


class Batches:
    """Draws what a step trains on."""

    def __init__(
        self, latents: dict[str, torch.Tensor], vae: AutoencoderKLWan, tokens: Any, batch: int, dropout: float
    ) -> None:
        mean, std = (
            torch.tensor(values)[None, :, None, None, None]
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        self.means, self.stds = (latents["mean"] - mean) / std, latents["std"] / std
        self.clips = latents["clip"]
        self.ids, self.mask = tokens.input_ids, tokens.attention_mask  # [clips + 1, tokens]: the last is the empty one
        self.batch, self.dropout = batch, dropout

    def loss(self, model: Captioned) -> torch.Tensor:
        """The mean squared error of the velocity noise - latents (Lipman et al. 2023, arXiv:2210.02747)."""
        chosen = torch.randint(len(self.means), (self.batch,))
        captions = torch.where(torch.rand(self.batch) < self.dropout, len(self.ids) - 1, self.clips[chosen])
        # One noise level in each of `batch` equal parts of the range, shifted as the sampler's are.
        share = (torch.arange(self.batch) + torch.rand(self.batch)) / self.batch
        level = SHIFT * share / (1 + (SHIFT - 1) * share)
        latents = self.means[chosen] + self.stds[chosen] * torch.randn_like(self.means[chosen])
        noise = torch.randn_like(latents)
        noisy = torch.lerp(latents, noise, level[:, None, None, None, None])
        output = model(noisy, 1000 * level, self.ids[captions], self.mask[captions])
        return F.mse_loss(output.float(), noise - latents)


def motion_score(parts: tuple[Any, Any, Any], vae: AutoencoderKLWan, count: int, seed: int) -> float:
    """The share of `count` held-out prompts, spread over all, whose clips move as asked, in 20 steps."""
    held_out = [clip for clip in all_clips() if clip.held_out]
    chosen = [held_out[number] for number in torch.linspace(0, len(held_out) - 1, count).long().tolist()]
    clips = decode(vae, draw(parts, [clip.caption for clip in chosen], 20, 3.0, seed))
    found = [measure(frames) for frames in clips]
    right = [
        (one.direction, one.speed) == (clip.direction, clip.speed) for one, clip in zip(found, chosen, strict=True)
    ]
    return sum(right) / count


def main() -> None:
    """Read the options, train, save now and then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--model", type=Path, default=HERE / "model", help="the pipeline's folder")
    option("--work", type=Path, default=Path(tempfile.gettempdir()) / "sprites_train")
    option("--seconds", type=float, default=3000.0, help="how long to train, all runs together (%(default)s)")
    option("--batch", type=int, default=32, help="clips a step (%(default)s)")
    option("--lr", type=float, default=1e-3, help="peak learning rate (%(default)s)")
    option("--dropout", type=float, default=0.1, help="share of captions that are left empty (%(default)s)")
    option("--ema", type=float, default=0.998, help="decay of the average of the weights (%(default)s)")
    option("--bf16", action="store_true", help="compute in bfloat16 by autocast")
    option("--log-every", type=int, default=100, help="steps between lines of the log (%(default)s)")
    option("--save-every", type=float, default=240.0, help="seconds between files and scores (%(default)s)")
    option("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    captions = [clip.caption for clip in all_clips()]
    tokenizer = build_tokenizer(captions)
    seen = [clip.caption for clip in all_clips() if not clip.held_out]
    tokens = tokenizer([*seen, ""], padding="max_length", max_length=TOKENS, return_tensors="pt")
    print(f"{len(tokenizer)} pieces, {int(tokens.attention_mask.sum(dim=1).max())} tokens in the longest caption")
    vae = AutoencoderKLWan.from_pretrained(args.model / "vae", torch_dtype=torch.float32).eval()
    batches = Batches(load_file(args.work / "latents.safetensors"), vae, tokens, args.batch, args.dropout)

    model = Captioned(len(tokenizer))
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    for name, part in (("DiT", model.transformer), ("text encoder", model.text_encoder)):
        print(f"{name}: {sum(p.numel() for p in part.parameters())} parameters", flush=True)
    state_file = args.work / "dit_state.pt"
    before, taken = 0.0, 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        before, taken = state["seconds"], state["step"]
        print(f"going on from step {taken}, {before:.0f} s", flush=True)

    start = saved = time.monotonic()

    def keep() -> None:
        """Write the folder and the state, and say how well it does."""
        parts = tokenizer, average.text_encoder, average.transformer
        save_text(tokenizer, average.text_encoder, args.model)
        save_dit(average.transformer, args.model / "transformer")
        save_index(args.model)
        state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
        save_state(state | {"step": taken, "seconds": before + time.monotonic() - start}, state_file)
        with torch.random.fork_rng():
            print(f"{taken:6d}  {motion_score(parts, vae, 32, 0):.0%} of 32 held-out prompts move as asked", flush=True)

    weights = list(zip(average.parameters(), model.parameters(), strict=True))
    total, first = 0.0, taken
    for number, share in progress(args.seconds, before=before):
        rate = args.lr * trapezoid(share, first + number, warmup=100, fall=0.5)
        # PyTorch's own flash attention on a CPU is slow backwards in bfloat16; 80 patches do without.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16, args.bf16):
            loss = batches.loss(model)
        total += take_step(loss, optimiser, rate)
        taken = first + number + 1
        # Early on a short memory, or the average would hold on to the initial weights.
        decay = min(args.ema, (1 + taken) / (10 + taken))
        for ours, theirs in weights:
            ours.data.lerp_(theirs.data, 1.0 - decay)
        if taken % args.log_every == 0:
            print(
                f"{taken:6d}  mse {total / args.log_every:.4f}  {before + time.monotonic() - start:.0f} s", flush=True
            )
            total = 0.0
        if time.monotonic() - saved > args.save_every:
            keep()
            saved = time.monotonic()
    keep()


if __name__ == "__main__":
    main()
