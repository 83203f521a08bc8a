"""GIF: screens, frames and codes that lie."""

from __future__ import annotations

import random
import struct

from PIL import Image

from testing.hostile.made import INVALID, PHOTO, TIME_BOMB, TOO_LARGE, Hostile, encode, picture

GIF_HEADER = 13 + 6  # bytes, with a palette of two colours


def files() -> Hostile:
    whole = gif((20, 20), (0, 0, 20, 20))
    for name, screen, frame, answer in (
        ("a screen of 65,535x65,535", (65_535, 65_535), (0, 0, 20, 20), TOO_LARGE),
        ("a frame of 65,535x65,535", (20, 20), (0, 0, 65_535, 65_535), TOO_LARGE),
        ("a frame far outside", (20, 20), (65_535, 65_535, 20, 20), TOO_LARGE),
        ("a frame just outside", (20, 20), (10, 10, 20, 20), PHOTO),
        ("0x0", (0, 0), (0, 0, 0, 0), INVALID),
        ("a frame without a screen", (0, 0), (0, 0, 20, 20), PHOTO),
        ("a frame of 0x0", (20, 20), (0, 0, 0, 0), INVALID),
        ("16 megapixels declared", (4_000, 4_000), (0, 0, 4_000, 4_000), INVALID),
    ):
        yield name, gif(screen, frame), answer
    yield "16 megapixels in 13 kB", encode(Image.new("L", (4_000, 4_000)), "GIF"), PHOTO
    yield "50,000x20", encode(picture(50_000, 20).convert("L"), "GIF"), PHOTO
    yield "10,000 frames", whole[:-1] + whole[GIF_HEADER:-1] * 10_000 + b";", PHOTO
    for size, answer in ((0, PHOTO), (1, PHOTO), (12, INVALID), (13, INVALID), (255, INVALID)):
        yield f"codes of {size} bits", gif((20, 20), (0, 0, 20, 20), code_size=size), answer
    noise = random.Random(3).randbytes(250)
    yield "noise as codes", gif((200, 200), (0, 0, 200, 200), noise), INVALID
    yield "no frame", whole[:GIF_HEADER] + b";", INVALID
    pieces = b"!\xfe" + b"\1x" * 6_000_000 + b"\0"
    commented = whole[:GIF_HEADER] + pieces + whole[GIF_HEADER:]
    yield f"{TIME_BOMB}a comment in 6 million pieces", commented, PHOTO | TOO_LARGE


def gif(
    screen: tuple[int, int],
    frame: tuple[int, int, int, int],
    codes: bytes | None = None,
    *,
    code_size: int = 2,
) -> bytes:
    """A GIF of two colours with a screen and a frame (left, top, width, height) of any size."""
    if codes is None:  # "clear, 0, 0" in 3 bits each for 20x20 pixels, then "end"
        codes = (sum(4 << 9 * pair for pair in range(200)) | 5 << 1800).to_bytes(226, "little")
    header = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", *frame, 0) + bytes([code_size, len(codes)]) + codes
    return header + image + b"\0;"
