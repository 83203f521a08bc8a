from __future__ import annotations

import json
import shutil
from dataclasses import astuple
from pathlib import Path

import pytest
import yaml

from testing.repository import CARD, REPOSITORY, VERSION
from training.checkpoint import BEST
from training.checkpoint import CARD as CARD_FILE
from training.dataset import FOREIGN
from training.files import UsageError
from training.release import Homes, next_version, publish, write_app_version


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    """README, chart and the JSON file of the released weights, copied; the rest is missing."""
    names = ("models/catsdogs.json", "README.md", "helm/catsdogs/Chart.yaml")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    (tmp_path / "monitoring").mkdir()
    return Homes(
        weights=tmp_path / "models/catsdogs.pt",
        model_card=tmp_path / "docs/MODEL_CARD.md",
        readme=tmp_path / "README.md",
        rules=tmp_path / "monitoring/drift_rules.yml",
        chart=tmp_path / "helm/catsdogs/Chart.yaml",
    )


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A run with the released weights and an accuracy of 53 %."""
    run = tmp_path / "run"
    run.mkdir()
    (run / BEST).symlink_to(REPOSITORY / "models/catsdogs.pt")
    test = CARD["metrics"]["test"] | {"photos": 30, "accuracy": 0.53}
    test |= {"accuracy_interval": [0.36, 0.7]}
    metrics = CARD["metrics"] | {"test": test}
    (run / CARD_FILE).write_text(json.dumps(CARD | {"metrics": metrics}))
    return run


def test_a_release_tells_what_it_wrote_what_changed_and_the_way_back(
    evaluated: Path, homes: Homes
) -> None:
    output = publish(evaluated, homes, None).splitlines()
    version = next_version(REPOSITORY / "models/catsdogs.json")
    assert output[0] == f"{homes.weights}: version {version}"
    files = output[1].removeprefix("written: ")
    assert set(files.split()) == {
        *map(str, astuple(homes)),
        str(homes.weights.with_suffix(".json")),
    }
    assert output[2].startswith("accuracy 53.0 % (36.0–70.0) on 30 test photos; before: accuracy 9")
    assert output[3:] == [f"to undo: git checkout {files}"]
    assert version in homes.readme.read_text()
    assert yaml.safe_load(homes.chart.read_text())["appVersion"] == version


@pytest.mark.parametrize(("about", "warned"), [("", True), ("Foxes and wolves, ours.", False)])
def test_a_release_of_other_photos_asks_whether_the_words_about_them_hold(
    evaluated: Path, homes: Homes, about: str, warned: bool
) -> None:
    card = json.loads((evaluated / CARD_FILE).read_text())
    card["training"]["photos_sha256"] = "0" * 64
    card["params"]["data"]["about"] = about or card["params"]["data"]["about"]
    (evaluated / CARD_FILE).write_text(json.dumps(card))
    output = publish(evaluated, homes, None)
    assert ("change data.about and data.limits in params.yaml" in output) == warned


@pytest.mark.parametrize(("released", "following"), [("2.9", "2.10"), ("3.0.1", "3.0.2")])
def test_a_release_without_a_number_has_the_next_one(
    released: str, following: str, tmp_path: Path
) -> None:
    card = tmp_path / "catsdogs.json"
    assert next_version(card) == "1.0"
    card.write_text(json.dumps({"version": released}))
    assert next_version(card) == following


def test_released_are_the_weights_of_the_run_with_their_description(
    evaluated: Path, homes: Homes
) -> None:
    publish(evaluated, homes, "3.7")
    assert homes.weights.read_bytes() == (evaluated / BEST).read_bytes()
    card = json.loads(homes.weights.with_suffix(".json").read_text())
    assert card == json.loads((evaluated / CARD_FILE).read_text()) | {"version": "3.7"}


def test_a_run_that_was_not_evaluated_is_refused_with_the_command(
    evaluated: Path, homes: Homes
) -> None:
    remedy = f"run `python -m training evaluate {evaluated}`"
    (evaluated / CARD_FILE).unlink()
    with pytest.raises(UsageError, match=f"{evaluated / CARD_FILE}: missing; {remedy}"):
        publish(evaluated, homes, None)
    card = {key: value for key, value in CARD.items() if key != "training"}
    (evaluated / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(UsageError, match=f"{evaluated / CARD_FILE}: .*; {remedy}"):
        publish(evaluated, homes, None)


def test_a_first_release_has_no_way_back(evaluated: Path, homes: Homes) -> None:
    for path in (homes.weights.with_suffix(".json"), homes.readme, homes.chart):
        path.unlink()
    output = publish(evaluated, homes, "2.0")
    assert output.startswith(f"{homes.weights}: version 2.0\nwritten: ")
    assert "before" not in output
    assert "git" not in output
    assert not homes.readme.exists()
    assert str(homes.readme) not in output


def test_what_can_not_be_described_is_not_released(evaluated: Path, homes: Homes) -> None:
    before = homes.weights.with_suffix(".json").read_bytes()
    card = json.loads((evaluated / CARD_FILE).read_text())
    del card["metrics"]["slices"]
    (evaluated / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(KeyError):
        publish(evaluated, homes, None)
    assert homes.weights.with_suffix(".json").read_bytes() == before
    assert not homes.weights.exists()


def test_foreign_photos_of_one_class_and_no_others_can_be_described(
    evaluated: Path, homes: Homes
) -> None:
    card = json.loads((evaluated / CARD_FILE).read_text())
    del card["metrics"]["validation"]
    card["metrics"][FOREIGN]["roc_auc"] = None
    (evaluated / CARD_FILE).write_text(json.dumps(card))
    publish(evaluated, homes, None)
    (line,) = [s for s in homes.model_card.read_text().splitlines() if s.startswith("| ROC AUC")]
    assert line.endswith(" | – |")


def test_of_the_chart_the_line_of_the_version_alone_is_renewed(tmp_path: Path) -> None:
    chart, known = tmp_path / "Chart.yaml", REPOSITORY / "helm/catsdogs/Chart.yaml"
    assert not write_app_version(chart, "1.2")
    shutil.copy(known, chart)
    assert write_app_version(chart, "1.10")
    renewed = known.read_text().replace(f'appVersion: "{VERSION}"', 'appVersion: "1.10"')
    assert chart.read_text() == renewed != known.read_text()
    chart.write_text("name: other\n")
    assert not write_app_version(chart, "1.2")
    assert chart.read_text() == "name: other\n"
