"""Good pictures, to be damaged."""

from __future__ import annotations

import functools

from testing.hostile.bmp import bmp
from testing.hostile.heif import HEIC, heif_grid
from testing.hostile.made import encode, picture


@functools.cache
def good_pictures() -> dict[str, bytes]:
    """A small picture in every supported format, and in some variants."""
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
