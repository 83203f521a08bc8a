"""Distinguish TIFF layouts that Pillow reads correctly from others, and name the others.

tests/handler/test_tiff.py tries all of them. Pillow misreads some without an error.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, TiffImagePlugin

# Pillow's own reader, for uncompressed pixels, misreads planes of 16 bits as 8, planar WhiteIsZero
# as BlackIsZero, and halved chroma as full.
TiffImagePlugin.READ_LIBTIFF = True
# Pillow reads these from little-endian files only.
TiffImagePlugin.OPEN_INFO[b"MM", 0, (1,), 1, (16,), ()] = ("I;16", "I;16")
TiffImagePlugin.OPEN_INFO[b"MM", 1, (1,), 1, (32,), ()] = ("I", "I;32N")
# Pillow expects the byte order of a big-endian file, but libtiff returns the machine's.
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_PLANAR_MODES = ("RGB", "RGBA", "CMYK")  # with several samples; Pillow misreads other planar ones
_COLOURS = {
    0: "WhiteIsZero grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr",
    8: "Lab", 9: "Lab", 10: "Lab",
}  # fmt: skip
_RAW_COLOURS = (32_803, 34_892)  # colour filter array, and linear raw
_DNG_VERSION = 50_706
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point"}
_DEPTHS = (1, 2, 4, 8, 10, 12, 14, 16, 24, 32, 64)  # bits; others mean a damaged file
_SMALLER = 1  # in the first directory: a preview; the picture is in another directory
# Tags that pixels and orientation need: sizes, colours, compression, strips, tiles, JPEG tables.
_NEEDED = {
    *range(256, 260), 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, *range(322, 326), 338, 339,
    347, *range(512, 522), *range(529, 533),
}  # fmt: skip

Tags = Mapping[int, Any]


def starts_tiff(data: bytes) -> bool:
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_natively(photo: TiffImagePlugin.TiffImageFile) -> None:
    """Correct the byte order that Pillow expects from libtiff."""
    for number, tile in enumerate(photo.tile):
        if isinstance(tile.args, tuple) and tile.args[0] in _NATIVE:
            args = (_NATIVE[str(tile.args[0])], *tile.args[1:])
            photo.tile[number] = tile._replace(args=args)


def misread_tiff(photo: TiffImagePlugin.TiffImageFile) -> str | None:
    """The name of a layout that Pillow opens but misreads; None for others."""
    tags = photo.tag_v2
    if raw := _raw(tags):
        return raw
    planar = tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2
    if planar and len(photo.getbands()) > 1 and photo.mode not in _PLANAR_MODES:
        return f"TIFF of {_layout(tags)} in planes"
    if photo.mode == "L" and _sample_format(tags) == 2:
        return f"TIFF of {_layout(tags)}"
    return None


def unopened_tiff(data: bytes) -> str | None:
    """The name of a layout that Pillow can't open; None if it can, or if tags are damaged.

    May raise nearly anything for truncated tags.
    """
    if data.startswith(b"MM\0+"):
        return "big-endian BigTIFF"
    file = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if b"+" in data[2:4] else 8])
    file.seek(tags.next)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # truncated values name no layout
        tags.load(file)
    compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
    if isinstance(compression, int) and compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"TIFF of compression {compression}"
    try:
        TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    except SyntaxError as error:
        if str(error) == "unknown pixel mode":
            layout = _layout(tags)
            return _raw(tags) or (layout and f"TIFF of {layout}")
    return None


def _raw(tags: Tags) -> str | None:
    """The name of a raw format, in which Pillow would only find a preview; None for others."""
    if _DNG_VERSION in tags:
        return "camera raw (DNG)"
    preview = tags.get(ExifTags.Base.NewSubfileType) == _SMALLER and TiffImagePlugin.SUBIFD in tags
    raw = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) in _RAW_COLOURS
    return "camera raw" if preview or raw else None


def _layout(tags: Tags) -> str | None:
    """A layout such as "64-bit floating-point RGB"; None if a tag has an undefined value."""
    bits = set(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    colour = _COLOURS.get(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0))
    kind = _FORMATS.get(_sample_format(tags))
    samples = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    if not (colour and kind and samples and bits <= set(_DEPTHS)):
        return None
    extra = " with extra samples" if tags.get(TiffImagePlugin.EXTRASAMPLES) else ""
    return f"{'-'.join(map(str, sorted(bits)))}-bit {kind} {colour}{extra}"


def _sample_format(tags: Tags) -> int:
    return int(max(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))))


def tiff_without_metadata(data: bytes) -> bytes | None:
    """A classic TIFF with only the tags that pixels and orientation need; None if not possible."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] != struct.pack(f"{order}H", 42):
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    entries = [data[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _NEEDED]
    if len(kept) == count:
        return None
    head = data[:4] + struct.pack(f"{order}I", len(data)) + data[8:]
    return head + struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
