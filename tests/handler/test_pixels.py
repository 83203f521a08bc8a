from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from handler.photo import decode_photo
from testing.hostile import chunk, encode, picture
from testing.hostile.png import png

RAMP = np.tile(np.arange(256, dtype=np.uint8), (192, 1))
MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)  # of red, green, blue and alpha


def bmp_of(pixels: np.ndarray) -> bytes:
    """A BMP of blue, green, red and alpha, uint8 (H, W, 4), which its masks name."""
    height, width = pixels.shape[:2]
    size = (124, width, height, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0)
    header = struct.pack("<IIIHHIIIIII", *size) + struct.pack("<IIII", *MASKS)
    start = struct.pack("<2sIHHI", b"BM", 138 + pixels.nbytes, 0, 0, 138)
    return start + header.ljust(124, b"\0") + pixels[::-1].tobytes()


def test_a_bmp_without_any_alpha_is_shown_as_browsers_do() -> None:
    photo = picture()
    pixels = np.concatenate([np.asarray(photo)[..., ::-1], np.zeros((90, 120, 1), np.uint8)], 2)
    assert np.array_equal(decode_photo(bmp_of(pixels)), decode_photo(encode(photo, "BMP")))


def test_a_bmp_with_some_alpha_lies_on_white() -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, 10:, 3] = 255
    shown = decode_photo(bmp_of(pixels))[100, :, 0]
    assert (shown[:100].min(), shown[-100:].max()) == (255, 0)


@pytest.mark.parametrize("colour", [0, 2, 4, 6])
def test_12_bits_in_16_of_a_png_are_as_bright_as_8(colour: int) -> None:
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    levels = np.repeat((RAMP.astype(np.uint32) * 4095 // 255)[:, :, None], samples, axis=2)
    if colour >= 4:
        levels[..., -1] = 4095
    rows = np.insert(levels.astype(">u2").view(np.uint8).reshape(192, -1), 0, 0, axis=1)
    data = png(256, 192, zlib.compress(rows.tobytes()), depth=16, colour=colour)
    expected = decode_photo(encode(Image.fromarray(RAMP), "PNG")).astype(int)
    assert np.abs(decode_photo(data) - expected).mean() < 9
    assert decode_photo(data).max() == 255


def test_dark_colours_of_8_bits_stay_dark() -> None:
    for mode in ("L", "RGB", "RGBA", "CMYK"):
        dark = Image.new(mode, (20, 20), 15 if mode == "L" else (15, 15, 15, 255)[: len(mode)])
        formats = ("TIFF",) if mode == "CMYK" else ("PNG", "TIFF")
        for format_name in formats:
            expected = 0 if mode == "CMYK" else 15
            assert (decode_photo(encode(dark, format_name)) == expected).all(), (mode, format_name)


@pytest.mark.parametrize("keyed", [True, False])
@pytest.mark.parametrize(
    ("depth", "colour", "level"),
    [
        (1, 0, 1), (1, 0, 0), (2, 0, 2), (4, 0, 9), (8, 0, 77), (16, 0, 0x8001), (16, 0, 300),
        (8, 2, 77), (16, 2, 0x8001), (16, 2, 300),
    ],
)  # fmt: skip
def test_the_transparent_colour_of_a_png_lies_on_white(
    depth: int, colour: int, level: int, keyed: bool
) -> None:
    other = 1 - level if depth == 1 else 0
    samples = 3 if colour == 2 else 1
    pixels = np.full((20, 32, samples), level, np.uint32)
    pixels[:, 16:] = other
    if depth == 16:
        rows = pixels.astype(">u2").view(np.uint8).reshape(20, -1)
    else:
        bits = pixels.reshape(20, -1, 1) >> np.arange(depth - 1, -1, -1) & 1
        rows = np.packbits(bits.reshape(20, -1), axis=1)
    data = zlib.compress(np.insert(rows, 0, 0, axis=1).astype(np.uint8).tobytes())
    key = chunk(b"tRNS", struct.pack(">H", level) * samples) if keyed else b""
    seen = decode_photo(png(32, 20, data, depth=depth, colour=colour, before=key))[100]
    assert (seen[:100].min() == 255) == (keyed or (depth, level) == (1, 1))
    assert seen[-100:].max() == (255 if (depth, other) == (1, 1) else 0)
