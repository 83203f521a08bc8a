"""Files of earlier versions are read under the current names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from testing.repository import REPOSITORY
from training import compat
from training.checkpoint import CHECKPOINT, load_checkpoint, save_epoch
from training.compat import Names, renamed
from training.dataset import Split
from training.files import UsageError, load_torch
from training.params import Params, load_params
from training.prepare import check_index
from training.train import new_training
from training.weights import CARD_KEYS, read_card


def as_before(content: Any, names: Names) -> Any:
    """`content` as an earlier version would have written it."""
    back = {}
    for path, name in names.items():
        back[*path[:-1], name] = path[-1]
    return renamed(content, back)


def keys(content: Any) -> Iterator[str]:
    """All keys of nested mappings."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            yield from keys(value)


def test_the_released_card_has_the_present_keys_and_that_of_1_1_is_read_under_them(
    tmp_path: Path,
) -> None:
    earlier = {path[-1] for path in compat.CARD}
    assert not earlier & set(keys(json.loads((REPOSITORY / "models/catsdogs.json").read_text())))
    path = Path(__file__).with_name("catsdogs-1.1.json")
    written = json.loads(path.read_text())
    assert earlier <= set(keys(written))
    card = read_card(path)
    assert not earlier & set(keys(card))
    assert card.keys() >= CARD_KEYS
    (tmp_path / "again.json").write_text(json.dumps(card))
    assert read_card(tmp_path / "again.json") == card
    assert json.dumps(as_before(card, compat.CARD)) == json.dumps(written)


def test_keys_at_other_places_are_nobodys_business() -> None:
    card = {"reference": {"class_shares": {"quantities": 1.0, "figures": 0.0}}, "figures": {}}
    assert renamed(card, compat.CARD) == {"reference": card["reference"], "metrics": {}}
    for content in ([], "text", None, {"reference": None}):
        assert renamed(content, compat.CARD) == content


def test_parameters_of_an_earlier_version_are_the_same_under_their_present_names(
    tmp_path: Path,
) -> None:
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    earlier = as_before(content, compat.PARAMS)
    assert earlier != content
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(earlier))
    assert load_params(path) == load_params(REPOSITORY / "params.yaml")


def test_a_checkpoint_of_an_earlier_version_is_resumed(
    index: Path, params: Params, tmp_path: Path
) -> None:
    split = Split(index, "train")
    training = new_training(params.train, split)
    training.history = [{"epoch": 1.0, "validation_accuracy": 0.5, "photos_per_second": 1.0}]
    save_epoch(tmp_path, training)
    earlier = as_before(load_torch(tmp_path / CHECKPOINT), compat.CHECKPOINT)
    assert "pupil" in earlier
    torch.save(earlier, tmp_path / CHECKPOINT)
    other = new_training(dataclasses.replace(params.train), split)
    for weight in other.student_heads.parameters():
        torch.nn.init.zeros_(weight)
    load_checkpoint(tmp_path, other)
    assert other.history == training.history
    for name, tensor in training.student_heads.state_dict().items():
        assert torch.equal(other.student_heads.state_dict()[name], tensor), name
    save_epoch(tmp_path, other)
    assert "pupil" not in load_torch(tmp_path / CHECKPOINT)


def test_an_index_of_an_earlier_version_may_be_replaced(tmp_path: Path) -> None:
    for name in ("photos.csv", "photos.uint8", "doubtful.csv"):
        (tmp_path / name).touch()
    check_index([tmp_path / "photos"], tmp_path)
    (tmp_path / "disputed.csv").touch()
    with pytest.raises(UsageError, match="is not an index"):
        check_index([tmp_path / "photos"], tmp_path)


def test_a_parameter_under_both_names_is_refused(tmp_path: Path) -> None:
    content = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    content["evaluate"]["familiar_share"] = 0.5
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="section evaluate: unknown key 'familiar_share'"):
        load_params(tmp_path / "params.yaml")
