"""Made pictures and tiny parameters, shared by all tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from handler.photo import SIDE
from tests.made_photos import made_photo
from training.model import SimpleCNN, half_precision
from training.params import Params, load_params

# A machine that is busy is no fault of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

REPOSITORY = Path(__file__).parent.parent
# Of the released weights.
CARD = json.loads((REPOSITORY / "models/catsdogs.json").read_text())
VERSION, CLASSES = CARD["version"], CARD["classes"]
# Of untrained weights, whose activations shrink from layer to layer.
RANGES = {
    "conv1": [-2.2, 2.7], "conv2": [0, 2], "conv3": [0, 1], "conv4": [0, 1], "fc1": [0, 1],
    "fc2": [0, 1], "fc3": [0, 1],
}  # fmt: skip


def pytest_configure() -> None:
    """Ctrl-C ends what tests start, too where a shell that runs pytest by `&` ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def needs(program: str) -> pytest.MarkDecorator:
    """Skips a test where a Debian package is not installed, but where CATSDOGS_REQUIRE says not."""
    missing = shutil.which(program) is None and not os.environ.get("CATSDOGS_REQUIRE")
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 40 made photos of each class."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(40):
            made_photo(label, number).save(folder / label / f"{number}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def params() -> Params:
    """The repository's own parameters, but for a short training without a teacher."""
    params = load_params(REPOSITORY / "params.yaml")
    train = dataclasses.replace(
        params.train,
        excluded="",
        epochs=3,
        small_epochs=1,
        batch_size=8,
        mixup=0.2,
        teacher_labels=0.0,
        teacher_maps=0.0,
        teacher_features=0.0,
    )
    return dataclasses.replace(params, train=train)


@pytest.fixture(scope="session")
def weights(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights and the JSON file beside them, as a release writes them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "catsdogs.pt"
    torch.save(half_precision(SimpleCNN().state_dict()), path)
    card = {
        "version": "1.0",
        "classes": ["cat", "dog"],
        "input_size": SIDE,
        "mean": params.train.mean,
        "std": params.train.std,
        "temperature": 1.5,
        "threshold": 0.9,
        "strangeness": {"means": [0.0] * 256, "deviations": [1.0] * 256, "limit": 1e6},
        "activation_ranges": RANGES,
        "reference": {
            "photos": 100,
            "class_shares": {"cat": 0.5, "dog": 0.5},
            "confidence_means": [0.52, 0.6, 0.9],
            "quantities": {
                "confidence": {"edges": [0.55, 0.7], "shares": [0.5, 0.3, 0.2]},
                "brightness": {"edges": [0.5], "shares": [0.5, 0.5]},
            },
        },
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "figures": {},
        "training": {},
        "params": {},
    }
    path.with_suffix(".json").write_text(json.dumps(card))
    return path
