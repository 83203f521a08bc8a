from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training import teacher
from training.checkpoint import BEST, CARD, RUN_FILE
from training.data import prepare
from training.dataset import Split
from training.errors import UsageError
from training.evaluate import METRICS, counted, doubt, evaluate, format_figures
from training.figures import figures
from training.measure import slices
from training.model import SimpleCNN
from training.not_pets import not_pets
from training.params import Params
from training.weights import check_weights


@pytest.mark.slow
def test_evaluation_calibrates_on_validation_and_measures_on_test(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    card = evaluate(index, copy, params)
    measured = card["figures"]
    assert measured["test"]["photos"] == sum(map(sum, measured["test"]["confusion"])) == 8
    right = sum(measured["test"]["confusion"][n][n] for n in range(2))
    assert measured["test"]["accuracy"] == pytest.approx(right / 8)
    assert measured["served"]["same_label"] == 1
    assert measured["served"]["largest_difference"] < 0.1  # int8
    assert card["params"]["data"]["about"] == params.data.about
    assert measured["half_precision"]["largest_difference"] < 0.01
    assert measured["not_a_pet"]["all"]["pictures"] >= 200
    assert check_weights(copy / BEST) == json.loads((copy / CARD).read_text()) == card
    chief = json.loads((copy / METRICS).read_text())
    assert chief["test"]["accuracy"] == measured["test"]["accuracy"]
    for plot in ("confusion.png", "reliability.png"):
        assert (copy / plot).read_bytes().startswith(b"\x89PNG")


def test_sources_of_an_earlier_versions_run_are_counted_when_it_is_evaluated(
    run: Path, index: Path, params: Params
) -> None:
    about = json.loads((run / RUN_FILE).read_text())
    assert counted(about, index, params.train) == about
    earlier = {name: value for name, value in about.items() if name != "sources"}
    assert counted(earlier, index, params.train) == about
    drawn = dataclasses.replace(
        params.train, epoch_photos=16
    )  # which took all 64 to be in each epoch
    assert counted(earlier, index, drawn)["seconds"] == pytest.approx(about["seconds"] / 4)
    others = earlier | {"photos": 63}  # when another list of photos was excluded
    assert counted(others, index, params.train) == others


class FewAtOnce:
    """Decoded photos of which nobody may take more than so many at one time."""

    def __init__(self, pixels: np.ndarray, most: int) -> None:
        self.pixels, self.most = pixels, most

    def __getitem__(self, rows: int | list[int]) -> np.ndarray:
        assert np.size(rows) <= self.most
        return self.pixels[rows]


@pytest.mark.slow
def test_evaluate_and_teach_hold_few_photos_at_a_time(
    photos: Path, run: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, copy, most = tmp_path / "index", tmp_path / "run", params.train.batch_size
    prepare([photos], index, dataclasses.replace(params.prepare, test_share=0.3))
    shutil.copytree(run, copy)
    about = json.loads((copy / RUN_FILE).read_text())
    about["photos_sha256"] = Split(index, "test").photos_sha256
    (copy / RUN_FILE).write_text(json.dumps(about))
    opened = Split.__init__

    def guarded(split: Split, *arguments: Any) -> None:
        opened(split, *arguments)
        split.pixels = FewAtOnce(split.pixels, most)

    monkeypatch.setattr(Split, "__init__", guarded)
    monkeypatch.setattr(Split.batches, "__defaults__", (most,))
    assert evaluate(index, copy, params)["figures"]["test"]["photos"] == 24 > most
    monkeypatch.setattr(teacher, "BATCH", most)
    teacher.teach(index, tmp_path / "lesson", params.teach)


def test_evaluation_needs_a_run_that_was_trained_on_the_index(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="train first"):
        evaluate(index, tmp_path, params)
    torch.save(SimpleCNN(2).state_dict(), tmp_path / BEST)
    about = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(about | {"photos_sha256": "another"}))
    with pytest.raises(UsageError, match="was trained on other photos"):
        evaluate(index, tmp_path, params)
    (tmp_path / "run.json").write_text(json.dumps(about | {"params": {"epoch": 1}}))
    with pytest.raises(UsageError, match="of another version"):
        evaluate(index, tmp_path, params)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run\.json: needs best"):
        evaluate(index, tmp_path, params)


def test_a_model_that_may_as_well_guess_is_doubted() -> None:
    labels = torch.tensor([0] * 15 + [1] * 15)

    def measured(wrong: int, labels: torch.Tensor = labels) -> dict[str, object]:
        answers = labels.clone()
        answers[:wrong] = 1 - answers[:wrong]
        nobody = np.zeros(len(labels), dtype=bool)
        return figures(F.one_hot(answers).float(), labels, ["kitten", "puppy"], nobody)

    told = doubt(measured(14))
    assert told is not None
    assert told.startswith("no better than guessing: `kitten` for each photo is right in 50.0%")
    assert doubt(measured(4)) is None
    # 26 of 30 right are few where one class has 24 of them.
    assert doubt(measured(4, torch.tensor([0] * 24 + [1] * 6))) is not None
    assert "0.5333 on 30 test photos, 95 % interval 0.3614 to 0.6977" in format_figures(
        measured(14)
    )


def test_slices_hold_the_photos_that_their_names_tell(index: Path) -> None:
    found = slices(Split(index, "train"))
    # All made photos are square, coloured and 96 pixels wide.
    assert {name: bool(mask.all()) for name, mask in found.items() if mask.any()} == {
        "short side under 100 pixels": True
    }


def test_pictures_of_no_pet_are_many_and_always_the_same() -> None:
    pictures = list(not_pets())
    assert len(pictures) >= 200
    assert all(p.shape == (224, 224, 3) and p.dtype == np.uint8 for _, p in pictures)
    again = list(not_pets())
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(pictures, again, strict=True))
