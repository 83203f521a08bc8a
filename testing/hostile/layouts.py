"""TIFFs with any layout of samples, written without a library that might share Pillow's bugs."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

SIDE = 32  # pixels, of a picture
TILE = 16
PALETTE = np.stack([np.arange(256), np.arange(255, -1, -1), np.arange(256) * 7 % 256], axis=1)
PHOTOMETRIC = {
    "WhiteIsZero": 0, "BlackIsZero": 1, "grey and alpha": 1, "RGB": 2, "RGBA": 2, "RGBX": 2,
    "palette": 3, "CMYK": 5, "YCbCr": 6, "Lab": 8,
}  # fmt: skip
EXTRA = {"grey and alpha": 2, "RGBA": 2, "RGBX": 0}


class Kind(NamedTuple):
    """How a sample from 0 to 255 is stored."""

    bits: int
    sample_format: int  # 1 unsigned, 2 signed, 3 floating-point
    stored: np.dtype  # of which `bits` are written
    factor: float
    offset: int = 0


KINDS = {
    "1": Kind(1, 1, np.dtype("u1"), 1 / 128),
    "4": Kind(4, 1, np.dtype("u1"), 1 / 16),
    "8": Kind(8, 1, np.dtype("u1"), 1),
    "12": Kind(12, 1, np.dtype("u2"), 4095 / 255),
    "12 in 16": Kind(16, 1, np.dtype("u2"), 4095 / 255),
    "16": Kind(16, 1, np.dtype("u2"), 257),
    "32": Kind(32, 1, np.dtype("u4"), 257 * 65_537),
    "signed 8": Kind(8, 2, np.dtype("i1"), 1, -(2**7)),
    "signed 16": Kind(16, 2, np.dtype("i2"), 257, -(2**15)),
    "signed 32": Kind(32, 2, np.dtype("i4"), 257 * 65_537, -(2**31)),
    "float 16": Kind(16, 3, np.dtype("f2"), 1 / 255),
    "float 32": Kind(32, 3, np.dtype("f4"), 1 / 255),
    "float 64": Kind(64, 3, np.dtype("f8"), 1 / 255),
}


class Layout(NamedTuple):
    big_endian: bool
    planar: bool
    compression: int  # 1 none, 8 deflate, 32773 PackBits
    tiled: bool


def tiff_of(samples: np.ndarray, colour: str, kind_name: str, layout: Layout) -> bytes:
    """A TIFF of `samples` (SIDE, SIDE, samples of a pixel), 0 to 255, in a layout."""
    kind, count = KINDS[kind_name], samples.shape[2]
    levels = samples.astype(np.float64) * kind.factor + kind.offset
    stored = (levels if kind.sample_format == 3 else np.floor(levels)).astype(kind.stored)
    planes = np.split(stored, count, axis=2) if layout.planar else [stored]
    blocks = [
        packed(block, kind.bits, layout) for plane in planes for block in parts(plane, layout.tiled)
    ]
    lengths = [len(block) for block in blocks]
    offsets = [8 + sum(lengths[:number]) for number in range(len(blocks))]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("H", [SIDE]), 257: ("H", [SIDE]), 258: ("H", [kind.bits] * count),
        259: ("H", [layout.compression]), 262: ("H", [PHOTOMETRIC[colour]]), 277: ("H", [count]),
        284: ("H", [1 + layout.planar]), 339: ("H", [kind.sample_format] * count),
    }  # fmt: skip
    if layout.tiled:
        tags |= {322: ("H", [TILE]), 323: ("H", [TILE]), 324: ("I", offsets), 325: ("I", lengths)}
    else:
        tags |= {273: ("I", offsets), 278: ("H", [TILE]), 279: ("I", lengths)}
    if colour in EXTRA:
        tags[338] = ("H", [EXTRA[colour]])
    if colour == "palette":
        tags[320] = ("H", [int(v) * 257 for v in PALETTE[: 1 << kind.bits].T.ravel()])
    if colour == "YCbCr":
        tags[530] = ("H", [1, 1])  # chroma of the same size
    return file_of(b"".join(blocks), tags, ">" if layout.big_endian else "<")


def parts(plane: np.ndarray, tiled: bool) -> list[np.ndarray]:
    """The tiles, or strips of as many rows."""
    strips = np.split(plane, SIDE // TILE)
    return (
        [tile for strip in strips for tile in np.split(strip, SIDE // TILE, 1)] if tiled else strips
    )


def packed(block: np.ndarray, bits: int, layout: Layout) -> bytes:
    if bits in (1, 4, 12):  # the highest bit first, whatever the order of bytes
        shifts = np.arange(bits - 1, -1, -1)
        data = np.packbits(block.reshape(len(block), -1, 1) >> shifts & 1).tobytes()
    else:
        data = block.astype(block.dtype.newbyteorder(">" if layout.big_endian else "<")).tobytes()
    if layout.compression == 8:
        return zlib.compress(data)
    if layout.compression == 32_773:
        pieces = [data[start : start + 128] for start in range(0, len(data), 128)]
        return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
    return data


def file_of(pixels: bytes, tags: dict[int, tuple[str, list[int]]], order: str) -> bytes:
    """`pixels` at byte 8, then the directory, then what is too long for it."""
    entries, behind = b"", b""
    place = 8 + len(pixels) + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(data) > 4:
            data, behind = struct.pack(f"{order}I", place + len(behind)), behind + data
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        entries += data.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(pixels))
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + behind
