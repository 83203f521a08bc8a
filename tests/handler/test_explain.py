from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from handler.explain import COLOUR, LONG_SIDE, grad_cam, overlay
from handler.photo import SIDE, decode_photo
from testing.repository import CARD, REPOSITORY
from training.model import CautiousClassifier, load_classifier

CAT = decode_photo((REPOSITORY / "tests/pictures/cat.jpg").read_bytes())
NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def classifier() -> CautiousClassifier:
    """The released classifier."""
    return load_classifier(REPOSITORY / "models/catsdogs.pt", CARD)


@pytest.mark.parametrize("pixels", [CAT, NOISE, np.zeros_like(CAT)], ids=["cat", "noise", "black"])
def test_a_map_has_a_place_for_each_part_of_the_last_convolution(
    classifier: CautiousClassifier, pixels: np.ndarray
) -> None:
    heat = grad_cam(classifier, pixels, 0)
    assert heat.shape == (28, 28)
    assert heat.min() >= 0
    assert heat.max() in (0, 1)


def test_explaining_changes_nothing_in_the_classifier(classifier: CautiousClassifier) -> None:
    photo = torch.from_numpy(CAT)[None]
    before = classifier(photo)[0]
    first, second = grad_cam(classifier, CAT, 0), grad_cam(classifier, CAT, 0)
    assert (first == second).all()
    assert (classifier(photo)[0] == before).all()
    assert not classifier.network.bn4._forward_hooks


def test_either_class_has_its_own_map(classifier: CautiousClassifier) -> None:
    cat, dog = (grad_cam(classifier, CAT, number).ravel() for number in (0, 1))
    assert np.corrcoef(cat, dog)[0, 1] < 0.9


@pytest.mark.parametrize("deepest", ["fc1", "conv4", "conv3"])
def test_random_weights_change_the_map(classifier: CautiousClassifier, deepest: str) -> None:
    """The sanity check of Adebayo and others 2018, from the top down. Edges alone would fail it.

    Of two classes, random fc3 and fc2 can only turn the map into its opposite, so they don't count.
    """
    torch.manual_seed(0)
    spoiled = copy.deepcopy(classifier)
    layers = ["fc3", "fc2", "fc1", "bn4", "conv4", "bn3", "conv3"]
    for layer in layers[: layers.index(deepest) + 1]:
        getattr(spoiled.network, layer).reset_parameters()
    maps = grad_cam(classifier, CAT, 0), grad_cam(spoiled, CAT, 0)
    assert spearmanr(*maps, axis=None).statistic < 0.5


def without(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The photo with the mean colour at `places`, (28, 28)."""
    changed = pixels.copy()
    changed[places.repeat(8, axis=0).repeat(8, axis=1)] = pixels.mean((0, 1))
    return changed


def test_what_the_map_shows_counts_for_more_than_what_it_does_not(
    classifier: CautiousClassifier,
) -> None:
    heat = grad_cam(classifier, CAT, 0)
    low, high = np.quantile(heat, [0.2, 0.8])
    photos = np.stack([without(CAT, heat >= high), without(CAT, heat <= low)])
    without_high, without_low = classifier(torch.from_numpy(photos))[0][:, 0]
    assert without_high < without_low


@pytest.mark.parametrize("size", [(400, 300), (30, 60), (5000, 100), (16, 16)])
def test_an_overlay_has_the_photos_own_aspect(size: tuple[int, int]) -> None:
    picture = Image.open(io.BytesIO(overlay(CAT, np.zeros((28, 28), np.float32), size)))
    assert picture.format == "PNG"
    assert max(picture.size) == LONG_SIDE
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_an_overlay_is_coloured_where_the_map_is_high_alone() -> None:
    heat = np.zeros((28, 28), np.float32)
    heat[:, :14] = 1
    black = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(overlay(black, heat, (100, 100)))))
    assert (pixels[:, -100:] == 0).all()
    assert pixels[200, 100] == pytest.approx(np.multiply(COLOUR, 0.7), abs=2)
