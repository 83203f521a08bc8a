"""Pictures that show neither a cat nor a dog, from packages that are installed anyway, and made.

What a classifier of two animals says to them tells how far its "certain" can be trusted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import skimage
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from handler.photo import SIDE

PETS = {"chelsea.png"}  # scikit-image's cat
FORMATS = {".png", ".jpg", ".jpeg"}  # its TIFFs are stacks of slices
CROPS = 4  # of each photo
TEXTURES = 80
DIGITS = 40


def not_pets() -> Iterator[tuple[str, np.ndarray]]:
    """(group, picture uint8 (224, 224, 3)), always the same ones."""
    random = np.random.default_rng(0)
    for picture in whole_pictures():
        yield "pictures of packages", squashed(picture)
    for picture in whole_pictures():
        for _ in range(CROPS):
            yield "parts of these", squashed(crop(picture, random))
    for digit in load_digits().images[:DIGITS]:
        yield "handwritten digits", squashed(Image.fromarray((255 - digit * 15.9).astype(np.uint8)))
    for _ in range(TEXTURES):
        yield "made textures", squashed(texture(random))


def whole_pictures() -> Iterator[Image.Image]:
    """What scikit-image, scikit-learn and matplotlib carry, without the cat."""
    folders = (Path(skimage.__file__).parent / "data", Path(matplotlib.get_data_path()))
    for file in sorted(path for folder in folders for path in folder.rglob("*.*")):
        if file.suffix.lower() in FORMATS and file.name not in PETS:
            with Image.open(file) as picture:
                if min(picture.size) >= 64:  # not an icon
                    yield picture.convert("RGB")
    for pixels in load_sample_images().images:
        yield Image.fromarray(pixels)


def crop(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A square part with a third to two thirds of the picture's sides."""
    side = int(min(picture.size) * random.uniform(0.33, 0.67))
    left, top = (int(random.integers(0, size - side + 1)) for size in picture.size)
    return picture.crop((left, top, left + side, top + side))


def texture(random: np.random.Generator) -> Image.Image:
    """Noise at a random scale, coloured; from static over clouds to nearly plain."""
    cells = int(2 ** random.uniform(0.5, 7.5))
    noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
    cloud = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    tint, low = random.uniform(0.3, 1, 3), random.uniform(0, 80)
    return Image.fromarray((low + cloud * tint * (1 - low / 255)).clip(0, 255).astype(np.uint8))


def squashed(picture: Image.Image) -> np.ndarray:
    """uint8 (224, 224, 3), resized as `decode_photo` does it."""
    resized = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2)
    return np.asarray(resized)
