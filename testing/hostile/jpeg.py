"""JPEG: segments, scans and sizes that lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from PIL import Image

from testing.hostile.exif import hostile_exif
from testing.hostile.good import good_pictures
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
    zip_file,
)


def files() -> Hostile:
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
        (0xC5, "hierarchical", UNSUPPORTED),
        (0xC9, "arithmetic coding", PHOTO),
        (0xCA, "arithmetic coding, progressive", INVALID),
    ):
        yield name, small.replace(b"\xff\xc0", bytes([0xFF, marker])), answer
    frame = small.find(b"\xff\xc0")
    for place, value, name, answer in (
        (4, 12, "12 bits", UNSUPPORTED),
        (9, 2, "two components", UNSUPPORTED),
        (11, 0, "sampling factors of 0", INVALID),
        (11, 255, "sampling factors of 15", INVALID),
    ):
        spoiled = small[: frame + place] + bytes([value]) + small[frame + place + 1 :]
        yield name, spoiled, answer
    for name, side in BROKEN_SEGMENTS.items():
        yield f"broken: {name}", in_jpeg(side), PHOTO
        yield f"broken: {name}, cut off", in_jpeg(side)[:-40], INVALID
    yield "broken: tables", in_jpeg(segment(0xDB, bytes(10))), INVALID
    yield "500 scans behind its end", small + with_scans(progressive, 500), PHOTO
    yield "50 pictures behind its end", small + progressive * 50, PHOTO
    hidden = progressive[:-2] + segment(0xE5, b"\xff\xd9") + progressive[-2:]
    yield "500 scans behind an end in a segment", with_scans(hidden, 500), TOO_LARGE
    yield "500 scans without an end", with_scans(progressive, 500)[:-2], TOO_LARGE
    yield "Adobe's transform of CMYK", in_jpeg(segment(0xEE, b"Adobe\0d\0\0\0\0\2")), PHOTO
    yield "11 MB of EXIF", in_jpeg(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 190), PHOTO
    yield "10 MB of profile", in_jpeg(b"".join(profile_parts(160))), PHOTO
    yield "a profile in parts that lie", in_jpeg(b"".join(profile_parts(5)[::2])), PHOTO
    for name, exif in hostile_exif():
        yield name, in_jpeg(segment(0xE1, b"Exif\0\0" + exif)), PHOTO
    for name, index in hostile_mpf():
        yield name, in_jpeg(segment(0xE2, b"MPF\0" + index)), PHOTO
    yield "then a ZIP", small + zip_file(), PHOTO
    yield "then PHP", small + b"<?php system($_GET['c']); ?>", PHOTO
    yield "HTML as a comment", in_jpeg(segment(0xFE, b"<script>alert(1)</script>")), PHOTO
    yield "a million bytes between segments", in_jpeg(b"\xff\xe5\0\2" + bytes(10**6)), PHOTO
    yield "no tables", small.replace(b"\xff\xc4", b"\xff\xe4"), PHOTO
    yield "restarts that don't come", in_jpeg(segment(0xDD, b"\0\1")), PHOTO
    pieces = segment(0xE1, b"Exif\0\0" + bytes(220)) * 50_000  # each is joined to all before it
    yield f"{TIME_BOMB}EXIF in 50,000 pieces", in_jpeg(pieces), TOO_LARGE
    many = b"\xff\xfe\0\2" * 3_000_000
    yield (
        f"{TIME_BOMB}a broken segment, 3 million comments",
        in_jpeg(b"\xff\xee\0\7Adobe" + many),
        INVALID,
    )
    scans = with_scans(progressive, 40)
    last = scans.rfind(b"\xff\xda")
    behind = scans[:last] + many + scans[last:]
    yield f"{TIME_BOMB}3 million comments between scans", behind, INVALID | TOO_LARGE
    yield f"{TIME_BOMB}3 million comments", in_jpeg(b"\xff\xfe\0\2" * 3_000_000), PHOTO | TOO_LARGE


def photoshop(resource: int, content: bytes, length: int) -> bytes:
    """A segment of one image resource."""
    return b"Photoshop 3.0\0" + struct.pack(">4sHHI", b"8BIM", resource, 0, length) + content


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


# Each made Pillow raise: "not a photo", though libjpeg, and so each browser, skips it.
BROKEN_SEGMENTS = {
    "JFIF without a version": segment(0xE0, b"JFIF\0"),
    "Adobe without a version": segment(0xEE, b"Adobe"),
    "Adobe without a transform": segment(0xEE, b"Adobe\0d\0\0\0\0"),
    "a profile without numbers": segment(0xE2, b"ICC_PROFILE\0"),
    "a profile with one number": segment(0xE2, b"ICC_PROFILE\0\1"),
    "a resolution that is cut off": segment(0xED, photoshop(0x3ED, b"\0\x48", 2)),
    "resources that are cut off": segment(0xED, b"Photoshop 3.0\x008BIM\7\xdb"),
    "resources without a number": segment(0xED, b"Photoshop 3.0\x008BIM"),
    "a mark of old": b"\xff\x01",
}


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


def profile_parts(count: int) -> list[bytes]:
    return [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([number + 1, count]) + bytes(65_000))
        for number in range(count)
    ]


def hostile_mpf() -> Iterator[tuple[str, bytes]]:
    for count in (0, 2, HUGE):
        entries = struct.pack(
            "<HHI4sHHII", 0xB001, 4, 1, struct.pack("<I", count), 0xB002, 7, 32, 38
        )
        yield f"{count:,} pictures declared", b"II*\0\x08\0\0\0\2\0" + entries + bytes(4 + 32)
        entries = struct.pack("<HHIiHHII", 0xB001, 9, 1, -2, 0xB002, 7, 32, 38)
    yield "-2 pictures declared", b"II*\0\x08\0\0\0\2\0" + entries + bytes(4 + 32)
    yield "an index of noise", b"II*\0" + random.Random(5).randbytes(300)
    yield "an index elsewhere", b"MM\0*\xff\xff\xff\xff"
