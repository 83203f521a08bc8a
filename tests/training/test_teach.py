from __future__ import annotations

import csv
import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import NO_TEACHER, ignore
from training.checkpoint import CHECKPOINT
from training.dataset import INDEX, UNKNOWN, Split
from training.files import UsageError, load_torch
from training.params import Params
from training.teach import (
    LABEL_ISSUES,
    Teacher,
    compiled_backbone,
    fit_head,
    load_teacher_stats,
    stratified_sample,
    teach,
    torch_backbone,
)
from training.train import train

pytestmark = pytest.mark.slow


def test_the_teacher_tells_the_made_photos_apart_and_its_scales_are_even(
    index: Path, teacher_stats: Path
) -> None:
    split = Split(index, "train")
    photos = split.pixel_batch(range(len(split))).float()
    maps, features, probabilities = Teacher(load_teacher_stats(teacher_stats, split))(photos)
    assert maps.shape == (len(split), 112, 14, 14)
    assert features.shape == (len(split), 1280)
    assert torch.allclose(probabilities.sum(1), torch.ones(len(split)))
    assert (probabilities.argmax(1) == torch.tensor(split.labels)).float().mean() > 0.95
    for scaled in (maps.transpose(0, 1).flatten(1), features.T):
        assert scaled.mean(1).abs().max() < 0.05
        spread = scaled.std(1)
        assert spread[spread > 0.01].sub(1).abs().max() < 0.1  # except values that are always 0


def test_openvino_and_pytorch_see_the_same(
    index: Path, teacher_stats: Path, device: torch.device
) -> None:
    """Outputs differ by less than a tenth, probabilities by less than 0.05. Both use bfloat16 if
    the hardware has it, which causes most of the difference."""
    split = Split(index, "train")
    photos = split.pixel_batch(range(16)).float()
    look = torch_backbone(device)  # also on the CPU
    by_pytorch = [tensor.cpu() for tensor in look(photos.to(device))]
    for seen, other in zip(compiled_backbone()(photos), by_pytorch, strict=True):
        assert (seen - other).norm() < 0.1 * seen.norm()
    teacher = Teacher(load_teacher_stats(teacher_stats, split))
    probabilities = teacher(photos).probabilities
    teacher.backbone = lambda photos: by_pytorch
    assert (teacher(photos).probabilities - probabilities).abs().max() < 0.05


def test_a_head_learns_from_so_many_photos_of_every_class_and_doubts_all(params: Params) -> None:
    random = np.random.default_rng(0)
    labels = np.array([0] * 500 + [1] * 300 + [2] * 5)
    features = random.normal(size=(len(labels), 1280)).astype(np.float32)
    for number in range(3):
        features[labels == number, number::3] += 0.5
    some = stratified_sample(np.arange(len(labels)), labels, 80)
    assert len(set(some.tolist())) == 80
    assert np.bincount(labels[some]).tolist() == pytest.approx([50, 30, 1], abs=1)
    few = dataclasses.replace(params.teach, head_photos=80)
    head, of_label = fit_head(features, labels, few)
    assert head["weight"].shape == (3, 1280)
    assert (of_label[:800] > 0.5).mean() > 0.9
    labels[:2] = 1, UNKNOWN
    assert fit_head(features, labels, few)[1][:2] == pytest.approx([0, 1], abs=0.5)
    labels[300:500] = UNKNOWN
    assert fit_head(features, labels, few)[0]["weight"].shape == (3, 1280)


def test_a_wrong_label_is_an_issue(index: Path, params: Params, tmp_path: Path) -> None:
    wrong = tmp_path / "index"
    shutil.copytree(index, wrong)
    victim = Split(index, "train").photos[0]
    assert victim.label == "cat"
    text = (wrong / INDEX).read_text()
    (wrong / INDEX).write_text(text.replace(f"{victim.path},cat", f"{victim.path},dog"))
    assert teach(wrong, tmp_path / "teacher", params.teach) >= 1
    with (tmp_path / "teacher" / LABEL_ISSUES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["path"], rows[0]["label"]) == (victim.path, "dog")


def test_a_run_learns_from_the_teacher_whose_stats_must_be_there_and_of_these_photos(
    index: Path, teacher_stats: Path, teacher_params: Params, tmp_path: Path
) -> None:
    params = dataclasses.replace(teacher_params.train, epochs=2)
    run = tmp_path / "run"
    train(index, run, params, teacher_stats=teacher_stats, tracker=nullcontext(ignore))
    first, last = load_torch(run / CHECKPOINT)["history"]
    assert last["total_loss"] < first["total_loss"]
    with pytest.raises(UsageError, match="training teach"):
        train(index, tmp_path / "b", params, teacher_stats=NO_TEACHER, tracker=nullcontext(ignore))
    other = tmp_path / "index"
    shutil.copytree(index, other)
    (other / INDEX).write_text((other / INDEX).read_text().replace(",train", ",test", 1))
    with pytest.raises(UsageError, match="of other photos"):
        train(
            other, tmp_path / "b", params, teacher_stats=teacher_stats, tracker=nullcontext(ignore)
        )
    assert not (tmp_path / "b").exists()
