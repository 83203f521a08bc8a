"""Start weights of a training, without training."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from handler.integrity import sha256_of
from training.checkpoint import (
    BEST,
    CHECKPOINT,
    RUN_FILE,
    Training,
    load_checkpoint,
    read_run,
    save_epoch,
)
from training.dataset import Split
from training.files import UsageError, load_torch
from training.params import Params
from training.train import new_training
from training.weights import start_from

Describe = Callable[..., Path]


@pytest.fixture
def training(index: Path, params: Params) -> Training:
    return new_training(params.train, Split(index, "train"))


@pytest.fixture
def describe(weights: Path, run: Path, tmp_path: Path) -> Describe:
    """Writes a copy of the weights, with changes to their JSON file."""

    def write(state: dict[str, torch.Tensor] | None = None, **changes: object) -> Path:
        path = tmp_path / "start.pt"
        torch.save(state, path) if state else shutil.copy(weights, path)
        card = json.loads(weights.with_suffix(".json").read_text())
        card |= {"sha256": sha256_of(path), "training": read_run(run)[0]} | changes
        path.with_suffix(".json").write_text(json.dumps(card))
        return path

    return write


def same_layers(training: Training, weights: Path) -> set[str]:
    """The layers of model and moving average that are equal to the file."""
    known = torch.load(weights, weights_only=True)
    models = training.model.state_dict(), training.average.module.state_dict()
    return {
        name.split(".")[0]
        for name, tensor in known.items()
        if all(torch.equal(model[name].half(), tensor.half()) for model in models)
    }


def test_of_the_same_classes_all_layers_are_taken(
    training: Training, weights: Path, describe: Describe
) -> None:
    start_from(describe(), training)
    assert same_layers(training, weights) == {
        *("conv1", "conv2", "conv3", "conv4", "bn1", "bn2", "bn3", "bn4", "fc1", "fc2", "fc3")
    }


@pytest.mark.parametrize("classes", [["kitten", "puppy"], ["dog", "cat"], ["ant", "cat", "dog"]])
def test_of_other_classes_all_layers_but_the_last_are_taken(
    training: Training,
    weights: Path,
    describe: Describe,
    classes: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.load(weights, weights_only=True)
    rows = [row % 2 for row in range(len(classes))]
    state |= {name: state[name][rows] for name in ("fc3.weight", "fc3.bias")}
    drawn = training.model.fc3.weight.clone()
    start = describe(state, classes=classes)
    start_from(start, training)
    assert {"conv4", "bn4", "fc1", "fc2"} < same_layers(training, weights)
    assert torch.equal(training.model.fc3.weight, drawn)
    assert capsys.readouterr().out == (
        f"{start}: trained for {', '.join(classes)}; "
        "the last layer is re-initialised for cat, dog\n"
    )


def test_the_run_tells_how_its_first_weights_were_trained(
    training: Training, run: Path, describe: Describe
) -> None:
    start = describe()
    start_from(start, training)
    known = read_run(run)[0] | {"sha256": sha256_of(start)}
    assert training.before == known | {"version": "1.0"}
    start_from(describe(version="0.0"), training)  # of a run that is not released
    assert training.before == known


def test_a_checkpoint_that_lacks_what_is_recorded_since_goes_on(
    training: Training, index: Path, params: Params, describe: Describe, tmp_path: Path
) -> None:
    start = describe()
    start_from(start, training)
    training.history = [{"epoch": 1.0, "validation_accuracy": 0.5, "photos_per_second": 1.0}]
    save_epoch(tmp_path, training)
    earlier = load_torch(tmp_path / CHECKPOINT)
    assert earlier["sources"] == training.sources
    del earlier["sources"], earlier["before"]["version"]
    torch.save(earlier, tmp_path / CHECKPOINT)
    other = new_training(params.train, Split(index, "train"))
    with pytest.raises(UsageError, match="started from other weights"):
        load_checkpoint(tmp_path, other)
    start_from(start, other)
    load_checkpoint(tmp_path, other)
    assert other.history == training.history
    assert other.before is not None
    other.before["sha256"] = "0" * 64
    with pytest.raises(UsageError, match="started from other weights"):
        load_checkpoint(tmp_path, other)


@pytest.mark.parametrize(("drawn", "seconds"), [(0, 64 + 32), (16, 16 + 8), (1000, 64 + 32)])
def test_a_run_records_its_sources_and_how_long_its_epochs_took(
    index: Path, params: Params, tmp_path: Path, drawn: int, seconds: float
) -> None:
    split = Split(index, "train")
    assert len(split) == 64
    training = new_training(dataclasses.replace(params.train, epoch_photos=drawn), split)
    training.history = [
        {"epoch": epoch, "validation_accuracy": 0.5, "photos_per_second": epoch}
        for epoch in (1.0, 2.0)
    ]
    save_epoch(tmp_path, training)
    about = json.loads((tmp_path / RUN_FILE).read_text())
    assert about["sources"] == {split.photos[0].source: 64}
    assert about["seconds"] == seconds


def test_a_file_that_does_not_fit_is_refused(
    training: Training, weights: Path, describe: Describe, tmp_path: Path
) -> None:
    state = torch.load(weights, weights_only=True)
    with pytest.raises(UsageError, match=r"none\.pt: missing"):
        start_from(tmp_path / "none.pt", training)
    narrow = state | {"fc2.weight": state["fc2.weight"][:, :9]}
    with pytest.raises(UsageError, match="not a state dict of SimpleCNN.*fc2"):
        start_from(describe(narrow), training)
    with pytest.raises(UsageError, match=r"start\.json: std is .* but .* in the parameters"):
        start_from(describe(std=[1.0, 1.0, 1.0]), training)
    with pytest.raises(UsageError, match="`training` lacks classes, params"):
        start_from(describe(training={}), training)
    describe().with_suffix(".json").unlink()
    with pytest.raises(UsageError, match=r"start\.json: missing"):
        start_from(tmp_path / "start.pt", training)


def test_a_run_that_was_stopped_or_diverged_or_had_other_photos_is_refused(
    training: Training, run: Path, tmp_path: Path
) -> None:
    about = json.loads((run / RUN_FILE).read_text())
    shutil.copy(run / BEST, tmp_path)

    def refuse(message: str, **changes: object) -> None:
        (tmp_path / RUN_FILE).write_text(json.dumps(about | changes))
        with pytest.raises(UsageError, match=message):
            start_from(tmp_path, training)

    refuse("stopped after 2 of 3 epochs; finish it with --resume", finished_epochs=2)
    refuse("other photos or splits", photos_sha256="another")
    state = torch.load(run / BEST, weights_only=True)
    torch.save(state | {"fc3.bias": state["fc3.bias"] / 0}, tmp_path / BEST)
    refuse("the training diverged")


def test_normalisation_is_compared_with_the_parameters_of_the_run(
    index: Path, params: Params, describe: Describe
) -> None:
    other = dataclasses.replace(params.train, mean=[0.5, 0.5, 0.5])
    training = new_training(other, Split(index, "train"))
    with pytest.raises(UsageError, match=r"mean is .* but \[0.5, 0.5, 0.5\] in the parameters"):
        start_from(describe(), training)
