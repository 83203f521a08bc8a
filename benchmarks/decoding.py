"""Latency from the bytes of a photo to the model's pixels, for our decoder and others.

.venv-peers/bin/python -m benchmarks.decoding    # writes decoding.json beside it and the table in
                                                 # docs/benchmarks.md
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import command_line
from benchmarks.machine import processor
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, large_photo
from handler.photo import SIDE, decode_photo, middle_of, resized
from training.files import write_json
from training.markdown import table, write_between_marks

RESULT = Path(__file__).with_suffix(".json")
MARK = "decoding, written by `python -m benchmarks.decoding`"
REPEATS = 9


def without_draft(data: bytes) -> np.ndarray:
    return np.array(resized(Image.open(io.BytesIO(data)).convert("RGB")))


def by_simplejpeg(data: bytes) -> np.ndarray:
    import simplejpeg  # only needed to measure, not to report

    pixels = simplejpeg.decode_jpeg(data, min_height=2 * SIDE, min_width=2 * SIDE, min_factor=1)
    return np.array(resized(Image.fromarray(pixels)))


def by_torchvision(data: bytes) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_jpeg

    pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    left, top, right, bottom = map(round, middle_of((pixels.shape[2], pixels.shape[1])))
    seen = pixels[None, :, top:bottom, left:right].float()
    small = F.interpolate(seen, (SIDE, SIDE), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().byte().numpy()


DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "ours (Pillow, draft)": decode_photo,
    "Pillow without draft": without_draft,
    "simplejpeg": by_simplejpeg,
    "torchvision": by_torchvision,
}


def main() -> None:
    command_line.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, data in photos().items():
        asked = list(DECODERS.items())[: None if "JPEG" in name else 1]
        decoders = {decoder: measure(data, decode) for decoder, decode in asked}
        rows[name] = {"megabytes": round(len(data) / 1e6, 2), "decoders": decoders}
    result = {"machine": processor(), "repeats": REPEATS, "photos": rows}
    write_json(RESULT, result)
    print(report(result))
    write_between_marks(DOCUMENT, MARK, report(result))


def report(result: dict[str, Any]) -> str:
    photos = result["photos"]
    names = list(next(iter(photos.values()))["decoders"])
    rows = [
        [photo, f"{row['megabytes']:.2f}", *(cell(row["decoders"].get(name)) for name in names)]
        for photo, row in photos.items()
    ]
    note = (
        f"Minimum of {result['repeats']} runs on one of {result['machine']}. Brackets show the "
        "mean distance from our pixels (0 to 255)."
    )
    return f"{note}\n\n{table(['photo', 'MB', *names], rows)}"


def cell(figures: dict[str, float] | None) -> str:
    if figures is None:
        return ""
    distance = f" ({figures['distance']:.1f})" if "distance" in figures else ""
    return f"{figures['milliseconds']:.1f} ms{distance}"


def measure(data: bytes, decode: Callable[[bytes], np.ndarray]) -> dict[str, float]:
    """Milliseconds, and the mean absolute difference from our pixels (0 to 255)."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        pixels = decode(data)
        seconds.append(time.perf_counter() - started)
    figures = {"milliseconds": round(1e3 * min(seconds), 1)}
    if decode is not decode_photo:
        distance = np.abs(pixels.astype(float) - decode_photo(data)).mean()
        figures["distance"] = round(float(distance), 1)
    return figures


def photos() -> dict[str, bytes]:
    """A small photo, and photos of a phone's size."""
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
    command_line.run(main)
