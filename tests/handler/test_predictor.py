from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handler.integrity import sha256_of
from handler.photo import SIDE, decode_photo
from handler.predictor import PHOTOS_PER_PASS, Predictor, load
from testing.repository import REPOSITORY

CAT = decode_photo((REPOSITORY / "tests/pictures/cat.jpg").read_bytes())


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return load(weights.parent, version="3.1")


def described(weights: Path, folder: Path, **changes: object) -> Path:
    """A copy of the weights in `folder`, with changes to their JSON file."""
    (folder / "catsdogs.pt").write_bytes(weights.read_bytes())
    card = json.loads(weights.with_suffix(".json").read_text())
    (folder / "catsdogs.json").write_text(json.dumps(card | changes))
    return folder


def test_weights_other_than_described_are_not_loaded(weights: Path, tmp_path: Path) -> None:
    with (described(weights, tmp_path) / "catsdogs.pt").open("ab") as file:
        file.write(b"more")
    with pytest.raises(RuntimeError, match=r"catsdogs\.pt is missing or differs from"):
        load(tmp_path, version="1.0")


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # to int8
def test_weights_of_a_training_that_diverged_are_not_loaded(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights)
    torch.save(state | {"fc3.weight": state["fc3.weight"] * np.nan}, tmp_path / "catsdogs.pt")
    card = json.loads(weights.with_suffix(".json").read_text())
    card["sha256"] = sha256_of(tmp_path / "catsdogs.pt")
    (tmp_path / "catsdogs.json").write_text(json.dumps(card))
    with pytest.raises(RuntimeError, match=r"catsdogs\.pt: probabilities are NaN"):
        load(tmp_path, version="1.0")


def test_weights_of_another_input_size_are_not_loaded(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"is 192, but photos are decoded to {SIDE} x {SIDE}"):
        load(described(weights, tmp_path, input_size=192), version="1.0")


def test_each_number_of_photos_is_computed_once_before_the_first_request(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    infer = Predictor.infer

    def watched(predictor: Predictor, pixels: list[np.ndarray]) -> Any:
        seen.append([(photo.shape, photo.dtype) for photo in pixels])
        return infer(predictor, pixels)

    monkeypatch.setattr(Predictor, "infer", watched)
    load(weights.parent, version="1.0")
    photo = ((SIDE, SIDE, 3), np.uint8)
    assert seen == [[photo] * number for number in range(1, PHOTOS_PER_PASS + 1)]


def test_without_a_converted_graph_it_is_rounded_to_integers_on_the_spot(
    weights: Path, tmp_path: Path
) -> None:
    predictor = load(described(weights, tmp_path), version="1.0", options={"precision": "int8"})
    assert predictor.backend == "OpenVINO int8"
    whole = 4 * sum(weight.numel() for weight in predictor.classifier.parameters())  # in float32
    assert (tmp_path / "int8/graph.bin").stat().st_size < 0.3 * whole


def test_as_many_answers_come_as_photos_go_in(predictor: Predictor) -> None:
    for photos in (0, 1, PHOTOS_PER_PASS + 1):
        probabilities, scores = predictor.infer([CAT] * photos)
        assert probabilities.shape == (photos, 2)
        assert scores.shape == (photos,)
        assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_only_a_sure_answer_about_a_photo_in_distribution_is_certain(weights: Path) -> None:
    predictor = load(weights.parent, version="1.0")
    (probabilities,), (score,) = predictor.infer([CAT])
    sure = probabilities.max()
    certain = {}
    for threshold in (sure, np.nextafter(sure, np.float32(1))):
        for limit in (score, np.nextafter(score, np.float32(-1))):
            predictor.threshold, predictor.ood_limit = threshold, limit
            answer = predictor.prediction(probabilities, score)
            certain[threshold, limit] = answer["certain"]
    assert [case for case, is_certain in certain.items() if is_certain] == [(sure, score)]


def test_an_answer_names_the_version_that_is_given_or_the_cards(
    predictor: Predictor, weights: Path
) -> None:
    (probabilities,), (score,) = predictor.infer([CAT])
    answer = predictor.prediction(probabilities, score)
    assert answer["model_version"] == "3.1"
    assert answer["label"] in predictor.classes
    assert answer["confidence"] == max(answer["probabilities"].values())
    of_card = Predictor(weights, predictor.card, weights.parent).prediction(probabilities, score)
    assert of_card == answer | {"model_version": predictor.card["version"]}


def test_photos_are_answered_where_there_is_no_torchserve() -> None:
    code = "import sys; sys.modules['ts'] = None; import handler.predictor, training.predict"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
