"""A prepared index and finished runs of made photos."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from training.data import prepare
from training.hardware import choose_device
from training.params import Params
from training.teacher import teach
from training.train import train

NO_LESSON = Path("nowhere")  # of runs without a teacher
THREADS = 2  # of torch in `run`; a handler in the same process sets one, which adds up otherwise


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that must give the same; a GPU is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    return choose_device(request.param)


def ignore(row: dict[str, float]) -> None:
    """A log that keeps nothing."""


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
    train(index, folder, params.train, lesson=NO_LESSON, tracker=nullcontext(ignore))
    return folder


@pytest.fixture(scope="session")
def lesson(index: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the teacher says of the made photos."""
    folder = tmp_path_factory.mktemp("taught") / "lesson"
    teach(index, folder, params.teach)
    return folder


@pytest.fixture(scope="session")
def taught_params(params: Params) -> Params:
    """One epoch with a teacher."""
    taught = {"epochs": 1, "teacher_labels": 0.5, "teacher_maps": 10.0, "teacher_features": 3.0}
    return dataclasses.replace(params, train=dataclasses.replace(params.train, **taught))
