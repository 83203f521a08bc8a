"""What tells whether photos are still like those the model was measured on, and its answers too.

The handler counts each quantity by the deciles of a reference, the validation photos;
monitoring/drift_rules.yml compares the counts with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from handler.photo import SIDE

QUARTER = SIDE // 4


def quantities(pixels: np.ndarray, size: tuple[int, int], confidence: float) -> dict[str, float]:
    """Of one photo: uint8 (224, 224, 3), its width and height as sent, and its answer's confidence.

    confidence, 0.5 to 1 of two classes; brightness and contrast, the mean and the standard
    deviation of the levels of green, 0 to 1; sharpness, the root of the mean squared Laplacian in
    the middle of the photo (after Pech-Pacheco and others 2000), 0 to 4; aspect, width through
    height; megapixels.
    """
    # Green carries most of the brightness. Parts are enough, and take a tenth of the time.
    levels = pixels[::2, ::2, 1].astype(np.float32) / 255
    middle = pixels[QUARTER:-QUARTER, QUARTER:-QUARTER, 1].astype(np.float32) / 255
    around = middle[:-2, 1:-1] + middle[2:, 1:-1] + middle[1:-1, :-2] + middle[1:-1, 2:]
    width, height = size
    return {
        "confidence": confidence,
        "brightness": float(levels.mean()),
        "contrast": float(levels.std()),
        "sharpness": root_mean_square(around - 4 * middle[1:-1, 1:-1]),
        "aspect": width / height,
        "megapixels": width * height / 1e6,
    }


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def bin_of(value: float, edges: Sequence[float]) -> int:
    """The number of the bin, from 0 on; an edge belongs to the bin below it."""
    return bisect_left(edges, value)
