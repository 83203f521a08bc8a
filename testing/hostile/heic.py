"""HEIC: sizes, grids and items that lie."""

from __future__ import annotations

import struct

from testing.hostile.heif import (
    HEIC,
    Item,
    box,
    full_box,
    heic_item,
    heif,
    heif_grid,
    ispe,
    with_ispe,
)
from testing.hostile.made import HUGE, INVALID, PHOTO, TIME_BOMB, TOO_LARGE, Hostile


def files() -> Hostile:
    whole, cat = HEIC.read_bytes(), heic_item()
    for width, height in ((0, 0), (100, 100), (4_000, 4_000), (HUGE, HUGE)):
        answer = TOO_LARGE if width == HUGE else INVALID
        yield f"{width:,}x{height:,} declared", with_ispe(whole, width, height), answer
    no_text = whole.replace(b"application/rdf+xml", b"\xff" * 19)
    yield "metadata of a kind that is no text", no_text, INVALID
    yield "called any HEIF", whole.replace(b"ftypheic", b"ftypmif1"), PHOTO
    yield "called an AVIF", whole.replace(b"ftypheic", b"ftypavif"), INVALID
    yield "a grid", heif_grid(3, 2, 2 * 452, 3 * 300), PHOTO
    yield "a grid of 65,535x65,535", heif_grid(1, 1, 65_535, 65_535), TOO_LARGE
    size = [ispe(452, 300)]
    yield "its own source", heif({1: Item(b"iden", b"", size, [1])}, 1), INVALID
    chain = {1: cat} | {n: Item(b"iden", b"", size, [n - 1]) for n in range(2, 300)}
    yield "a picture through 300 items", heif(chain, 299), PHOTO
    canvas = Item(b"iovl", overlay(20_000, 20_000, 1), size, [1])
    yield "a canvas larger than declared", heif({1: cat, 2: canvas}, 2), TOO_LARGE
    for name, side in (("1x1", 1), ("nothing", 0)):
        clap = box(b"clap", struct.pack(">8I", side, 1, side, 1, 0, 1, 0, 1))
        yield f"cut to {name}", heif({1: cat.having(clap)}, 1), INVALID
    raw = Item(b"unci", b"", [ispe(4_000, 4_000), full_box(b"uncC", 1, b"rgb3")], [])
    yield "raw pixels", heif({1: raw}, 1), INVALID
    yield "900 pictures", heif(dict.fromkeys(range(1, 901), cat), 900), PHOTO
    yield "boxes in boxes", whole[:24] + nested_boxes(10_000), INVALID
    excess = heif_grid(30, 30, 452, 300)
    yield f"{TIME_BOMB}a grid of more than it shows", excess, PHOTO | TOO_LARGE
    layers, below = {1: cat, 2: cat}, [1, 2]
    for level in range(2, 20):  # each shows the two below twice
        pair = Item(b"iovl", overlay(452, 300, 2), size, below)
        below = [2 * level - 1, 2 * level]
        layers |= dict.fromkeys(below, pair)
    yield f"{TIME_BOMB}a picture half a million times", heif(layers, below[0]), TOO_LARGE


def overlay(width: int, height: int, count: int) -> bytes:
    return struct.pack(">BB4HHH", 0, 0, 0, 0, 0, 65_535, width, height) + bytes(4 * count)


def nested_boxes(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = box(b"meta", bytes(4), data)
    return data
