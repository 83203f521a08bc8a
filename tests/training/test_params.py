from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from training.files import UsageError
from training.params import Params, TrainParams, load_params


def changed(tmp_path: Path, section: str, **values: object) -> Path:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content[section] |= values
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_params_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        load_params().train.epochs = 3  # type: ignore[misc]


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="section train: unknown key 'epoch'"):
        load_params(changed(tmp_path, "train", epoch=3))


@pytest.mark.parametrize("value", ["ten", 1.5, True, None])
def test_a_value_of_the_wrong_type_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(UsageError, match="epochs is .*; make it int"):
        load_params(changed(tmp_path, "train", epochs=value))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("data", "classes", ["cat", 3]),
        ("train", "epochs", 0),
        ("train", "batch_size", 0),
        ("train", "warmup_share", 2.0),
        ("train", "learning_rate", float("nan")),
        ("train", "mean", [0.5, 0.5]),
        ("train", "std", [0.0, 0.1, 0.1]),
        ("train", "std", ["x", 0.1, 0.1]),
        ("train", "mixup", -0.1),
        ("train", "small_side", 32),
        ("prepare", "test_share", 2.0),
        ("evaluate", "in_distribution_share", 95),  # in percent, nothing would be out of it
        ("evaluate", "range_photos", 0),  # no photos, no int8
    ],
)
def test_a_value_outside_its_range_is_refused(
    tmp_path: Path, section: str, name: str, value: object
) -> None:
    with pytest.raises(UsageError, match=f"section {section}: {name} "):
        load_params(changed(tmp_path, section, **{name: value}))


def test_every_number_has_a_range() -> None:
    sections = get_type_hints(Params).values()
    numbers = [
        field for section in sections for field in fields(section) if "str" not in field.type
    ]
    assert [field.name for field in numbers if "range" not in field.metadata] == []


def test_parameters_newer_than_release_1_1_have_a_default() -> None:
    """Otherwise runs of that time could not be read or resumed."""
    earlier = json.loads(Path(__file__).with_name("catsdogs-1.1.json").read_text())
    TrainParams(**earlier["training"]["params"])


def test_what_finetune_does_not_name_is_as_in_train(tmp_path: Path) -> None:
    params = load_params(changed(tmp_path, "train", weight_decay=0.125))
    assert params.finetune.weight_decay == 0.125
    assert params.finetune.epochs != params.train.epochs
    with pytest.raises(UsageError, match="section finetune: unknown key 'epoch'"):
        load_params(changed(tmp_path, "finetune", epoch=3))
    with pytest.raises(UsageError, match="section finetune: epochs is 0"):
        load_params(changed(tmp_path, "finetune", epochs=0))


def test_finetune_repeats_nothing_of_train() -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    repeated = [key for key, value in content["finetune"].items() if content["train"][key] == value]
    assert repeated == []


def test_a_missing_key_or_section_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "prepare: {seed: 1}\ndata: {folder: x, classes: [], about: x, limits: x}\n"
        "teach: {}\ntrain: {}\nfinetune: {}\nevaluate: {}\n"
    )
    with pytest.raises(UsageError, match="section prepare: 'look_alike_distance' is missing"):
        load_params(path)
    path.write_text("prepare: {}\n")
    with pytest.raises(UsageError, match="'data' is missing"):
        load_params(path)


@pytest.mark.parametrize("content", ["a: [", "just text", "3: 4", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"params\.yaml"):
        load_params(path)
    with pytest.raises(UsageError, match="can't be read"):
        load_params(tmp_path / "none.yaml")
