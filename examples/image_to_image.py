"""Redraw a picture as another class, a little and a lot. Runs without PyTorch.

python examples/image_to_image.py BUNDLE PICTURE CLASS OUT.png
"""

import argparse

from PIL import Image

from dit_deploy import Bundle, Pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle that `dit-deploy export` made")
    parser.add_argument("picture", help="the picture to start from")
    parser.add_argument("class_label", type=int, help="the class to draw it as")
    parser.add_argument("out", help="the row of pictures to write")
    parser.add_argument(
        "--strength", type=float, nargs="*", default=[0.3, 0.5, 0.7, 0.9], help="0 … 1, how much to redraw"
    )
    arguments = parser.parse_args()

    pipe = Pipeline(Bundle.open(arguments.bundle))
    pictures = [
        pipe(class_labels=arguments.class_label, image=arguments.picture, strength=strength, seed=0).images[0]
        for strength in arguments.strength
    ]

    row = Image.new("RGB", (sum(picture.width for picture in pictures), pictures[0].height))
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * picture.width, 0))
    row.save(arguments.out)
    print(f"{arguments.out}: strengths {arguments.strength}")


if __name__ == "__main__":
    main()
