from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from handler.drift_features import bin_of, drift_features
from handler.photo import SIDE

NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def of(pixels: np.ndarray) -> dict[str, float]:
    return drift_features(pixels, (400, 300), 0.9)


def plain(level: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def test_a_plain_picture_has_its_level_no_contrast_and_no_sharpness() -> None:
    assert of(plain(255)) == {
        "confidence": 0.9, "brightness": 1, "contrast": 0, "sharpness": 0,
        "aspect": pytest.approx(4 / 3), "megapixels": 0.12,
    }  # fmt: skip
    assert of(plain(51))["brightness"] == pytest.approx(0.2)


def test_half_black_half_white_has_the_highest_contrast() -> None:
    pixels = plain(0)
    pixels[: SIDE // 2] = 255
    assert of(pixels)["contrast"] == pytest.approx(0.5)


def test_darkening_lowers_brightness_and_contrast_in_proportion() -> None:
    whole, half = of(NOISE // 2 * 2), of(NOISE // 2)
    assert half["brightness"] == pytest.approx(whole["brightness"] / 2, rel=1e-3)
    assert half["contrast"] == pytest.approx(whole["contrast"] / 2, rel=1e-3)


def test_blurring_lowers_sharpness() -> None:
    photo, values = Image.fromarray(NOISE), []
    for radius in (0, 1, 2, 4):
        blurred = photo.filter(ImageFilter.GaussianBlur(radius))
        values.append(of(np.asarray(blurred))["sharpness"])
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 4


edges = st.lists(st.floats(-10, 10), max_size=9, unique=True).map(sorted)


@given(edges, st.floats(-20, 20))
def test_a_value_lies_above_the_edges_below_its_bin(edges: list[float], value: float) -> None:
    number = bin_of(value, edges)
    assert 0 <= number <= len(edges)
    assert all(edge < value for edge in edges[:number])
    assert all(value <= edge for edge in edges[number:])
