"""WebP: canvases, frames and chunks that lie."""

from __future__ import annotations

import struct

from PIL import Image

from testing.hostile.exif import hostile_exif
from testing.hostile.good import good_pictures
from testing.hostile.made import INVALID, PHOTO, TOO_LARGE, Hostile, encode, picture


def files() -> Hostile:
    whole = good_pictures()["WebP"]
    small, size = whole[12:], struct.pack("<HH", 120, 90)
    for width, height in ((16_384, 16_384), (2**24, 255), (60_000, 60_000), (4_001, 4_001)):
        canvas = webp(width, height, webp_frame(small), animated=True)
        yield f"a canvas of {width:,}x{height:,}", canvas, TOO_LARGE
    yield "a canvas that the picture doesn't fill", webp(4_000, 4_000, small), INVALID
    yield "0x0", whole.replace(size, bytes(4)), INVALID
    yield "16,383x16,383", whole.replace(size, struct.pack("<HH", 16_383, 16_383)), TOO_LARGE
    lossless = riff(b"VP8L", b"\x2f\xff\xff\xff\xff" + bytes(5))
    yield "16,384x16,384, lossless", riff(b"RIFF", b"WEBP" + lossless), TOO_LARGE
    yield "16,383x20", encode(picture(16_383, 20), "WEBP"), PHOTO
    flat = Image.new("RGB", (4_000, 4_000))
    yield "16 megapixels in 40 kB", encode(flat, "WEBP", method=0), PHOTO
    yield "3,000 frames", webp(120, 90, *[webp_frame(small)] * 2_900, animated=True), PHOTO
    yield "no frames", webp(120, 90, animated=True), INVALID
    yield "10 MB of profile", webp(120, 90, riff(b"ICCP", bytes(10**7)), small), PHOTO
    yield "10 MB of EXIF", webp(120, 90, small, riff(b"EXIF", bytes(10**7))), PHOTO
    for name, exif in hostile_exif():
        yield name, webp(120, 90, small, riff(b"EXIF", exif)), PHOTO
    yield "a file of 4 GB", b"RIFF\xf0\xff\xff\xff" + whole[8:], INVALID
    yield "a chunk of 4 GB", webp(120, 90, b"ICCP\xff\xff\xff\xff", small), INVALID
    yield "a million chunks", webp(120, 90, small, riff(b"junk", b"") * 10**6), PHOTO


def webp(width: int, height: int, *chunks: bytes, animated: bool = False) -> bytes:
    """A WebP with a canvas of any size."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    canvas = riff(b"VP8X", bytes([2 if animated else 0x2C, 0, 0, 0]) + size)
    if animated:
        canvas += riff(b"ANIM", bytes(6))
    return riff(b"RIFF", b"WEBP" + canvas + b"".join(chunks))


def riff(kind: bytes, content: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp_frame(picture: bytes) -> bytes:
    size = (119).to_bytes(3, "little") + (89).to_bytes(3, "little")
    return riff(b"ANMF", bytes(6) + size + bytes(4) + picture)
