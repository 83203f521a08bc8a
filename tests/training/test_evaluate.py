from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from handler.photo import decode_photo
from training import teach
from training.checkpoint import BEST, CARD, RUN_FILE
from training.dataset import Split
from training.evaluate import (
    METRICS,
    calibrate,
    counted,
    evaluate,
    format_metrics,
    guessing_warning,
)
from training.files import UsageError
from training.inference import Outputs
from training.measure import not_pets, slices, squashed
from training.metrics import classification_metrics
from training.model import SimpleCNN
from training.params import Params
from training.prepare import prepare
from training.weights import check_weights


@pytest.mark.slow
def test_evaluation_calibrates_on_validation_and_measures_on_test(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    card = evaluate(index, copy, params)
    measured = card["metrics"]
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
    drawn = dataclasses.replace(params.train, epoch_photos=16)  # which assumed all 64 in each epoch
    assert counted(earlier, index, drawn)["seconds"] == pytest.approx(about["seconds"] / 4)
    others = earlier | {"photos": 63}  # when another list of photos was excluded
    assert counted(others, index, params.train) == others


class FewAtOnce:
    """Decoded photos, of which only a limited number may be read at a time."""

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
    assert evaluate(index, copy, params)["metrics"]["test"]["photos"] == 24 > most
    monkeypatch.setattr(teach, "BATCH", most)
    teach.teach(index, tmp_path / "teacher", params.teach)


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
        logits = F.one_hot(answers).float()
        return classification_metrics(logits, labels, ["kitten", "puppy"], nobody)

    warning = guessing_warning(measured(14))
    assert warning is not None
    assert warning.startswith(
        "no better than guessing: `kitten` for each photo has an accuracy of 50.0%"
    )
    assert guessing_warning(measured(4)) is None
    # 26 of 30 are not significantly more than 24, the photos of one class.
    assert guessing_warning(measured(4, torch.tensor([0] * 24 + [1] * 6))) is not None
    assert "0.5333 on 30 test photos, 95 % CI 0.3614 to 0.6977" in format_metrics(measured(14))


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


def test_the_threshold_keeps_its_accuracy_on_foreign_photos_too(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.reference", lambda *given: {})
    random = np.random.default_rng(0)
    foreign = np.arange(4000) < 1000
    margin = torch.from_numpy(random.uniform(0, 5, len(foreign))).float()
    wrong = random.random(len(foreign)) < np.where(foreign, 0.3, 0.1) / (1 + margin.numpy() ** 3)
    outputs = Outputs(
        averages=torch.from_numpy(random.normal(size=(len(foreign), 256))).float(),
        logits=torch.stack([margin, torch.zeros(len(foreign))], dim=1),
        labels=torch.from_numpy(wrong.astype(int)),
    )

    def calibrated(foreign: np.ndarray) -> tuple[float, np.ndarray]:
        split = SimpleNamespace(foreign=foreign, half_and_half=lambda: np.arange(len(foreign)))
        card = calibrate(cast(Split, split), outputs, params.evaluate)
        probability = (outputs.logits / card["temperature"]).softmax(1).max(1).values.numpy()
        return card["threshold"], probability >= card["threshold"]

    lower, _ = calibrated(np.zeros_like(foreign))  # as if all were of one kind
    higher, certain = calibrated(foreign)
    assert higher > lower
    for kind in (foreign, ~foreign):
        assert 1 - wrong[kind & certain].mean() >= params.evaluate.certain_accuracy - 0.002


def test_pictures_of_no_pet_are_seen_as_the_handler_sees_them() -> None:
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 150, 3), np.uint8))
    file = io.BytesIO()
    wide.save(file, "PNG")
    assert np.array_equal(squashed(wide), decode_photo(file.getvalue()))
