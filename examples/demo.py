"""The whole road on the trained demos: export, draw, compare with PyTorch, build an INT8 engine and draw with it.

    python examples/demo.py OUT        # `make demo` runs this

Pictures are drawn by ONNX Runtime; PyTorch is used by the export and by the comparison alone.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dit_deploy import Bundle, Pipeline
from dit_deploy.runtimes.video import write_video

HERE = Path(__file__).resolve().parent
MODEL = HERE / "fashion" / "model"
EMOJI = HERE / "emoji" / "model"
SPRITES = HERE / "sprites" / "model"
PICTURE = HERE / "fashion" / "sneaker.png"
ROWS, SCALE, MARGIN, CAPTION = 6, 3, 8, 22
STRENGTHS = (0.2, 0.4, 0.6, 0.8)
PROMPTS = ("red apple", "octopus", "rocket", "snowman", "pizza", "a picture of a ghost", "blue heart", "wolf face")
FILMS = ("red apple moving right slowly on blue", "rocket moving up fast on grey", "octopus moving left fast on green")
SHOWN = 4  # of a film every so many frames are laid beside each other


def main(out: Path) -> None:
    """Do everything and say where the pictures and the report are."""
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    bundle = out / "fashion"
    run("export", MODEL, bundle, "--overwrite")

    pipe = Pipeline(Bundle.open(bundle))
    names = [pipe.bundle.manifest.labels[str(label)] for label in range(10)]
    print("drawing every class, then one picture as another class")
    drawn = pipe(class_labels=list(range(10)) * ROWS, num_inference_steps=50, guidance_scale=4.0, seed=0, progress=True)
    rows = [drawn.images[row * 10 : row * 10 + 10] for row in range(ROWS)]
    sheet(rows, names).save(out / "classes.png")

    boot = names.index("Ankle boot")
    original = Image.open(PICTURE).convert("RGB")
    redrawn = [
        pipe(class_labels=boot, image=PICTURE, strength=strength, num_inference_steps=50, seed=0).images[0]
        for strength in STRENGTHS
    ]
    captions = ["a sneaker", *(f"boot, {strength:g}" for strength in STRENGTHS)]
    sheet([[original, *redrawn]], captions).save(out / "image_to_image.png")

    run("parity", bundle, "--reference", MODEL, "--report", out / "parity")

    run("build-engine", bundle, "--precision", "int8")
    again = Pipeline(Bundle.open(bundle), "onnxruntime-int8")(class_labels=list(range(10)) * ROWS, seed=0)
    sheet([drawn.images[:10], again.images[:10]], names).save(out / "int8.png")

    prompted = out / "emoji"
    run("export", EMOJI, prompted, "--overwrite")
    print("drawing prompts")
    drawn = Pipeline(Bundle.open(prompted))(prompt=list(PROMPTS), guidance_scale=3.0, seed=0, progress=True)
    sheet([drawn.images], PROMPTS).save(out / "prompts.png")

    films = out / "sprites"
    run("export", SPRITES, films, "--overwrite")
    print("drawing videos")
    made = Pipeline(Bundle.open(films))(prompt=list(FILMS), seed=0, progress=True)
    for film, frames in zip(FILMS, made.frames, strict=True):
        write_video(frames, out / f"{film.replace(' ', '_')}.mp4", made.frame_rate or 8.0)
    numbers = range(0, len(made.frames[0]), SHOWN)
    sheet([[frames[k] for k in numbers] for frames in made.frames], [f"frame {k}" for k in numbers]).save(
        out / "videos.png"
    )
    print(f"\nDone in {time.perf_counter() - started:.0f} s. Look at")
    for path, what in (
        (out / "classes.png", "ten classes, guided, 50 DDIM steps"),
        (out / "image_to_image.png", "a sneaker redrawn as an ankle boot"),
        (out / "parity" / "index.html", "the comparison with PyTorch"),
        (out / "int8.png", "the first row once more, by an engine in INT8"),
        (out / "prompts.png", "pictures of prompts, by the text-to-image demo"),
        (out / "videos.png", f"videos of prompts, by the text-to-video demo: {', '.join(FILMS)}"),
        (bundle, "the bundle"),
        (prompted, "the text-to-image bundle"),
        (films, "the text-to-video bundle"),
    ):
        print(f"  {path}: {what}")


def run(*arguments: object) -> None:
    """Run a dit-deploy command, showing it as one would type it."""
    words = [str(argument) for argument in arguments]
    print("$ dit-deploy", *words, flush=True)
    if status := subprocess.run([sys.executable, "-m", "dit_deploy.cli", *words]).returncode:
        sys.exit(status)  # the command has said why


def sheet(rows: list[list[Image.Image]], captions: Sequence[str]) -> Image.Image:
    """Lay pictures out in a grid, enlarged without smoothing, with a caption over each column."""
    side = rows[0][0].width * SCALE
    cell = side + MARGIN
    page = Image.new("RGB", (len(captions) * cell + MARGIN, CAPTION + len(rows) * cell + MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for column, caption in enumerate(captions):
        draw.text((MARGIN + column * cell + side / 2, CAPTION / 2 + 2), caption, "black", font, anchor="mm")
        for row, pictures in enumerate(rows):
            picture = pictures[column].resize((side, side), Image.Resampling.NEAREST)
            page.paste(picture, (MARGIN + column * cell, CAPTION + row * cell))
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=Path("out/demo"), help="a folder; out/demo by default")
    main(parser.parse_args().out)
