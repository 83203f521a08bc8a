"""Hostile pictures made by code: lies, bombs and damage of every kind met so far.

`hostile_files` has them by name with the answers that are right; `mutations` spoils good pictures
at random. Both are small and cheap, so that a test may send them all to a server as well.
"""

from __future__ import annotations

import functools
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Hostile = Iterator[tuple[str, bytes, set[int]]]
TiffEntry = tuple[int, int, int]  # type, count, value or where the values are

PHOTO, INVALID, TOO_LARGE, UNSUPPORTED = {200}, {400}, {413}, {415}
TIME_BOMB = "time bomb, "  # in the name of what takes a decoder longer than MAX_DECODE_SECONDS
HUGE = 2**32 - 1
GIF_HEADER = 13 + 6  # bytes, with a palette of two colours
HEIC = Path(__file__).parent / "pictures/cat.heic"


def hostile_files() -> Hostile:
    """Name, bytes and the HTTP statuses that are right for them, for each hostile file."""
    formats = {
        "JPEG": _jpeg, "PNG": _png, "WebP": _webp, "GIF": _gif, "BMP": _bmp, "TIFF": _tiff,
        "AVIF": _avif, "HEIC": _heic, "no picture": _none, "good or broken": _good_and_broken,
    }  # fmt: skip
    for format_name, files in formats.items():
        for name, data, answers in files():
            yield f"{format_name}: {name}", data, answers


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` good pictures of all formats, spoiled at random but always the same way."""
    chance = random.Random(seed)
    pictures = sorted(good_pictures().items())
    for number in range(count):
        name, data = chance.choice(pictures)
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = chance.choice(_SPOILERS)(data, chance)
        if name == "PNG" and chance.random() < 0.7:
            data = _with_right_checksums(data)  # else nothing but the checksum is ever tested
        yield f"{name}, seed {seed}, number {number}", data


@functools.cache
def good_pictures() -> dict[str, bytes]:
    """A small picture in every format that is opened, and in some of their varieties."""
    frames = [picture(40, 30), picture(40, 30).rotate(180)]
    return {
        "JPEG": encode(picture(), "JPEG"),
        "JPEG, progressive": encode(picture(), "JPEG", progressive=True),
        "JPEG, CMYK": encode(picture().convert("CMYK"), "JPEG"),
        "MPO": encode(frames[0], "MPO", save_all=True, append_images=frames[1:]),
        "PNG": encode(picture(), "PNG"),
        "PNG, palette": encode(picture().quantize(16), "PNG"),
        "APNG": encode(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "WebP": encode(picture(), "WEBP"),
        "WebP, lossless": encode(picture().convert("RGBA"), "WEBP", lossless=True),
        "WebP, animated": encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "GIF": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "BMP": encode(picture(40, 30), "BMP"),
        "BMP, RLE": bmp(40, 30, 8, b"\x28\x07\x00\x00" * 30 + b"\0\1", compression=1),
        "TIFF": encode(picture(40, 30), "TIFF"),
        "TIFF, deflate": encode(picture(), "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, LZW": encode(picture(), "TIFF", compression="tiff_lzw"),
        "TIFF, JPEG": encode(picture(), "TIFF", compression="jpeg"),
        "TIFF, float": encode(picture(40, 30).convert("F"), "TIFF"),
        "AVIF": encode(picture(), "AVIF"),
        "AVIF, alpha": encode(picture().convert("RGBA"), "AVIF"),
        "HEIC": HEIC.read_bytes(),
        "HEIC, grid": heif_grid(2, 2, 2 * 452, 2 * 300),
    }


def picture(width: int = 120, height: int = 90) -> Image.Image:
    """Coloured noise over a slope, the same each time."""
    noise = np.random.default_rng(7).integers(0, 60, (height, width, 3))
    slope = np.linspace(0, 190, width)[None, :, None]
    return Image.fromarray((noise + slope).astype(np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def _jpeg() -> Hostile:
    small, progressive = good_pictures()["JPEG"], good_pictures()["JPEG, progressive"]
    cmyk, wide = good_pictures()["JPEG, CMYK"], Image.new("L", (65_000, 700), 90)
    yield "0x0", jpeg_sized(small, 0, 0), INVALID
    yield "no height", jpeg_sized(small, 120, 0), INVALID
    yield "65,535x65,535", jpeg_sized(small, 65_535, 65_535), TOO_LARGE
    yield "larger declared", jpeg_sized(small, 7_000, 7_000), PHOTO  # its missing part is grey
    yield "larger declared, progressive", jpeg_sized(progressive, 7_000, 7_000), PHOTO
    yield "smaller declared", jpeg_sized(small, 60, 45), PHOTO
    yield "50,000x20", encode(picture(50_000, 20), "JPEG"), PHOTO
    yield "20x50,000, progressive", encode(picture(20, 50_000), "JPEG", progressive=True), PHOTO
    yield "65,000x700", encode(wide, "JPEG"), TOO_LARGE
    yield "37 megapixels of CMYK", jpeg_sized(cmyk, 6_100, 6_100), TOO_LARGE
    yield "500 scans", with_scans(progressive, 500), TOO_LARGE
    yield "500 scans, not progressive", with_scans(small, 500), TOO_LARGE
    for marker, name, answer in (
        (0xC1, "extended", PHOTO),
        (0xC3, "lossless", INVALID),
        (0xC5, "hierarchical", INVALID),
        (0xC9, "arithmetic coding", PHOTO),
        (0xCA, "arithmetic coding, progressive", INVALID),
    ):
        yield name, small.replace(b"\xff\xc0", bytes([0xFF, marker])), answer
    frame = small.find(b"\xff\xc0")
    for place, value, name in (
        (4, 12, "12 bits"),
        (9, 2, "two components"),
        (11, 0, "sampling factors of 0"),
        (11, 255, "sampling factors of 15"),
    ):
        spoiled = small[: frame + place] + bytes([value]) + small[frame + place + 1 :]
        yield name, spoiled, INVALID
    yield "Adobe's transform of CMYK", in_jpeg(segment(0xEE, b"Adobe\0d\0\0\0\0\2")), PHOTO
    yield "11 MB of EXIF", in_jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 190), PHOTO
    yield "10 MB of profile", in_jpeg(b"".join(_profile_parts(160))), PHOTO
    yield "a profile in parts that lie", in_jpeg(b"".join(_profile_parts(5)[::2])), PHOTO
    for name, exif in _hostile_exif():
        yield name, in_jpeg(segment(0xE1, b"Exif\0\0" + exif)), PHOTO
    for name, index in _hostile_mpf():
        yield name, in_jpeg(segment(0xE2, b"MPF\0" + index)), PHOTO
    yield "then a ZIP", small + _zip(), PHOTO
    yield "then PHP", small + b"<?php system($_GET['c']); ?>", PHOTO
    yield "HTML as a comment", in_jpeg(segment(0xFE, b"<script>alert(1)</script>")), PHOTO
    yield "a million bytes between segments", in_jpeg(b"\xff\xe5\0\2" + bytes(10**6)), PHOTO
    yield "no tables", small.replace(b"\xff\xc4", b"\xff\xe4"), PHOTO
    yield "restarts that don't come", in_jpeg(segment(0xDD, b"\0\1")), PHOTO
    pieces = segment(0xE1, b"Exif\0\0" + bytes(220)) * 50_000  # each is joined to all before it
    yield f"{TIME_BOMB}EXIF in 50,000 pieces", in_jpeg(pieces), TOO_LARGE
    yield f"{TIME_BOMB}3 million comments", in_jpeg(b"\xff\xfe\0\2" * 3_000_000), PHOTO | TOO_LARGE


def _png() -> Hostile:
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
    yield "more rows than declared", png(20, 20, _zeros(10)), PHOTO
    yield "16 megapixels in 16 kB", png(4_000, 4_000, _zeros(17)), PHOTO
    yield "24 megapixels in 24 kB", png(4_900, 4_900, _zeros(24)), TOO_LARGE
    yield "16 megapixels of a bit", png(4_000, 4_000, _zeros(3), depth=1), PHOTO
    yield "16 megapixels of 64 bits", png(4_000, 4_000, _zeros(129), depth=16, colour=6), PHOTO
    yield "50,000x20", encode(picture(50_000, 20), "PNG"), PHOTO
    yield "1,000,000x16", png(10**6, 16, _zeros(17)), PHOTO
    profile = zlib.compress(random.Random(1).randbytes(3 * 2**20))
    yield "3 MB of profile", in_png(chunk(b"iCCP", b"icc\0\0" + profile)), PHOTO
    yield "a profile bomb", in_png(chunk(b"iCCP", b"icc\0\0" + _zeros(100))), INVALID
    yield "a text bomb", in_png(chunk(b"zTXt", b"text\0\0" + _zeros(100))), INVALID
    wide_text = zlib.compress(("a" * 10**6 + "\U0001f63a").encode(), 9)  # 4 bytes a character
    texts = [chunk(b"iTXt", b"%d\0\1\0\0\0" % number + wide_text) for number in range(100)]
    yield "a hundred text bombs", in_png(*texts), INVALID
    yield "10 MB of EXIF", in_png(chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(10**7))), PHOTO
    for name, exif in _hostile_exif():
        yield name, in_png(chunk(b"eXIf", exif)), PHOTO
    yield "noise as EXIF", in_png(chunk(b"tEXt", b"Raw profile type exif\0\n\n\nx")), PHOTO
    frames = [Image.new("L", (20, 20), shade % 256) for shade in range(1_000)]
    animation = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    yield "1,000 frames", animation, PHOTO
    yield "4 billion frames", in_png(chunk(b"acTL", struct.pack(">II", HUGE, 0))), PHOTO
    control = struct.pack(">IIIIIHHBB", 0, 100, 100, 2**31, 2**31, 1, 1, 0, 0)
    outside = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", control)
    yield "a frame outside the picture", in_png(outside), INVALID
    yield "a chunk of 4 GB", in_png(struct.pack(">I4s", HUGE, b"tEXt")), INVALID
    yield "a wrong checksum", small[:29] + bytes(4) + small[33:], INVALID
    yield "no palette", png(20, 20, _zeros(1), colour=3), INVALID
    outside = zlib.compress((b"\0" + b"\xff" * 20) * 20)
    palette = chunk(b"PLTE", bytes(3))
    yield "colours outside the palette", png(20, 20, outside, colour=3, before=palette), PHOTO
    yield "64 bits of grey", png(20, 20, _zeros(1), depth=64), INVALID
    yield "two headers", in_png(small[8:33]), PHOTO
    bombs = chunk(b"iCCP", b"icc\0\0" + _zeros(16)) * 600
    yield f"{TIME_BOMB}600 profiles of 16 MB", in_png(bombs), PHOTO | TOO_LARGE
    yield f"{TIME_BOMB}a million chunks", in_png(chunk(b"prVt", b"") * 10**6), PHOTO | TOO_LARGE


def _webp() -> Hostile:
    whole = good_pictures()["WebP"]
    small, size = whole[12:], struct.pack("<HH", 120, 90)
    for width, height in ((16_384, 16_384), (2**24, 255), (60_000, 60_000), (4_001, 4_001)):
        canvas = webp(width, height, _webp_frame(small), animated=True)
        yield f"a canvas of {width:,}x{height:,}", canvas, TOO_LARGE
    yield "a canvas that the picture doesn't fill", webp(4_000, 4_000, small), INVALID
    yield "0x0", whole.replace(size, bytes(4)), INVALID
    yield "16,383x16,383", whole.replace(size, struct.pack("<HH", 16_383, 16_383)), TOO_LARGE
    lossless = riff(b"VP8L", b"\x2f\xff\xff\xff\xff" + bytes(5))
    yield "16,384x16,384, lossless", riff(b"RIFF", b"WEBP" + lossless), TOO_LARGE
    yield "16,383x20", encode(picture(16_383, 20), "WEBP"), PHOTO
    flat = Image.new("RGB", (4_000, 4_000))
    yield "16 megapixels in 40 kB", encode(flat, "WEBP", method=0), PHOTO
    yield "3,000 frames", webp(120, 90, *[_webp_frame(small)] * 2_900, animated=True), PHOTO
    yield "no frames", webp(120, 90, animated=True), INVALID
    yield "10 MB of profile", webp(120, 90, riff(b"ICCP", bytes(10**7)), small), PHOTO
    yield "10 MB of EXIF", webp(120, 90, small, riff(b"EXIF", bytes(10**7))), PHOTO
    for name, exif in _hostile_exif():
        yield name, webp(120, 90, small, riff(b"EXIF", exif)), PHOTO
    yield "a file of 4 GB", b"RIFF\xf0\xff\xff\xff" + whole[8:], INVALID
    yield "a chunk of 4 GB", webp(120, 90, b"ICCP\xff\xff\xff\xff", small), INVALID
    yield "a million chunks", webp(120, 90, small, riff(b"junk", b"") * 10**6), PHOTO


def _gif() -> Hostile:
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


def _bmp() -> Hostile:
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
        yield f"compression {way:,}", bmp(20, 20, 24, bytes(1_200), compression=way), INVALID
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


def _tiff() -> Hostile:
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
    yield "3,000 pages", _many_pages(3_000), PHOTO
    yield "no directory", b"II*\0\xff\xff\xff\x7f" + bytes(100), INVALID
    yield "65,535 tags", b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(100), INVALID
    tags = struct.pack("<Q", 2**63) + struct.pack("<HHQQ", 256, 4, 1, 20) * 100_000
    yield "2^63 tags", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + tags, INVALID
    for name, tag, entry, answer in _TIFF_LIES:
        yield name, tiff(20, 20, changed={tag: entry}), answer
    for side in (2**15, 2**31):
        for way in (1, 8):
            lie = tiff(20, 20, changed=_tiles(side, 400) | {259: (3, 1, way)})
            yield f"tiles of {side:,}, compression {way}", lie, INVALID
    bomb, deflate = _zeros(600), {259: (3, 1, 8)}
    yield "a tile of 576 MB", tiff(20, 20, bomb, _tiles(24_000, len(bomb)) | deflate), INVALID
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
    strips = {273: (4, 3_000_000, 8), 278: (4, 1, 1)}
    many = tiff(16, 10**6, struct.pack("<I", 8) * 3_000_000, strips)
    yield f"{TIME_BOMB}3 million strips", many, TOO_LARGE


_TIFF_LIES: tuple[tuple[str, int, TiffEntry | None, set[int]], ...] = (
    ("strips past the end", 273, (4, 1, HUGE), INVALID),
    ("strips at -1", 273, (9, 1, HUGE), INVALID),
    ("a strip of 4 GB", 279, (4, 1, HUGE), PHOTO),
    ("4 billion strips", 273, (4, HUGE, 8), INVALID),
    ("no strips", 273, None, INVALID),
    ("no bytes in its strip", 279, (4, 1, 0), PHOTO),
    ("64 bits", 258, (3, 1, 64), INVALID),
    ("1,000 samples", 277, (3, 1, 1_000), INVALID),
    ("no samples", 277, (3, 1, 0), INVALID),
    ("a width as text", 256, (2, 4, 0x31323334), INVALID),
    ("two widths", 256, (3, 2, 0x00140014), PHOTO),
    ("compression 65,535", 259, (3, 1, 65_535), INVALID),
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
    ("EXIF at 4 GB", 34_665, (4, 1, HUGE), PHOTO),
    ("EXIF that is the directory itself", 34_665, (4, 1, 408), PHOTO),
)


def _avif() -> Hostile:
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


def _heic() -> Hostile:
    whole, cat = HEIC.read_bytes(), _heic_item()
    for width, height in ((0, 0), (100, 100), (4_000, 4_000), (HUGE, HUGE)):
        yield f"{width:,}x{height:,} declared", with_ispe(whole, width, height), INVALID
    no_text = whole.replace(b"application/rdf+xml", b"\xff" * 19)
    yield "metadata of a kind that is no text", no_text, INVALID
    yield "called any HEIF", whole.replace(b"ftypheic", b"ftypmif1"), PHOTO
    yield "called an AVIF", whole.replace(b"ftypheic", b"ftypavif"), INVALID
    yield "a grid", heif_grid(3, 2, 2 * 452, 3 * 300), PHOTO
    yield "a grid of 65,535x65,535", heif_grid(1, 1, 65_535, 65_535), TOO_LARGE
    size = [ispe(452, 300)]
    yield "its own source", heif({1: Item(b"iden", b"", size, [1])}, 1), INVALID
    chain = {1: cat} | {n: Item(b"iden", b"", size, [n - 1]) for n in range(2, 300)}
    yield "a picture through 300 items", heif(chain, 299), PHOTO
    canvas = Item(b"iovl", _overlay(20_000, 20_000, 1), size, [1])
    yield "a canvas larger than declared", heif({1: cat, 2: canvas}, 2), INVALID
    for name, side in (("1x1", 1), ("nothing", 0)):
        clap = box(b"clap", struct.pack(">8I", side, 1, side, 1, 0, 1, 0, 1))
        yield f"cut to {name}", heif({1: cat.having(clap)}, 1), INVALID
    raw = Item(b"unci", b"", [ispe(4_000, 4_000), full_box(b"uncC", 1, b"rgb3")], [])
    yield "raw pixels", heif({1: raw}, 1), INVALID
    yield "900 pictures", heif(dict.fromkeys(range(1, 901), cat), 900), PHOTO
    yield "boxes in boxes", whole[:24] + _nested_boxes(10_000), INVALID
    excess = heif_grid(30, 30, 452, 300)
    yield f"{TIME_BOMB}a grid of more than it shows", excess, PHOTO | TOO_LARGE
    layers, below = {1: cat, 2: cat}, [1, 2]
    for level in range(2, 20):  # each shows the two below twice
        pair = Item(b"iovl", _overlay(452, 300, 2), size, below)
        below = [2 * level - 1, 2 * level]
        layers |= dict.fromkeys(below, pair)
    yield f"{TIME_BOMB}a picture half a million times", heif(layers, below[0]), TOO_LARGE


def _none() -> Hostile:
    png = good_pictures()["PNG"]
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='60000' height='60000'><script/></svg>"
    entity = b"\xef\xbb\xbf<?xml version='1.0'?>\n<!DOCTYPE svg [<!ENTITY a SYSTEM '/etc/passwd'>]>"
    yield "empty", b"", INVALID
    yield "NUL bytes", bytes(10**6), INVALID
    yield "noise", random.Random(2).randbytes(10**5), INVALID
    yield "text", b"not a picture\n" * 100, INVALID
    yield "HTML", b"<!doctype html><html><img src=x onerror=alert(1)></html>", INVALID
    yield "SVG", svg, UNSUPPORTED
    yield "SVG with an entity", entity + svg, UNSUPPORTED
    yield "PDF", b"%PDF-1.7\n1 0 obj\n<< >>\nendobj\n%%EOF", UNSUPPORTED
    yield "gzip", gzip.compress(png), INVALID
    yield "a gzip bomb", gzip.compress(bytes(10**7)), INVALID
    yield "ZIP", _zip(), INVALID
    yield "MP4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(1_000), INVALID
    yield "ELF", b"\x7fELF" + bytes(1_000), INVALID
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60000 60000\n", INVALID


def _good_and_broken() -> Hostile:
    for name, data in good_pictures().items():
        yield f"{name}, whole", data, PHOTO
        yield f"{name}, first half", data[: len(data) // 2], INVALID
        yield f"{name}, then NUL bytes", data[:16] + bytes(1_000), INVALID
        yield f"{name}, then 0xFF", data[:16] + b"\xff" * 1_000, INVALID | TOO_LARGE


def _hostile_exif() -> Iterator[tuple[str, bytes]]:
    entry = struct.pack("<HHII", 0x0112, 3, 1, 1)
    yield "EXIF that follows itself", b"II*\0\x08\0\0\0\1\0" + entry + struct.pack("<I", 8)
    yield "EXIF of 65,535 tags", b"II*\0\x08\0\0\0\xff\xff" + entry * 4_000
    yield "EXIF of 4 GB", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 4, HUGE, 8)
    yield "EXIF elsewhere", b"MM\0*\xff\xff\xff\xff"
    yield (
        "EXIF with orientation 200",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 3, 1, 200),
    )
    yield (
        "EXIF with orientation 1/0",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 5, 1, 26) + bytes(12),
    )
    yield (
        "EXIF with orientation as text",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 2, 3, 0x3636),
    )
    yield "EXIF of noise", random.Random(4).randbytes(5_000)
    yield "EXIF without anything", b""


def _hostile_mpf() -> Iterator[tuple[str, bytes]]:
    for count in (0, 2, HUGE):
        entries = struct.pack(
            "<HHI4sHHII", 0xB001, 4, 1, struct.pack("<I", count), 0xB002, 7, 32, 38
        )
        yield f"{count:,} pictures declared", b"II*\0\x08\0\0\0\2\0" + entries + bytes(4 + 32)
        entries = struct.pack("<HHIiHHII", 0xB001, 9, 1, -2, 0xB002, 7, 32, 38)
    yield "-2 pictures declared", b"II*\0\x08\0\0\0\2\0" + entries + bytes(4 + 32)
    yield "an index of noise", b"II*\0" + random.Random(5).randbytes(300)
    yield "an index elsewhere", b"MM\0*\xff\xff\xff\xff"


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def in_jpeg(segments: bytes) -> bytes:
    """A good JPEG with `segments` at its start."""
    jpeg = good_pictures()["JPEG"]
    return jpeg[:2] + segments + jpeg[2:]


def jpeg_sized(jpeg: bytes, width: int, height: int) -> bytes:
    """`jpeg` with another size in its header."""
    start = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2")) + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


def with_scans(jpeg: bytes, count: int) -> bytes:
    """`jpeg` with its last scan `count` times more."""
    last = jpeg[jpeg.rfind(b"\xff\xda") : -2]
    return jpeg[:-2] + last * count + jpeg[-2:]


def _profile_parts(count: int) -> list[bytes]:
    return [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([number + 1, count]) + bytes(65_000))
        for number in range(count)
    ]


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


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


@functools.cache
def _zeros(megabytes: int) -> bytes:
    """What unpacks to so many megabytes of zeros, a thousandth of that in size."""
    packer = zlib.compressobj(9)
    head = packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * megabytes


def in_png(*chunks: bytes) -> bytes:
    """A good PNG with `chunks` after its header."""
    whole = good_pictures()["PNG"]
    return whole[:33] + b"".join(chunks) + whole[33:]


def _with_right_checksums(data: bytes) -> bytes:
    mended, start = data[:8], 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        content = data[start + 8 : start + 8 + length]
        mended += data[start : start + 8] + content
        mended += struct.pack(">I", zlib.crc32(data[start + 4 : start + 8] + content))
        start += 12 + length
    return mended + data[start:]


def riff(kind: bytes, content: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def webp(width: int, height: int, *chunks: bytes, animated: bool = False) -> bytes:
    """A WebP with a canvas of any size."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    canvas = riff(b"VP8X", bytes([2 if animated else 0x2C, 0, 0, 0]) + size)
    if animated:
        canvas += riff(b"ANIM", bytes(6))
    return riff(b"RIFF", b"WEBP" + canvas + b"".join(chunks))


def _webp_frame(picture: bytes) -> bytes:
    size = (119).to_bytes(3, "little") + (89).to_bytes(3, "little")
    return riff(b"ANMF", bytes(6) + size + bytes(4) + picture)


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


def tiff(
    width: int,
    height: int,
    pixels: bytes = bytes(range(200)) * 2,
    changed: dict[int, TiffEntry | None] | None = None,
    *,
    following: bool = False,
) -> bytes:
    """A grey TIFF, `pixels` at byte 8; `changed` sets tags, or drops them where it has None."""
    entries: dict[int, TiffEntry | None] = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1),
        273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, len(pixels)),
    }  # fmt: skip
    tags = [(tag, *e) for tag, e in sorted((entries | (changed or {})).items()) if e]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags)
    start = struct.pack("<I", 8 + len(pixels))
    return b"II*\0" + start + pixels + directory + (start if following else bytes(4))


def _tiles(side: int, length: int) -> dict[int, TiffEntry | None]:
    """Tags for one tile at byte 8 in place of strips."""
    tile: dict[int, TiffEntry | None] = {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, 8)}
    return tile | {325: (4, 1, length), 273: None, 278: None, 279: None}


def _many_pages(count: int) -> bytes:
    page = tiff(20, 20)[408:-4]
    pages = [page + struct.pack("<I", 408 + (n + 1) * (len(page) + 4)) for n in range(count)]
    return tiff(20, 20)[:408] + b"".join(pages)[:-4] + bytes(4)


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of an AVIF or HEIC."""
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full_box(kind: bytes, version: int, *contents: bytes) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *contents)


def ispe(width: int, height: int) -> bytes:
    """The size that an item of an AVIF or HEIC declares."""
    return full_box(b"ispe", 0, struct.pack(">II", width, height))


def with_ispe(data: bytes, width: int, height: int) -> bytes:
    """An AVIF or HEIC with another declared size."""
    start = data.find(b"ispe") - 4
    return data[:start] + ispe(width, height) + data[start + 20 :]


class Item(NamedTuple):
    """An item of an AVIF or HEIC: `sources` are the items that it is put together from."""

    kind: bytes
    content: bytes
    properties: list[bytes]
    sources: list[int]

    def having(self, *properties: bytes) -> Item:
        return self._replace(properties=[*self.properties, *properties])


def heif(items: dict[int, Item], shown: int, brand: bytes = b"heic") -> bytes:
    """An AVIF or HEIC with any items; equal contents are stored once."""
    properties = list(dict.fromkeys(p for item in items.values() for p in item.properties))
    contents = list(dict.fromkeys(item.content for item in items.values()))
    infos, places, links, references = b"", b"", b"", b""
    for number, item in items.items():
        infos += full_box(b"infe", 2, struct.pack(">HH4sx", number, 0, item.kind))
        start = sum(map(len, contents[: contents.index(item.content)]))
        places += struct.pack(">HHHHII", number, 1, 0, 1, start, len(item.content))
        links += struct.pack(">HB", number, len(item.properties))
        links += bytes(properties.index(p) + 1 for p in item.properties)
        if item.sources:
            count = len(item.sources)
            references += box(b"dimg", struct.pack(f">HH{count}H", number, count, *item.sources))
    count = struct.pack(">H", len(items))
    return box(b"ftyp", brand, bytes(4), b"mif1", brand) + full_box(
        b"meta",
        0,
        full_box(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
        full_box(b"pitm", 0, struct.pack(">H", shown)),
        full_box(b"iloc", 1, b"\x44\0", count, places),
        full_box(b"iinf", 0, count, infos),
        full_box(b"iref", 0, references) if references else b"",
        box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", 0, bytes(2), count, links)),
        box(b"idat", *contents),
    )


def _content_of(data: bytes, *path: bytes) -> bytes:
    """The content of a box in boxes."""
    for kind in path:
        start = data.index(kind)
        data = data[start + 4 : start - 4 + int.from_bytes(data[start - 4 : start], "big")]
    return data


def _heic_item() -> Item:
    data = HEIC.read_bytes()
    start, _, offset, length = struct.unpack(">IHII", _content_of(data, b"iloc")[12:26])
    stream = data[start + offset : start + offset + length]
    return Item(b"hvc1", stream, [box(b"hvcC", _content_of(data, b"hvcC")), ispe(452, 300)], [])


def heif_grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """A HEIC of `rows` times `columns` times the same picture of 452x300."""
    return _grid(_heic_item(), rows, columns, width, height, b"heic")


def avif_grid(avif: bytes, rows: int, columns: int, width: int, height: int) -> bytes:
    """An AVIF of `rows` times `columns` times the same picture."""
    properties = [
        box(kind, _content_of(avif, b"ipco", kind)) for kind in (b"ispe", b"av1C", b"pixi")
    ]
    item = Item(b"av01", _content_of(avif, b"mdat"), properties, [])
    return _grid(item, rows, columns, width, height, b"avif")


def _grid(item: Item, rows: int, columns: int, width: int, height: int, brand: bytes) -> bytes:
    tiles = dict.fromkeys(range(2, rows * columns + 2), item)
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    shared = [p for p in item.properties if p[4:8] == b"pixi"]
    grid = Item(b"grid", layout, [ispe(width, height), *shared], list(tiles))
    return heif({1: grid, **tiles}, 1, brand)


def _overlay(width: int, height: int, count: int) -> bytes:
    return struct.pack(">BB4HHH", 0, 0, 0, 0, 0, 65_535, width, height) + bytes(4 * count)


def _nested_boxes(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = box(b"meta", bytes(4), data)
    return data


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../etc/passwd", "root::0:0::/:/bin/sh")
    return buffer.getvalue()


def _flip(data: bytes, chance: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        if spoiled:
            spoiled[_position(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: _position(data, chance)]


def _leave_out(data: bytes, chance: random.Random) -> bytes:
    start = _position(data, chance)
    return data[:start] + data[start + chance.randint(1, 40) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = _position(data, chance)
    block = data[start : start + chance.randint(1, 200)]
    return data[:start] + block * chance.randint(2, 20) + data[start:]


def _splice(data: bytes, chance: random.Random) -> bytes:
    other = chance.choice(sorted(good_pictures().values()))
    return data[: _position(data, chance)] + other[_position(other, chance) :]


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    """An integer becomes an extreme one, as sizes, counts and offsets do in hostile files."""
    start, size = _position(data, chance), chance.choice((1, 2, 4, 8))
    top = 1 << (8 * size)
    value = chance.choice((0, 1, top // 2 - 1, top // 2, top - 1, chance.randrange(top)))
    return (
        data[:start] + value.to_bytes(size, chance.choice(("big", "little"))) + data[start + size :]
    )


def _position(data: bytes, chance: random.Random) -> int:
    """Half of them in the header, where most can be broken."""
    return chance.randrange(max(1, min(len(data), chance.choice((300, len(data))))))


_SPOILERS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _cut, _leave_out, _repeat, _splice, _overwrite, _overwrite,
)  # fmt: skip
