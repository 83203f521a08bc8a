"""Features of photos and answers that show drift from the validation photos.

The handler counts each feature in bins: the deciles of the validation photos.
monitoring/drift_rules.yml compares the counts with these photos.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from handler.photo import SIDE

QUARTER = SIDE // 4


def drift_features(
    pixels: np.ndarray, size: tuple[int, int], confidence: float
) -> dict[str, float]:
    """Features of a photo, uint8 (224, 224, 3), with width and height as sent and its confidence.

    - confidence: 0.5 to 1 with two classes
    - brightness, contrast: mean and standard deviation of the green channel, 0 to 1
    - sharpness: root mean square of the Laplacian in the middle of the photo, 0 to 4 (after
      Pech-Pacheco and others 2000)
    - aspect: width divided by height
    - megapixels
    """
    # Green dominates brightness. A part of the pixels is enough, and takes a tenth of the time.
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
    """The number of the bin, from 0; an edge belongs to the bin below it."""
    return bisect_left(edges, value)
