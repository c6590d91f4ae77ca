"""Draw one picture a class from a bundle. Runs without PyTorch.

python examples/class_to_image.py BUNDLE OUT.png [CLASS …]
"""

import argparse

from PIL import Image

from dit_deploy import Bundle, Pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle that `dit-deploy export` made")
    parser.add_argument("out", help="the picture to write")
    parser.add_argument("class_labels", type=int, nargs="*", default=[0], help="class indices, one a picture")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    pipe = Pipeline(Bundle.open(arguments.bundle))
    out = pipe(class_labels=arguments.class_labels, seed=arguments.seed, progress=True)

    row = Image.new("RGB", (sum(image.width for image in out.images), out.images[0].height))
    for index, image in enumerate(out.images):
        row.paste(image, (index * image.width, 0))
    row.save(arguments.out)
    print(f"{arguments.out}: {len(out.images)} pictures in {out.seconds['total']:.2f} s")


if __name__ == "__main__":
    main()
