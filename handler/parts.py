"""Inspect the parts of a JPEG or PNG by their markers and lengths, without Pillow."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from handler.tiff import starts_tiff, tiff_without_metadata

MAX_PARTS = 20_000  # per file; a PNG of 12 MB in chunks of 8 kB, as from libpng, has 1,500
# A length follows these markers. 0x00 marks a byte 0xFF of pixels; 0x01, 0xD0 to 0xD7 stand alone.
_JPEG_MARK = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
# The type of an item of an AVIF, after a box header, flags and the item's number and protection.
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
_START, _END, _SCAN, _EXIF_OR_XMP, _COMMENT = 0xD8, 0xD9, 0xDA, 0xE1, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the others are tables
_HIERARCHICAL = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)
_LEAST_TRANSPARENCY = {0: 2, 2: 6}  # bytes of tRNS by colour type


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG, as libjpeg finds them, up to the end marker.

    Bytes between segments are pixels or are skipped. Raises ValueError at MAX_PARTS.
    """
    end = 2
    for _ in range(MAX_PARTS):
        mark = _JPEG_MARK.search(data, end)
        if not mark:
            return
        marker, start, end = mark[1][0], mark.end() - 2, mark.end()
        if marker not in (_START, _END):
            end += max(2, int.from_bytes(data[end : end + 2], "big"))
        yield marker, start, end
        if marker == _END:
            return
    raise ValueError(f"more than {MAX_PARTS} segments")


def count_scans(data: bytes) -> int:
    """The number of scans up to the end marker: a second picture after it is not decoded."""
    return sum(marker == _SCAN for marker, _, _ in jpeg_segments(data))


def unopened_jpeg(data: bytes) -> str | None:
    """The name of a valid kind of JPEG that libjpeg or Pillow can't open, such as "12-bit JPEG"."""
    for marker, start, _ in jpeg_segments(data):
        if marker in _FRAMES and len(data) > start + 9:
            precision, components = data[start + 4], data[start + 9]
            if precision in (12, 16):
                return f"{precision}-bit JPEG"
            if marker in _HIERARCHICAL:
                return "hierarchical JPEG"
            return None if components in (0, 1, 3, 4) else f"JPEG of {components} components"
        if marker == _SCAN:
            break
    return None


def without_metadata(data: bytes) -> bytes | None:
    """`data` with only its pixels, the parts that these need, and a valid orientation.

    None if nothing can be removed, if the file is no JPEG, PNG, TIFF or AVIF, or if it is
    truncated. Parts that the pixels need are never removed or repaired.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        plain = _png_without_metadata(data)
    elif data.startswith(b"\xff\xd8\xff"):
        plain = _jpeg_without_metadata(data)
    elif starts_tiff(data):
        plain = tiff_without_metadata(data)
    elif data[4:8] == b"ftyp":
        plain = _EXIF_ITEM.sub(rb"\1free", data)  # an item of an unknown type is skipped
    else:
        return None
    return None if plain == data else plain


def _jpeg_without_metadata(data: bytes) -> bytes | None:
    kept = [data[:2]]
    for marker, start, end in jpeg_segments(data):
        if marker == _SCAN:
            return b"".join(kept) + data[start:]
        if not _is_jpeg_metadata(marker, data[start + 4 : end]):
            kept.append(data[start:end])
    return None


def _is_jpeg_metadata(marker: int, content: bytes) -> bool:
    """Whether a segment can be removed.

    libjpeg reads colours from the segments JFIF and Adobe only if they are complete; Pillow fails
    on incomplete ones. EXIF and XMP stay: they contain the orientation, and Pillow tolerates
    errors in them.
    """
    if marker == 0xE0 and content.startswith(b"JFIF\0"):
        return len(content) < 14
    if marker == 0xEE and content.startswith(b"Adobe"):
        return len(content) < 12
    return marker == _COMMENT or (marker in _APPLICATION and marker != _EXIF_OR_XMP)


def _png_without_metadata(data: bytes) -> bytes | None:
    kept, start = [data[:8]], 8
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        end = start + 12 + length
        if end > len(data):
            return None
        if _is_needed(kind, data[start + 8 : end - 4], data[end - 4 : end], data[25]):
            kept.append(data[start:end])
        if kind == b"IEND":
            return b"".join(kept)
        start = end
    return None


def _is_needed(kind: bytes, content: bytes, checksum: bytes, colour: int) -> bool:
    """Whether a chunk is critical (upper-case first letter), or a valid tRNS or eXIf (libpng)."""
    if kind[:1].isupper():
        return True
    if kind not in (b"tRNS", b"eXIf") or zlib.crc32(kind + content) != int.from_bytes(checksum):
        return False
    return kind == b"eXIf" or len(content) >= _LEAST_TRANSPARENCY.get(colour, 0)
