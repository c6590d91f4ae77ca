"""Score the model: does each clip move as its prompt says, and does it show the sprite and the background asked for?

    python evaluate.py --data emoji-datasource-google-16.0.0.tgz                 # PyTorch, FP32
    python evaluate.py --data … --bundle DIR --engine onnx onnxruntime-int8      # the project's runtime, each engine
    python evaluate.py --data … --bundle DIR --computed tensorrt-rtx:fp16        # an engine's graphs, here

Nothing here is a network: motions are measured as `motion.py` says, sprites by the nearest of the 24 pictures. The
measure itself is checked on the drawn clips first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data import BACKGROUNDS, PACKAGE, SPRITE_SIZE, Clip, all_clips, load_sprites, path, random_start, render
from motion import background_of, centroids, measure
from PIL import Image
from sampling import BundleSampler, ComputedSampler, Sampler, TorchSampler
from shared import versions, write_json

HERE = Path(__file__).resolve().parent
ROWS, EVERY = 6, 2


def nearest_sprite(frames: np.ndarray, sprites: dict[str, np.ndarray]) -> str | None:
    """The name of the sprite that the middle frame of a clip [frames, h, w, 3] shows, by mean squared difference.

    Each is tried on the clip's background at the nine places about where the clip's is; None where there is nothing.
    """
    places = centroids(frames)
    if places is None:
        return None
    frame, middle = frames[len(frames) // 2], places[len(frames) // 2]
    background, margin = background_of(frames), SPRITE_SIZE
    page = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), constant_values=np.nan)
    found: list[tuple[float, str]] = []
    for name, sprite in sprites.items():
        drawn = sprite[..., :3] * sprite[..., 3:] + background * (1 - sprite[..., 3:])
        alone = centroids(np.broadcast_to(_on_page(drawn, background), (1, 60, 60, 3)))
        if alone is None:
            continue
        corner = np.rint(middle - (alone[0] - SPRITE_SIZE)).astype(int) + margin
        for across, down in np.ndindex(3, 3):
            left, top = corner[0] + across - 1, corner[1] + down - 1
            part = page[max(top, 0) : top + SPRITE_SIZE, max(left, 0) : left + SPRITE_SIZE]
            if part.shape == drawn.shape:
                found.append((float(np.nanmean((part - drawn) ** 2)), name))
    return min(found)[1] if found else None


def _on_page(drawn: np.ndarray, background: np.ndarray) -> np.ndarray:
    """A sprite [20, 20, 3] in the middle of an empty page [60, 60, 3]."""
    page = np.broadcast_to(background, (3 * SPRITE_SIZE, 3 * SPRITE_SIZE, 3)).copy()
    page[SPRITE_SIZE : 2 * SPRITE_SIZE, SPRITE_SIZE : 2 * SPRITE_SIZE] = drawn
    return page


def judged(clips: Sequence[Clip], videos: Sequence[np.ndarray], sprites: dict[str, np.ndarray]) -> dict[str, float]:
    """Shares of clips, 0..1, that are as asked: direction, speed, both (`motion`), sprite and background."""
    right: dict[str, list[bool]] = {name: [] for name in ("motion", "direction", "speed", "sprite", "background")}
    colours = {name: np.array(colour) / 255 for name, colour in BACKGROUNDS.items()}
    for clip, frames in zip(clips, videos, strict=True):
        found = measure(frames)
        right["direction"].append(found.direction == clip.direction)
        right["speed"].append(found.speed == clip.speed)
        right["motion"].append(found.direction == clip.direction and found.speed == clip.speed)
        right["sprite"].append(nearest_sprite(frames, sprites) == clip.sprite)
        colour = background_of(frames)
        right["background"].append(
            min(colours, key=lambda name: np.abs(colours[name] - colour).sum()) == clip.background
        )
    return {name: sum(marks) / len(marks) for name, marks in right.items()}


def drawn_clips(clips: Sequence[Clip], sprites: dict[str, np.ndarray], seed: int) -> list[np.ndarray]:
    """The clips as training has them, float32 [17, 64, 64, 3] in 0..1: what the measure must get right."""
    dice = np.random.default_rng(seed)
    places = [path(clip.direction, clip.speed, random_start(clip, dice)) for clip in clips]
    return [
        render(sprites[clip.sprite], clip.background, where).transpose(0, 2, 3, 1)
        for clip, where in zip(clips, places, strict=True)
    ]


def draw(sampler: Sampler, clips: Sequence[Clip], args: argparse.Namespace) -> list[np.ndarray]:
    """Clips of their captions; batch i is drawn with seed + i."""
    videos: list[np.ndarray] = []
    for number, start in enumerate(range(0, len(clips), args.batch)):
        captions = [clip.caption for clip in clips[start : start + args.batch]]
        videos += list(sampler.sample(captions, args.steps, args.guidance_scale, args.seed + number))
        print(f"{sampler.name}: {len(videos)} of {len(clips)}", flush=True)
    return videos


def samplers_of(args: argparse.Namespace) -> Iterator[Sampler]:
    """The samplers that the options name; engines are calibrated with prompts of training."""
    if args.bundle is None:
        yield TorchSampler(args.model)
        return
    prompts = tuple(clip.caption for clip in all_clips() if not clip.held_out)[::36]  # 16, as many as by default
    for engine in args.engine:
        yield BundleSampler(args.bundle, engine)
    for engine in args.computed:
        backend, _, precision = engine.partition(":")
        yield ComputedSampler(args.bundle, backend, precision, prompts)


def save_strip(videos: Sequence[np.ndarray], file: Path) -> None:
    """Write a PNG of some clips, one a row, every second frame, each pixel as two by two and white between frames."""
    chosen = np.linspace(0, len(videos) - 1, ROWS).astype(int)
    frames = np.stack([videos[number][::EVERY] for number in chosen]).clip(0, 1)  # [rows, columns, height, width, 3]
    framed = np.pad(
        frames.repeat(2, axis=2).repeat(2, axis=3), ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), constant_values=1
    )
    rows, columns, height, width, _ = framed.shape
    pixels = np.rint(framed * 255).astype(np.uint8).transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    Image.fromarray(pixels).save(file, optimize=True)


def main() -> None:
    """Read the options, score, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--data", type=Path, default=Path(PACKAGE), help="the npm package's file (%(default)s)")
    option("--model", type=Path, default=HERE / "model", help="the pipeline's folder (beside this script)")
    option("--bundle", type=Path, help="sample with the project's runtime on this bundle instead")
    option("--engine", nargs="+", default=[], help="the runtime's engines, with --bundle")
    option("--computed", nargs="+", default=[], help="engines of other machines, as backend:precision, with --bundle")
    option("--output", type=Path, help="JSON file to write scores to; those of other samplers in it are kept (none)")
    option("--strip", type=Path, help="PNG file to write some of the held-out clips to")
    option("--every", type=int, default=1, help="draw each how-manieth of the held-out prompts only (%(default)s)")
    option("--trained", type=int, default=48, help="prompts of training that are drawn too (%(default)s)")
    option("--steps", type=int, default=20, help="Euler steps (%(default)s)")
    option("--guidance-scale", type=float, default=3.0, help="(%(default)s)")
    option("--batch", type=int, default=16, help="clips drawn at a time (%(default)s)")
    option("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    sprites = load_sprites(args.data)
    held_out = [clip for clip in all_clips() if clip.held_out][:: args.every]
    seen = [clip for clip in all_clips() if not clip.held_out]
    trained = [seen[number] for number in np.linspace(0, len(seen) - 1, args.trained).astype(int)]
    everything = all_clips()
    scores: dict[str, Any] = {
        "samples": {name: getattr(args, name) for name in ("steps", "guidance_scale", "batch", "seed")}
        | {"held_out": len(held_out), "trained": len(trained)},
        "drawn_clips": judged(everything, drawn_clips(everything, sprites, args.seed), sprites),
        "by_sampler": {},
        "versions": versions(),
    }
    if args.output and args.output.exists():
        former = json.loads(args.output.read_text(encoding="utf-8"))
        if former["samples"] == scores["samples"]:
            scores["by_sampler"] = former["by_sampler"]
    for sampler in samplers_of(args):
        start = time.monotonic()
        videos = draw(sampler, held_out, args)
        row: dict[str, Any] = {"held_out": judged(held_out, videos, sprites)}
        if trained:
            row["trained"] = judged(trained, draw(sampler, trained, args), sprites)
        scores["by_sampler"][sampler.name] = row | {"seconds": round(time.monotonic() - start, 1)}
        print(f"{sampler.name}: {json.dumps(row)}", flush=True)
        if args.strip:
            save_strip(videos, args.strip)
    if args.output:
        write_json(scores, args.output)


if __name__ == "__main__":
    main()
