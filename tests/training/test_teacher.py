from __future__ import annotations

import csv
import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.training.conftest import NO_LESSON, ignore
from training.checkpoint import CHECKPOINT
from training.dataset import INDEX, Split
from training.errors import UsageError
from training.files import load_torch
from training.params import Params
from training.teacher import DISPUTED, Teacher, load_lesson, teach
from training.train import train

pytestmark = pytest.mark.slow


def test_the_teacher_tells_the_made_photos_apart_and_its_scales_are_even(
    index: Path, lesson: Path
) -> None:
    split = Split(index, "train")
    photos = split.pixel_batch(range(len(split))).float()
    maps, features, probabilities = Teacher(load_lesson(lesson, split))(photos)
    assert maps.shape == (len(split), 112, 14, 14)
    assert features.shape == (len(split), 1280)
    assert torch.allclose(probabilities.sum(1), torch.ones(len(split)))
    assert (probabilities.argmax(1) == torch.tensor(split.labels)).float().mean() > 0.95
    for scaled in (maps.transpose(0, 1).flatten(1), features.T):
        assert scaled.mean(1).abs().max() < 0.05
        spread = scaled.std(1)
        assert spread[spread > 0.01].sub(1).abs().max() < 0.1  # but for what is always 0


def test_a_wrong_label_is_disputed(index: Path, params: Params, tmp_path: Path) -> None:
    wrong = tmp_path / "index"
    shutil.copytree(index, wrong)
    victim = Split(index, "train").photos[0]
    assert victim.label == "cat"
    text = (wrong / INDEX).read_text()
    (wrong / INDEX).write_text(text.replace(f"{victim.path},cat", f"{victim.path},dog"))
    assert teach(wrong, tmp_path / "lesson", params.teach) >= 1
    with (tmp_path / "lesson" / DISPUTED).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["path"], rows[0]["label"]) == (victim.path, "dog")


def test_a_taught_run_learns_the_lesson_and_a_missing_or_foreign_one_is_refused(
    index: Path, lesson: Path, taught_params: Params, tmp_path: Path
) -> None:
    params = dataclasses.replace(taught_params.train, epochs=2)
    run = tmp_path / "run"
    train(index, run, params, lesson=lesson, tracker=nullcontext(ignore))
    first, last = load_torch(run / CHECKPOINT)["history"]
    assert last["total_loss"] < first["total_loss"]
    with pytest.raises(UsageError, match="training teach"):
        train(index, tmp_path / "b", params, lesson=NO_LESSON, tracker=nullcontext(ignore))
    other = tmp_path / "index"
    shutil.copytree(index, other)
    (other / INDEX).write_text((other / INDEX).read_text().replace(",train", ",test", 1))
    with pytest.raises(UsageError, match="of other photos"):
        train(other, tmp_path / "b", params, lesson=lesson, tracker=nullcontext(ignore))
    assert not (tmp_path / "b").exists()
