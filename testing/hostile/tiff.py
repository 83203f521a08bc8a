"""TIFF: tags, strips and tiles that lie."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image

from testing.hostile.layouts import SIDE, Layout, tiff_of
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
    zeros,
)

TiffEntry = tuple[int, int, int]  # type, count, value or where the values are

PREVIEW: dict[int, TiffEntry | None] = {254: (4, 1, 1), 330: (4, 1, 8)}
LIES: tuple[tuple[str, int, TiffEntry | None, set[int]], ...] = (
    ("strips past the end", 273, (4, 1, HUGE), INVALID),
    ("strips at -1", 273, (9, 1, HUGE), INVALID),
    ("a strip of 4 GB", 279, (4, 1, HUGE), PHOTO),
    ("4 billion strips", 273, (4, HUGE, 8), INVALID),
    ("no strips", 273, None, INVALID),
    ("no bytes in its strip", 279, (4, 1, 0), PHOTO),
    ("64 bits", 258, (3, 1, 64), UNSUPPORTED),
    ("1,000 samples", 277, (3, 1, 1_000), INVALID),
    ("no samples", 277, (3, 1, 0), INVALID),
    ("a width as text", 256, (2, 4, 0x31323334), INVALID),
    ("two widths", 256, (3, 2, 0x00140014), INVALID),
    ("compression 65,535", 259, (3, 1, 65_535), UNSUPPORTED),
    ("compression as text", 259, (2, 4, 0x1B1B1B), INVALID),
    ("no colour", 262, (3, 1, 65_535), INVALID),
    ("fax that isn't", 259, (3, 1, 4), INVALID),
    ("LZW that isn't", 259, (3, 1, 5), INVALID),
    ("old JPEG that isn't", 259, (3, 1, 6), INVALID),
    ("JPEG that isn't", 259, (3, 1, 7), INVALID),
    ("deflate that isn't", 259, (3, 1, 8), INVALID),
    ("LZMA that isn't", 259, (3, 1, 34_925), INVALID),
    ("Zstandard that isn't", 259, (3, 1, 50_000), INVALID),
    ("WebP that isn't", 259, (3, 1, 50_001), INVALID),
    ("no rows in a strip", 278, (4, 1, 0), INVALID),
    ("4 billion rows in a strip", 278, (4, 1, HUGE), PHOTO),
    ("planes that lie", 284, (3, 1, 2), PHOTO),
    ("colours without a map", 262, (3, 1, 3), INVALID),
    ("10 MB of profile declared", 34_675, (7, 10**7, 8), PHOTO),
    ("orientation 255", 274, (3, 1, 255), PHOTO),
    ("orientation -5", 274, (9, 1, HUGE - 4), PHOTO),
    ("XMP that is a number", 700, (4, 1, 7), PHOTO),
    ("EXIF at 4 GB", 34_665, (4, 1, HUGE), PHOTO),
    ("EXIF that is the directory itself", 34_665, (4, 1, 408), PHOTO),
)


def files() -> Hostile:
    for width, height, answer in (
        (0, 0, INVALID),
        (20, 20, PHOTO),
        (60_000, 60_000, TOO_LARGE),
        (HUGE, 20, TOO_LARGE),
        (4_001, 4_001, TOO_LARGE),
        (4_000, 4_000, INVALID),
    ):
        yield f"{width:,}x{height:,} declared", tiff(width, height), answer
    flat = Image.new("L", (4_000, 4_000))
    yield "16 megapixels in 23 kB", encode(flat, "TIFF", compression="tiff_adobe_deflate"), PHOTO
    yield "50,000x20", encode(picture(50_000, 20), "TIFF"), PHOTO
    yield "a directory that follows itself", tiff(20, 20, following=True), PHOTO
    yield "3,000 pages", many_pages(3_000), PHOTO
    yield "no directory", b"II*\0\xff\xff\xff\x7f" + bytes(100), INVALID
    yield "65,535 tags", b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(100), INVALID
    tags = struct.pack("<Q", 2**63) + struct.pack("<HHQQ", 256, 4, 1, 20) * 100_000
    yield "2^63 tags", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + tags, INVALID
    for name, tag, entry, answer in LIES:
        yield name, tiff(20, 20, changed={tag: entry}), answer
    for side in (2**15, 2**31):
        for way in (1, 8):
            lie = tiff(20, 20, changed=tiles(side, 400) | {259: (3, 1, way)})
            yield f"tiles of {side:,}, compression {way}", lie, TOO_LARGE
    bomb, deflate = zeros(600), {259: (3, 1, 8)}
    yield "a tile of 576 MB", tiff(20, 20, bomb, tiles(24_000, len(bomb)) | deflate), TOO_LARGE
    yield "a strip of 600 MB", tiff(20, 20, bomb, {279: (4, 1, len(bomb))} | deflate), PHOTO
    for value in (np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45):
        values = np.tile(np.linspace(0, 1, 20, dtype=np.float32), (20, 1))
        values[:2] = value
        yield f"floats and {value}", encode(Image.fromarray(values), "TIFF"), PHOTO
    values[:] = np.nan
    yield "floats, all NaN", encode(Image.fromarray(values), "TIFF"), PHOTO
    for mode in ("CMYK", "YCbCr", "I"):
        yield mode, encode(picture(20, 20).convert(mode), "TIFF"), PHOTO
    yield "LAB", encode(Image.new("LAB", (20, 20)), "TIFF"), PHOTO
    jpeg = encode(Image.new("L", (5_000, 5_000)), "JPEG")
    larger = tiff(20, 20, jpeg, {259: (3, 1, 7), 279: (4, 1, len(jpeg))})
    yield "a JPEG inside that is larger", larger, INVALID
    yield "a camera's raw behind a preview", tiff(20, 20, changed=PREVIEW), UNSUPPORTED
    yield "a DNG", tiff(20, 20, changed={50_706: (1, 4, 1)}), UNSUPPORTED
    text = {282: (2, 4, 0x31313131), 283: (2, 4, 0x31313131), 296: (3, 1, 3)}
    broken = tiff(20, 20, changed=text)
    yield "a resolution that is text", broken, PHOTO
    yield "a resolution that is text, cut off", broken[:-30], INVALID
    yield "a resolution that is text, pixels cut off", tiff(4_000, 20, changed=text), INVALID
    for colour, kind, answer in (
        ("RGB", "16", PHOTO),
        ("WhiteIsZero", "16", PHOTO),
        ("RGB", "float 32", UNSUPPORTED),
        ("Lab", "8", UNSUPPORTED),
    ):
        samples = np.full((SIDE, SIDE, 3 if colour in ("RGB", "Lab") else 1), 99)
        planes = tiff_of(samples, colour, kind, Layout(True, True, 1, False))
        yield f"{kind} bits of {colour} in planes", planes, answer
        yield f"{kind} bits of {colour} in planes, cut off", planes[:-40], INVALID
    strips = {273: (4, 3_000_000, 8), 278: (4, 1, 1)}
    many = tiff(16, 10**6, struct.pack("<I", 8) * 3_000_000, strips)
    yield f"{TIME_BOMB}3 million strips", many, INVALID | TOO_LARGE


def tiff(
    width: int,
    height: int,
    pixels: bytes = bytes(range(200)) * 2,
    changed: Mapping[int, TiffEntry | None] | None = None,
    *,
    following: bool = False,
) -> bytes:
    """A grey TIFF, `pixels` at byte 8; `changed` sets tags, or drops them where it has None."""
    entries: dict[int, TiffEntry | None] = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, len(pixels)),
    }  # fmt: skip
    tags = [(tag, *e) for tag, e in sorted({**entries, **(changed or {})}.items()) if e]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    start = struct.pack("<I", 8 + len(pixels))
    return b"II*\0" + start + pixels + directory + (start if following else bytes(4))


def tiles(side: int, length: int) -> dict[int, TiffEntry | None]:
    """Tags for one tile at byte 8 in place of strips."""
    tile: dict[int, TiffEntry | None] = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8)}
    return tile | {325: (4, 1, length), 273: None, 278: None, 279: None}


def many_pages(count: int) -> bytes:
    page = tiff(20, 20)[408:-4]
    pages = [page + struct.pack("<I", 408 + (n + 1) * (len(page) + 4)) for n in range(count)]
    return tiff(20, 20)[:408] + b"".join(pages)[:-4] + bytes(4)
