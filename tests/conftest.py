"""Generated pictures and small parameters, shared by all tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from handler.photo import SIDE
from testing.repository import REPOSITORY
from tests.made_photos import made_photo
from training.model import SimpleCNN, half_precision
from training.params import Params, load_params

# Deadlines would fail on a busy machine.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Of untrained weights, whose activations shrink from layer to layer.
RANGES = {
    "conv1": [-2.2, 2.7], "conv2": [0, 2], "conv3": [0, 1], "conv4": [0, 1], "fc1": [0, 1],
    "fc2": [0, 1], "fc3": [0, 1],
}  # fmt: skip


def pytest_configure() -> None:
    """Ctrl-C ends child processes, even if the shell that started pytest with `&` ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test without this Debian package, unless CATSDOGS_REQUIRE forbids it."""
    missing = shutil.which(program) is None and not os.environ.get("CATSDOGS_REQUIRE")
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 40 generated photos per class."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(40):
            made_photo(label, number).save(folder / label / f"{number}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def params() -> Params:
    """The repository's parameters, changed for a short training without a teacher."""
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
    """Untrained weights and their JSON file, as a release writes them."""
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
        "ood_score": {"means": [0.0] * 256, "deviations": [1.0] * 256, "limit": 1e6},
        "activation_ranges": RANGES,
        "reference": {
            "photos": 100,
            "class_shares": {"cat": 0.5, "dog": 0.5},
            "confidence_means": [0.52, 0.6, 0.9],
            "drift_features": {
                "confidence": {"edges": [0.55, 0.7], "shares": [0.5, 0.3, 0.2]},
                "brightness": {"edges": [0.5], "shares": [0.5, 0.5]},
            },
        },
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "metrics": {},
        "training": {},
        "params": {},
    }
    path.with_suffix(".json").write_text(json.dumps(card))
    return path
