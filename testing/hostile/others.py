"""Files that are no pictures, and truncated or overwritten good ones."""

from __future__ import annotations

import gzip
import random

from testing.hostile.good import good_pictures
from testing.hostile.made import INVALID, PHOTO, TOO_LARGE, UNSUPPORTED, Hostile, zip_file


def no_pictures() -> Hostile:
    png = good_pictures()["PNG"]
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' width='60000' height='60000'><script/></svg>"
    entity = b"\xef\xbb\xbf<?xml version='1.0'?>\n<!DOCTYPE svg [<!ENTITY a SYSTEM '/etc/passwd'>]>"
    yield "empty", b"", INVALID
    yield "NUL bytes", bytes(10**6), INVALID
    yield "noise", random.Random(2).randbytes(10**5), INVALID
    yield "text", b"not a picture\n" * 100, INVALID
    yield "HTML", b"<!doctype html><html><img src=x onerror=alert(1)></html>", INVALID
    yield "SVG", svg, UNSUPPORTED
    yield "SVG with an entity", entity + svg, UNSUPPORTED
    yield "PDF", b"%PDF-1.7\n1 0 obj\n<< >>\nendobj\n%%EOF", UNSUPPORTED
    yield "gzip", gzip.compress(png), INVALID
    yield "a gzip bomb", gzip.compress(bytes(10**7)), INVALID
    yield "ZIP", zip_file(), INVALID
    yield "MP4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(1_000), INVALID
    yield "ELF", b"\x7fELF" + bytes(1_000), INVALID
    yield "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60000 60000\n", INVALID


def good_and_broken() -> Hostile:
    for name, data in good_pictures().items():
        yield f"{name}, whole", data, PHOTO
        yield f"{name}, first half", data[: len(data) // 2], INVALID
        yield f"{name}, then NUL bytes", data[:16] + bytes(1_000), INVALID
        yield f"{name}, then 0xFF", data[:16] + b"\xff" * 1_000, INVALID | TOO_LARGE
