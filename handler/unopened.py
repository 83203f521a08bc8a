"""Names of unsupported formats, for clearer errors than "not a photo"."""

from __future__ import annotations

from PIL import UnidentifiedImageError

from handler.parts import unopened_jpeg
from handler.tiff import starts_tiff, unopened_tiff

OTHER_FORMATS = {
    b"%PDF": "PDF",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
    b"<?xml": "SVG or other XML",
    b"<!DOCTYPE svg": "SVG",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"II\xbc\x01": "JPEG XR",
    b"\x00\x00\x01\x00": "icon",
    b"\x8aMNG": "MNG",
    b"\x8bJNG": "JNG",
    b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR",
    b"qoif": "QOI",
    b"FUJIFILMCCD-RAW": "Fujifilm raw",
    b"II*\x00\x10\x00\x00\x00CR": "Canon raw",
    b"II\x1a\x00\x00\x00HEAPCCDR": "Canon raw",
    b"IIRO": "Olympus raw",
    b"IIRS": "Olympus raw",
    b"MMOR": "Olympus raw",
    b"IIU\x00": "Panasonic raw",
    b"FOVb": "Sigma raw",
    b"\x00MRM": "Minolta raw",
}
_OTHER_BRANDS = {b"crx ": "Canon raw"}  # of files made of boxes, like AVIF and HEIC


def other_format(data: bytes) -> str | None:
    """The format of `data` by its first bytes, if it is a known unsupported one."""
    if data[4:8] == b"ftyp":
        return _OTHER_BRANDS.get(data[8:12])
    head = data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for magic, name in OTHER_FORMATS.items() if head.startswith(magic)), None)


def unopened(data: bytes, error: BaseException) -> str | None:
    """The unsupported kind of JPEG, BMP or TIFF for which Pillow raised `error`; None if damaged.

    May raise nearly anything for damaged files.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return unopened_jpeg(data)
    if str(error).startswith(("Unsupported BMP compression", "Unsupported BMP bitfields")):
        return str(error).removeprefix("Unsupported ")
    # A layout or compression that Pillow doesn't know.
    if starts_tiff(data) and isinstance(error, (UnidentifiedImageError, KeyError)):
        return unopened_tiff(data)
    return None
