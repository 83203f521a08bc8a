"""AVIF and HEIC from boxes and items of any kind."""

from __future__ import annotations

import struct
from typing import NamedTuple

from testing.repository import REPOSITORY

HEIC = REPOSITORY / "tests/pictures/cat.heic"


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
    """An item of an AVIF or HEIC.

    `sources` are the items that it is put together from, or that it describes if it is EXIF data.
    """

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
            kind = b"cdsc" if item.kind == b"Exif" else b"dimg"
            references += box(kind, struct.pack(f">HH{count}H", number, count, *item.sources))
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


def heif_grid(rows: int, columns: int, width: int, height: int) -> bytes:
    """A HEIC of `rows` times `columns` times the same picture of 452x300."""
    return grid_of(heic_item(), rows, columns, width, height, b"heic")


def avif_grid(avif: bytes, rows: int, columns: int, width: int, height: int) -> bytes:
    """An AVIF of `rows` times `columns` times the same picture."""
    properties = [
        box(kind, content_of(avif, b"ipco", kind)) for kind in (b"ispe", b"av1C", b"pixi")
    ]
    item = Item(b"av01", content_of(avif, b"mdat"), properties, [])
    return grid_of(item, rows, columns, width, height, b"avif")


def grid_of(item: Item, rows: int, columns: int, width: int, height: int, brand: bytes) -> bytes:
    tiles = dict.fromkeys(range(2, rows * columns + 2), item)
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    shared = [p for p in item.properties if p[4:8] == b"pixi"]
    grid = Item(b"grid", layout, [ispe(width, height), *shared], list(tiles))
    return heif({1: grid, **tiles}, 1, brand)


def heic_item() -> Item:
    data = HEIC.read_bytes()
    start, _, offset, length = struct.unpack(">IHII", content_of(data, b"iloc")[12:26])
    stream = data[start + offset : start + offset + length]
    return Item(b"hvc1", stream, [box(b"hvcC", content_of(data, b"hvcC")), ispe(452, 300)], [])


def content_of(data: bytes, *path: bytes) -> bytes:
    """The content of a box in boxes."""
    for kind in path:
        start = data.index(kind)
        data = data[start + 4 : start - 4 + int.from_bytes(data[start - 4 : start], "big")]
    return data
