"""EXIF that lies, for every format that carries it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from testing.hostile.made import HUGE


def hostile_exif() -> Iterator[tuple[str, bytes]]:
    entry = struct.pack("<HHII", 0x0112, 3, 1, 1)
    yield "EXIF that follows itself", b"II*\0\x08\0\0\0\1\0" + entry + struct.pack("<I", 8)
    yield "EXIF of 65,535 tags", b"II*\0\x08\0\0\0\xff\xff" + entry * 4_000
    yield "EXIF of 4 GB", b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 4, HUGE, 8)
    yield "EXIF elsewhere", b"MM\0*\xff\xff\xff\xff"
    yield (
        "EXIF with orientation 200",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 3, 1, 200),
    )
    yield (
        "EXIF with orientation 1/0",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 5, 1, 26) + bytes(12),
    )
    yield (
        "EXIF with orientation as text",
        b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0x0112, 2, 3, 0x3636),
    )
    dots = struct.pack("<HHII", 0x011A, 1, 1, 72) + struct.pack("<HHII", 0x0128, 3, 1, 2)
    yield "EXIF with a resolution of one byte", b"II*\0\x08\0\0\0\2\0" + dots + bytes(4)
    yield "EXIF of noise", random.Random(4).randbytes(5_000)
    yield "EXIF without anything", b""
