"""Make a video of a prompt from a bundle. Runs without PyTorch.

python examples/text_to_video.py BUNDLE OUT.mp4 "red apple moving right slowly on blue"
"""

import argparse

from dit_deploy import Bundle, Pipeline
from dit_deploy.runtimes.video import write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle that `dit-deploy export` made")
    parser.add_argument("out", help="the video to write: .mp4, .gif or .webp")
    parser.add_argument("prompt", help="what is to be seen")
    parser.add_argument("--frames", type=int, help="how many pictures; by default the model's usual number")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    pipe = Pipeline(Bundle.open(arguments.bundle))
    out = pipe(prompt=arguments.prompt, num_frames=arguments.frames, seed=arguments.seed, progress=True)

    write_video(out.frames[0], arguments.out, out.frame_rate or 8.0)
    print(f"{arguments.out}: {len(out.frames[0])} frames in {out.seconds['total']:.2f} s")


if __name__ == "__main__":
    main()
