"""PNG: chunks that lie, and bombs."""

from __future__ import annotations

import random
import struct
import zlib

from PIL import Image

from testing.hostile.exif import hostile_exif
from testing.hostile.good import good_pictures
from testing.hostile.made import (
    HUGE,
    INVALID,
    PHOTO,
    TIME_BOMB,
    TOO_LARGE,
    Hostile,
    encode,
    picture,
    zeros,
)


def files() -> Hostile:
    small = good_pictures()["PNG"]
    for width, height, answer in (
        (0, 0, INVALID),
        (0, 90, INVALID),
        (1, 1, INVALID),
        (60_000, 60_000, TOO_LARGE),
        (HUGE, HUGE, TOO_LARGE),
        (2**31, 20, TOO_LARGE),
        (4_001, 4_001, TOO_LARGE),
        (4_000, 4_000, INVALID),
    ):
        yield f"{width:,}x{height:,} declared", png(width, height, b""), answer
    yield "more rows than declared", png(20, 20, zeros(10)), PHOTO
    yield "16 megapixels in 16 kB", png(4_000, 4_000, zeros(17)), PHOTO
    yield "24 megapixels in 24 kB", png(4_900, 4_900, zeros(24)), TOO_LARGE
    yield "16 megapixels of a bit", png(4_000, 4_000, zeros(3), depth=1), PHOTO
    yield "16 megapixels of 64 bits", png(4_000, 4_000, zeros(129), depth=16, colour=6), PHOTO
    yield "50,000x20", encode(picture(50_000, 20), "PNG"), PHOTO
    yield "1,000,000x16", png(10**6, 16, zeros(17)), PHOTO
    profile = zlib.compress(random.Random(1).randbytes(3 * 2**20))
    yield "3 MB of profile", in_png(chunk(b"iCCP", b"icc\0\0" + profile)), PHOTO
    yield "a profile bomb", in_png(chunk(b"iCCP", b"icc\0\0" + zeros(100))), INVALID
    yield "a text bomb", in_png(chunk(b"zTXt", b"text\0\0" + zeros(100))), INVALID
    wide_text = zlib.compress(("a" * 10**6 + "\U0001f63a").encode(), 9)  # 4 bytes a character
    texts = [chunk(b"iTXt", b"%d\0\1\0\0\0" % number + wide_text) for number in range(100)]
    yield "a hundred text bombs", in_png(*texts), INVALID
    yield "10 MB of EXIF", in_png(chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(10**7))), PHOTO
    for name, exif in hostile_exif():
        yield name, in_png(chunk(b"eXIf", exif)), PHOTO
    yield "noise as EXIF", in_png(chunk(b"tEXt", b"Raw profile type exif\0\n\n\nx")), PHOTO
    frames = [Image.new("L", (20, 20), shade % 256) for shade in range(1_000)]
    animation = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "1,000 frames", animation, PHOTO
    yield "4 billion frames", in_png(chunk(b"acTL", struct.pack(">II", HUGE, 0))), PHOTO
    control = struct.pack(">IIIIIHHBB", 0, 100, 100, 2**31, 2**31, 1, 1, 0, 0)
    outside = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", control)
    yield "a frame outside the picture", in_png(outside), PHOTO
    yield "a chunk of 4 GB", in_png(struct.pack(">I4s", HUGE, b"tEXt")), INVALID
    yield "a wrong checksum", small[:29] + bytes(4) + small[33:], INVALID
    for name, side in BROKEN_CHUNKS.items():
        for place, whole in (("", in_png(side)), (" behind the pixels", behind_pixels(side))):
            yield f"broken: {name}{place}", whole, PHOTO
            yield f"broken: {name}{place}, cut off", whole[:-40], INVALID
    yield "broken: a palette's checksum", in_png(chunk(b"PLTE", bytes(3))[:-1] + b"!"), INVALID
    yield "a wrong checksum of pixels", small[:-13] + b"!" + small[-12:], PHOTO
    yield (
        "broken, and a profile bomb",
        in_png(chunk(b"iCCP", b"x\0\0" + zeros(100)) + chunk(b"gAMA", b"")),
        INVALID,
    )
    yield "no palette", png(20, 20, zeros(1), colour=3), INVALID
    outside = zlib.compress((b"\0" + b"\xff" * 20) * 20)
    palette = chunk(b"PLTE", bytes(3))
    yield "colours outside the palette", png(20, 20, outside, colour=3, before=palette), PHOTO
    yield "64 bits of grey", png(20, 20, zeros(1), depth=64), INVALID
    yield "two headers", in_png(small[8:33]), PHOTO
    bombs = chunk(b"iCCP", b"icc\0\0" + zeros(16)) * 600
    yield f"{TIME_BOMB}600 profiles of 16 MB", in_png(bombs), PHOTO | TOO_LARGE
    million = chunk(b"gAMA", b"") + chunk(b"prVt", b"") * 10**6
    yield f"{TIME_BOMB}a broken chunk, then a million", in_png(million), INVALID
    yield f"{TIME_BOMB}a million chunks", in_png(chunk(b"prVt", b"") * 10**6), PHOTO | TOO_LARGE


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


# Each made Pillow raise, though browsers show the picture without it.
BROKEN_CHUNKS = {
    "a gamma that is too short": chunk(b"gAMA", b"\0"),
    "a resolution that is too short": chunk(b"pHYs", b"\0" * 8),
    "colours that are too short": chunk(b"cHRM", b"\0" * 31),
    "an intent that is empty": chunk(b"sRGB", b""),
    "a transparency that is too short": chunk(b"tRNS", b"\0"),
    "an empty profile": chunk(b"iCCP", b""),
    "a profile packed in another way": chunk(b"iCCP", b"x\0\7"),
    "text packed in another way": chunk(b"zTXt", b"x\0\7"),
    "text named like one of Pillow's flags": chunk(b"tEXt", b"interlace\0" + b"1"),
    "a number of frames that is too short": chunk(b"acTL", b"\0"),
    "a frame that is too short": chunk(b"fcTL", b"\0"),
    "a wrong checksum": chunk(b"gAMA", bytes(4))[:-1] + b"!",
    "a wrong checksum of EXIF": chunk(b"eXIf", b"II*\0")[:-1] + b"!",
    "a wrong checksum of what nobody knows": chunk(b"vpAg", b"")[:-1] + b"!",
}


def behind_pixels(side: bytes) -> bytes:
    whole = good_pictures()["PNG"]
    return whole[:-12] + side + whole[-12:]


def png(
    width: int,
    height: int,
    pixels: bytes,
    *,
    depth: int = 8,
    colour: int = 0,
    before: bytes = b"",
) -> bytes:
    """A PNG with any header; `pixels` are compressed, `before` are chunks ahead of them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + chunk(b"IEND", b"")


def in_png(*chunks: bytes) -> bytes:
    """A good PNG with `chunks` after its header."""
    whole = good_pictures()["PNG"]
    return whole[:33] + b"".join(chunks) + whole[33:]


def with_right_checksums(data: bytes) -> bytes:
    mended, start = data[:8], 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        content = data[start + 8 : start + 8 + length]
        mended += data[start : start + 8] + content
        mended += struct.pack(">I", zlib.crc32(data[start + 4 : start + 8] + content))
        start += 12 + length
    return mended + data[start:]
