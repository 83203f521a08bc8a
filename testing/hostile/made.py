"""Helpers for all formats: a picture, statuses, and an encoder."""

from __future__ import annotations

import functools
import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

Hostile = Iterator[tuple[str, bytes, set[int]]]
PHOTO, INVALID, TOO_LARGE, UNSUPPORTED = {200}, {400}, {413}, {415}
TIME_BOMB = "time bomb, "  # prefix for files that take a decoder longer than MAX_DECODE_SECONDS
HUGE = 2**32 - 1


def picture(width: int = 120, height: int = 90) -> Image.Image:
    """Coloured noise over a slope, the same each time."""
    noise = np.random.default_rng(7).integers(0, 60, (height, width, 3))
    slope = np.linspace(0, 190, width)[None, :, None]
    return Image.fromarray((noise + slope).astype(np.uint8))


def encode(image: Image.Image, format_name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


@functools.cache
def zeros(megabytes: int) -> bytes:
    """Compressed zeros that unpack to so many megabytes, at a thousandth of the size."""
    packer = zlib.compressobj(9)
    head = packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * megabytes


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../etc/passwd", "root::0:0::/:/bin/sh")
    return buffer.getvalue()
