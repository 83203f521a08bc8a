"""A prepared index and finished runs on generated photos."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from training.devices import choose_device
from training.params import Params
from training.prepare import prepare
from training.teach import teach
from training.train import train

NO_TEACHER = Path("nowhere")  # for runs without a teacher
THREADS = 2  # of torch in `run`; a handler in the same process sets one, which adds up otherwise


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device, for tests of equal results; a GPU is skipped if there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return choose_device(request.param)


def ignore(row: dict[str, float]) -> None:
    """A log that discards everything."""


@pytest.fixture(scope="session")
def index(photos: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "index"
    prepare([photos], folder, params.prepare)
    return folder


@pytest.fixture(scope="session")
def run(index: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    torch.set_num_threads(THREADS)
    train(index, folder, params.train, teacher_stats=NO_TEACHER, tracker=nullcontext(ignore))
    return folder


@pytest.fixture(scope="session")
def teacher_stats(index: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `teach` for the generated photos."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    teach(index, folder, params.teach)
    return folder


@pytest.fixture(scope="session")
def teacher_params(params: Params) -> Params:
    """One epoch with a teacher."""
    weights = {"teacher_labels": 0.5, "teacher_maps": 10.0, "teacher_features": 3.0}
    train = dataclasses.replace(params.train, epochs=1, **weights)
    return dataclasses.replace(params, train=train)
