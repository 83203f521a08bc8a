from __future__ import annotations

from pathlib import Path

import pytest

from testing.repository import CARD, REPOSITORY
from training.model_card import FIGURES, summary, write_model_card
from training.weights import read_card

# Of two runs on 13,087 photos from one source.
OLD = read_card(Path(__file__).with_name("catsdogs-1.1.json"))


def test_the_model_card_is_the_one_of_the_released_weights(tmp_path: Path) -> None:
    write_model_card(CARD, tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == (REPOSITORY / "docs/MODEL_CARD.md").read_text()


def test_the_readme_has_the_figures_of_the_released_weights() -> None:
    text = (REPOSITORY / "README.md").read_text()
    marked = text.split(f"<!-- {FIGURES} -->")[1].split(f"<!-- end of {FIGURES} -->")[0]
    assert marked.strip() == summary(CARD)


def test_of_other_photos_the_model_card_says_what_their_parameters_say(tmp_path: Path) -> None:
    data = {"about": "Photos of the zoo.", "limits": "By daylight."}
    params = {
        "data": data,
        "prepare": {"look_alike_distance": 9},
        "evaluate": {"certain_accuracy": 0.9, "in_distribution_share": 0.875},
    }
    training = OLD["training"] | {"machine": "8 cores without a GPU", "before": None}
    other = {"classes": ["fox", "hare", "wolf"], "params": params, "training": training}
    write_model_card(OLD | other, tmp_path / "card.md")
    text = " ".join((tmp_path / "card.md").read_text().split())
    for expected in (
        *data.values(),
        "at most 9 of 64",
        "an accuracy of 90 % on validation",
        "87.5 % of validation photos satisfy",
        "hours on 8 cores",
    ):
        assert expected in text
    assert not [word for word in ("Kaggle", "shelters", "2 cores", "`cat`") if word in text]


def test_a_run_of_a_version_that_did_not_tell_its_machine_has_a_card_too(tmp_path: Path) -> None:
    training = {name: value for name, value in OLD["training"].items() if name != "machine"}
    write_model_card(OLD | {"training": training | {"before": None}}, tmp_path / "card.md")
    assert "Training took 1.4 hours. The" in (tmp_path / "card.md").read_text()


def test_a_card_of_a_short_run_of_other_photos_from_weights_tells_what_was_done(
    tmp_path: Path,
) -> None:
    before = OLD["training"] | {"sha256": OLD["sha256"], "seconds": 60.0, "before": None}
    training = OLD["training"] | {
        **{"photos": 240, "photos_sha256": "0" * 64, "before": before, "seconds": 240.0},
        **{"finished_epochs": 3, "left_out": 0},
    }
    metrics = OLD["metrics"] | {"served": OLD["metrics"]["served"] | {"accuracy": 0.5}}
    metrics["test"] = OLD["metrics"]["test"] | {"accuracy": 0.5}
    other = {"classes": ["kitten", "puppy"], "training": training, "metrics": metrics}
    write_model_card(OLD | other, tmp_path / "card.md")
    text = " ".join((tmp_path / "card.md").read_text().split())
    for expected in (
        "1. 20 epochs on 13,087 photos of another set (cat, dog), the first 8 at 160 pixels",
        "2. 3 epochs on 240 photos, the first 3 at 160 pixels",
        "Training took 5 minutes on 2 cores",
        "Training includes photos with wrong labels.",
        "the accuracy is 50.00 % in both.",
        f"START=WEIGHTS`, with the weights of sha256 `{OLD['sha256'][:16]}…`",
    ):
        assert expected in text
    assert "mislabelled" not in text


def test_a_card_of_other_classes_lists_them_and_tells_where_its_weights_came_from(
    tmp_path: Path,
) -> None:
    before = OLD["training"] | {"sha256": OLD["sha256"], "version": "1.1"}
    classes = ["circles", "stars", "stripes"]
    training = OLD["training"] | {"before": before, "classes": classes}
    slices = {"dark": {"photos": 0}, "large": OLD["metrics"]["test"]}
    metrics = OLD["metrics"] | {"slices": slices}
    other = {"classes": classes, "training": training, "metrics": metrics}
    write_model_card(OLD | other, tmp_path / "card.md")
    text = " ".join((tmp_path / "card.md").read_text().split())
    assert "fine-tuned from the weights of version 1.1 (sha256 `cf6b3e5708ea7d5a…`). It" in text
    assert "It distinguishes circles, stars and stripes." in text
    assert "every picture circles, stars or stripes, whatever" in text
    assert "the folders `circles`, `stars` and `stripes` of" in text
    assert "| large |" in text
    assert not [words for words in ("trained from", "| dark |", " pet ") if words in text]


def test_the_card_says_how_many_photos_an_epoch_draws_and_of_how_many(tmp_path: Path) -> None:
    drawn = OLD["training"]["params"] | {"epochs": 90, "epoch_photos": 5000}
    training = OLD["training"] | {"before": None, "params": drawn}
    write_model_card(OLD | {"training": training}, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert "1. 90 epochs of 5,000 photos drawn from 13,087, the first 8 at 160 pixels, w" in text
    training["params"] = drawn | {"epoch_photos": 20_000}
    write_model_card(OLD | {"training": training}, tmp_path / "card.md")
    assert "1. 90 epochs on 13,087 photos, the" in (tmp_path / "card.md").read_text()


@pytest.mark.parametrize(
    ("version", "named"),
    [
        ({"version": "1.1"}, "the weights of version 1.1 (sha256 `cf6b3e5708ea7d5a…`)"),
        ({}, "the weights with sha256 `cf6b3e5708ea7d5a…`"),
    ],
)
def test_the_card_names_the_weights_that_a_run_started_from(
    tmp_path: Path, version: dict[str, str], named: str
) -> None:
    before = OLD["training"] | {"sha256": OLD["sha256"]} | version
    params = OLD["training"]["params"] | {"epoch_photos": 100}
    training = OLD["training"] | {"before": before, "params": params, "photos_sha256": "0" * 64}
    write_model_card(OLD | {"training": training}, tmp_path / "card.md")
    lines = (tmp_path / "card.md").read_text().splitlines()
    (first, second, last) = (line for line in lines if line[:3] in ("1. ", "2. ", "3. "))
    assert "started from" not in first + second
    assert "of 100 photos drawn from 13,087, " in last
    assert f"at 160 pixels, started from {named}, weights averaged" in last


def test_the_card_names_the_teacher_of_each_run(tmp_path: Path) -> None:
    params = OLD["training"]["params"] | {"epoch_photos": 0}
    training = OLD["training"] | {"before": OLD["training"], "params": params}
    write_model_card(OLD | {"training": training}, tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert [name for name in ("Lite0", "Lite1") if text.count(f"EfficientNet-{name}") >= 1] == [
        "Lite0",
        "Lite1",
    ]
