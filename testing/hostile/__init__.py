"""Hostile pictures made by code: lies, bombs and damage of every kind met so far.

`hostile_files` has them by name with the answers that are right; `mutations` spoils good pictures
at random. Both are small and cheap, so that a test may send them all to a server as well.
"""

from __future__ import annotations

from testing.hostile import avif, bmp, gif, heic, jpeg, others, png, tiff, webp
from testing.hostile.good import good_pictures
from testing.hostile.heif import heif_grid, with_ispe
from testing.hostile.jpeg import jpeg_sized, with_scans
from testing.hostile.made import Hostile, encode, picture
from testing.hostile.png import chunk
from testing.hostile.spoil import mutations

__all__ = [
    "FILES", "chunk", "encode", "good_pictures", "heif_grid", "hostile_files", "jpeg_sized",
    "mutations", "picture", "with_ispe", "with_scans",
]  # fmt: skip


FILES = {
    "JPEG": jpeg.files, "PNG": png.files, "WebP": webp.files, "GIF": gif.files, "BMP": bmp.files,
    "TIFF": tiff.files, "AVIF": avif.files, "HEIC": heic.files,
    "no picture": others.no_pictures, "good or broken": others.good_and_broken,
}  # fmt: skip


def hostile_files() -> Hostile:
    """Name, bytes and the HTTP statuses that are right for them, for each hostile file."""
    for format_name, files in FILES.items():
        for name, data, answers in files():
            yield f"{format_name}: {name}", data, answers
