"""AVIF: sizes and grids that lie."""

from __future__ import annotations

from PIL import Image

from testing.hostile.good import good_pictures
from testing.hostile.heif import avif_grid, with_ispe
from testing.hostile.made import (
    HUGE,
    INVALID,
    PHOTO,
    TIME_BOMB,
    TOO_LARGE,
    Hostile,
    encode,
    picture,
)


def files() -> Hostile:
    small = good_pictures()["AVIF"]
    large = encode(Image.new("L", (3_000, 3_000)), "AVIF", speed=10)
    for width, height, answer in (
        (0, 0, INVALID),
        (HUGE, HUGE, INVALID),
        (4_001, 4_001, TOO_LARGE),
        (16_384, 16_384, TOO_LARGE),
        (4_000, 4_000, PHOTO),  # libavif takes a picture of any size and scales it
    ):
        yield f"{width:,}x{height:,} declared", with_ispe(small, width, height), answer
    yield "9 megapixels declared as 100x100", with_ispe(large, 100, 100), PHOTO
    yield "30,000x20", encode(picture(30_000, 20), "AVIF", speed=10), PHOTO
    yield "50,000x20", encode(picture(50_000, 20), "AVIF", speed=10), INVALID  # libavif's limit
    frames = [Image.new("L", (64, 64), shade) for shade in range(30)]
    animation = encode(frames[0], "AVIF", speed=10, save_all=True, append_images=frames[1:])
    yield "30 frames", animation, PHOTO
    yield "called a HEIC", small.replace(b"ftypavif", b"ftypheic"), INVALID
    yield "called any HEIF", small.replace(b"ftypavif", b"ftypmif1"), PHOTO
    yield "a grid", avif_grid(small, 2, 3, 3 * 120, 2 * 90), PHOTO
    yield "a grid of more than it shows", avif_grid(small, 30, 30, 120, 90), INVALID
    yield "a grid of 65,535x65,535", avif_grid(small, 1, 2, 65_535, 65_535), INVALID
    bomb = avif_grid(with_ispe(large, 120, 90), 30, 30, 30 * 120, 30 * 90)
    yield f"{TIME_BOMB}900 tiles larger than declared", bomb, TOO_LARGE
