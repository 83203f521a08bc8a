"""Milliseconds from the bytes of a photo to the model's pixels: ours, and with other decoders.

.venv-peers/bin/python -m benchmarks.decoding    # writes the table in docs/benchmarks.md
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from benchmarks.machine import processor
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, large_photo
from handler.photo import SIDE, decode_photo
from training.markdown import table, write_between_marks

MARK = "decoding, written by `python -m benchmarks.decoding`"
REPEATS = 9


def resized(photo: Image.Image) -> np.ndarray:
    return np.array(photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0))


def without_draft(data: bytes) -> np.ndarray:
    return resized(Image.open(io.BytesIO(data)).convert("RGB"))


def by_simplejpeg(data: bytes) -> np.ndarray:
    pixels = simplejpeg.decode_jpeg(data, min_height=2 * SIDE, min_width=2 * SIDE, min_factor=1)
    return resized(Image.fromarray(pixels))


def by_torchvision(data: bytes) -> np.ndarray:
    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    small = F.interpolate(pixels[None].float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().byte().numpy()


DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "ours (Pillow, draft)": decode_photo,
    "Pillow without draft": without_draft,
    "simplejpeg": by_simplejpeg,
    "torchvision": by_torchvision,
}


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for name, data in photos().items():
        cells = [cell(data, decode) if "JPEG" in name else "" for decode in DECODERS.values()]
        if "JPEG" not in name:
            cells[0] = cell(data, decode_photo)
        rows.append([name, f"{len(data) / 1e6:.2f}", *cells])
    text = table(["photo", "MB", *DECODERS], rows)
    print(text)
    note = (
        f"Least of {REPEATS} on one core of {processor()}; in brackets the mean distance from ours."
    )
    write_between_marks(DOCUMENT, MARK, f"{note}\n\n{text}")


def cell(data: bytes, decode: Callable[[bytes], np.ndarray]) -> str:
    """Milliseconds, and how far the pixels are from ours on average, of 255."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        pixels = decode(data)
        seconds.append(time.perf_counter() - started)
    difference = np.abs(pixels.astype(float) - decode_photo(data)).mean()
    distance = "" if decode is decode_photo else f" ({difference:.1f})"
    return f"{1e3 * min(seconds):.1f} ms{distance}"


def photos() -> dict[str, bytes]:
    """Small and as from a phone."""
    with tempfile.TemporaryDirectory() as folder:
        large = large_photo(PHOTO, Path(folder) / "large.jpg").read_bytes()
    whole = Image.open(io.BytesIO(large))
    found = {"451 x 300 JPEG": PHOTO.read_bytes(), "4000 x 3000 JPEG": large}
    for kind in ("PNG", "WebP"):
        buffer = io.BytesIO()
        whole.save(buffer, kind, quality=90) if kind == "WebP" else whole.save(buffer, kind)
        found[f"4000 x 3000 {kind}"] = buffer.getvalue()
    return found


if __name__ == "__main__":
    main()
