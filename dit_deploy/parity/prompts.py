"""Texts to draw where nobody gives any: for calibration, and others to compare engines on."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["CALIBRATION", "COMPARISON", "take"]

#: Short and long, several languages and scripts, numbers and signs: what text encoders are fed differs most by these.
CALIBRATION = (
    "a photograph of an astronaut riding a horse",
    "An oil painting of two small cats asleep on a red sofa, soft window light, visible brush strokes, muted colours",
    "一只在雪地里的狐狸,油画,高清细节",
    "portrait of an elderly fisherman, 85mm, f/1.8, golden hour",
    'a neon sign that says "OPEN 24/7" above a rainy street in Tokyo at night',
    "",
    "Ein Gemälde von einem kleinen Haus am See im Nebel",
    "isometric low-poly render of a tiny island with a lighthouse, palm trees and a pirate ship, pastel palette, "
    "studio lighting, octane render, 8k, trending, highly detailed, sharp focus, intricate, cinematic composition, "
    "depth of field, volumetric light, soft shadows, clean background, award-winning design, matte painting",
    "картина маслом: старая мельница у реки",
    "cat",
    "a bowl of ramen with a soft-boiled egg, seen from above; steam, chopsticks, dark slate table",
    "東京の夜、雨の中を歩く女性の写真",
    "low quality, blurry, bad anatomy, extra fingers, watermark, text, jpeg artifacts",
    "قطة صغيرة على أريكة حمراء",
    "The inside of a vast library, thousands of books, spiral staircases, sunbeams full of dust; in the foreground a "
    "girl in a yellow raincoat reads to a sleeping dragon. Watercolour and ink, in the manner of a children's book.",
    "🙂 logo, flat vector, #ff8800 on white",
)

#: None of them is calibrated with.
COMPARISON = (
    "a red bicycle leaning against a white wall",
    "a macro photograph of a dragonfly on a blade of grass, morning dew, shallow depth of field",
    "una fotografía de un mercado con frutas de muchos colores",
    "an ink drawing of a mountain village, pine trees and clouds, in the style of a Chinese scroll",
    "a robot chef who slices vegetables in a bright kitchen",
    "雪山下的湖,倒影,清晨",
    "blueprint of a wooden sailing ship, white lines on blue paper",
    "a close-up of a slice of layered chocolate cake on a porcelain plate, raspberries, a silver fork",
)


def take(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """Return ``count`` of the prompts, from the start again where there are fewer."""
    return tuple(prompts[index % len(prompts)] for index in range(count))
