"""BMP: headers and runs that lie."""

from __future__ import annotations

import struct

from testing.hostile.made import (
    HUGE,
    INVALID,
    PHOTO,
    TIME_BOMB,
    TOO_LARGE,
    UNSUPPORTED,
    Hostile,
    encode,
    picture,
)


def files() -> Hostile:
    for width, height, answer in (
        (60_000, 60_000, TOO_LARGE),
        (HUGE, 20, TOO_LARGE),
        (20, 2**31 - 1, TOO_LARGE),
        (20, 2**31, TOO_LARGE),  # rows, and -2**31 of them
        (4_000, 4_000, INVALID),
        (0, 0, INVALID),
    ):
        yield f"{width:,}x{height:,} declared", bmp(width, height, 24, bytes(100)), answer
    yield "rows from the top", bmp(20, 2**32 - 20, 24, bytes(60 * 20)), PHOTO
    yield "50,000x20", encode(picture(50_000, 20), "BMP"), PHOTO
    for bits in (0, 3, 64, 65_535):
        yield f"{bits:,} bits", bmp(20, 20, bits, bytes(10_000)), INVALID
    for size in (0, 1, 2**31, HUGE):
        yield f"a header of {size:,} bytes", bmp(20, 20, 24, bytes(1_200), header=size), INVALID
    yield "pixels past the end", bmp(20, 20, 24, bytes(1_200), offset=HUGE), INVALID
    yield "4 billion colours", bmp(20, 20, 8, bytes(400), colours=HUGE), INVALID
    yield "masks that lie", bmp(20, 20, 32, bytes(1_600), compression=3), PHOTO
    for way in (4, 5, 11, HUGE):
        yield f"compression {way:,}", bmp(20, 20, 24, bytes(1_200), compression=way), UNSUPPORTED
    for name, data, answer in (
        ("no end", b"\x14\1", INVALID),
        ("steps outside", b"\0\2\xff\xff" * 100, PHOTO),
        ("one long row", b"\xff\1" * 100, INVALID),
        ("ends of rows only", b"\0\0" * 100, INVALID),
        ("end at once", b"\0\1", INVALID),
        ("pixels cut off", b"\0\xff\1\2", INVALID),
    ):
        yield f"RLE4, {name}", bmp(20, 20, 4, data, compression=2), answer
        yield f"RLE8, {name}", bmp(20, 20, 8, data, compression=1), answer
    nothing = bmp(4_000, 4_000, 8, b"\xff\1" * 16 + b"\1\1" * 6_000_000, compression=1)
    yield f"{TIME_BOMB}RLE8, 6 million pixels outside", nothing, INVALID | TOO_LARGE


def bmp(
    width: int,
    height: int,
    bits: int,
    pixels: bytes,
    *,
    compression: int = 0,
    colours: int = 0,
    header: int = 40,
    offset: int = 0,
) -> bytes:
    """A BMP with any header."""
    palette = bytes(range(256)) * 4 if bits <= 8 else b""
    fields = (header, width, height, 1, bits, compression, len(pixels), 0, 0, colours, 0)
    start = struct.pack("<2sIII", b"BM", 0, 0, offset or 54 + len(palette))
    return start + struct.pack("<IIIHHIIIIII", *fields) + palette + pixels
