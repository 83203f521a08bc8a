from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml

from training import checkpoint
from training.checkpoint import BEST, CHECKPOINT, EVALUATION, HISTORY
from training.data import INDEX, Split, prepare
from training.evaluate import evaluate
from training.model import SimpleCNN, load_network
from training.params import Params, UsageError
from training.train import augmentation, split_logits, train
from training.weights import sha256_of


def ignore(row: dict[str, float]) -> None:
    """A log that keeps nothing."""


@pytest.fixture(scope="module")
def index(photos: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "index"
    prepare(photos, folder, params.prepare)
    return folder


@pytest.fixture(scope="module")
def run(index: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(index, folder, params.train, resume=False, tracker=nullcontext(ignore))
    return folder


def accuracy(run: Path, index: Path, split: str, params: Params) -> float:
    network = load_network(torch.load(run / BEST, weights_only=True), 2)
    logits, labels = split_logits(network, Split(index, split), params.train)
    return float((logits.argmax(dim=1) == labels).float().mean())


def test_two_epochs_learn_the_made_photos(run: Path, index: Path, params: Params) -> None:
    assert accuracy(run, index, "train", params) > 0.95
    assert accuracy(run, index, "validation", params) > 0.85


def test_a_run_keeps_its_history(run: Path) -> None:
    with (run / HISTORY).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert not list(run.glob("*.partial"))


def test_an_interrupted_and_resumed_run_ends_at_the_same_weights(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    def interrupt(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        train(index, part, params.train, resume=False, tracker=nullcontext(interrupt))
    train(index, part, params.train, resume=True, tracker=nullcontext(ignore))
    whole = torch.load(run / CHECKPOINT, weights_only=True)
    resumed = torch.load(part / CHECKPOINT, weights_only=True)
    for name, tensor in whole["model"].items():
        assert torch.equal(resumed["model"][name], tensor), name
    assert [row["loss"] for row in resumed["history"]] == [row["loss"] for row in whole["history"]]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half(partial: Path) -> None:
        partial.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_checkpoint_is_written_last(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = []
    monkeypatch.setattr(checkpoint, "write_atomically", lambda path, write: written.append(path))
    history = [{"epoch": 1.0, "validation_accuracy": 0.5}]
    model = SimpleCNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    params = checkpoint.read_run(run)[1]
    training = checkpoint.Training(params, ["a", "b"], "", model, optimizer, schedule, history)
    checkpoint.save_epoch(tmp_path, training)
    assert written[-1] == tmp_path / CHECKPOINT


def test_finetuning_starts_from_the_best_weights_of_another_run(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    still = dataclasses.replace(params.finetune, epochs=1, learning_rate=1e-9)
    tuned = tmp_path / "tuned"
    train(index, tuned, still, resume=False, tracker=nullcontext(ignore), start=run)
    first = torch.load(run / BEST, weights_only=True)
    for name, tensor in torch.load(tuned / BEST, weights_only=True).items():
        if name.endswith("weight"):
            assert torch.allclose(tensor.float(), first[name].float(), atol=1e-3), name
    with pytest.raises(UsageError, match="train first"):
        train(
            index, tmp_path / "other", still,
            resume=False, tracker=nullcontext(ignore), start=tmp_path / "none",
        )  # fmt: skip
    assert not (tmp_path / "other").exists()


def test_a_run_is_never_overwritten_nor_resumed_with_other_parameters(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(index, run, params.train, resume=False, tracker=nullcontext(ignore))
    other = dataclasses.replace(params.train, learning_rate=0.5)
    with pytest.raises(UsageError, match="other parameters"):
        train(index, run, other, resume=True, tracker=nullcontext(ignore))
    fewer = tmp_path / "index"
    shutil.copytree(index, fewer)
    text = (fewer / INDEX).read_text()
    (fewer / INDEX).write_text(text.replace(",train", ",test", 1))
    with pytest.raises(UsageError, match="other photos"):
        train(fewer, run, params.train, resume=True, tracker=nullcontext(ignore))
    with pytest.raises(UsageError, match="start the run without --resume"):
        train(index, tmp_path / "none", params.train, resume=True, tracker=nullcontext(ignore))


def test_augmentation_varies_a_photo_and_keeps_its_shape(params: Params) -> None:
    torch.manual_seed(0)
    photo = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8)
    transform = augmentation(params.train)
    one, other = transform(photo), transform(photo)
    assert one.shape == other.shape == (3, 224, 224)
    assert one.dtype == torch.uint8
    assert not torch.equal(one, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's use of SQLAlchemy
def test_a_run_is_logged_to_mlflow(
    index: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from training.tracking import EXPERIMENT, mlflow_tracker

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "runs/logged"
    run.mkdir(parents=True)
    rows = [{"epoch": 1, "loss": 0.7, "validation_loss": 0.6, "validation_accuracy": 0.8}]
    for epoch in (1, 2):  # the second time resumed
        rows = [{**rows[0], "epoch": n + 1} for n in range(epoch)]
        checkpoint._write_history(run / HISTORY, rows)
        with mlflow_tracker(run, params.train) as log:
            log(rows[-1])
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["epochs"] == "2"
    steps = client.get_metric_history(logged.info.run_id, "validation_accuracy")
    assert [metric.step for metric in steps] == [1, 2]
    assert [item.path for item in client.list_artifacts(logged.info.run_id)] == ["loss.png"]


def test_evaluation_calibrates_on_validation_and_measures_on_test(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(CHECKPOINT))
    result = evaluate(index, copy, params.evaluate)
    assert result["sha256"] == sha256_of(copy / BEST)
    test = result["test"]
    assert test["photos"] == sum(map(sum, test["confusion"])) == 8
    right = sum(test["confusion"][n][n] for n in range(2))
    assert test["accuracy"] == pytest.approx(right / 8)
    assert result["temperature"] > 0
    assert yaml.safe_load((copy / EVALUATION).read_text()) == result
    assert (copy / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_needs_a_run_that_was_trained_on_the_index(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="train first"):
        evaluate(index, tmp_path, params.evaluate)
    torch.save(SimpleCNN(2).state_dict(), tmp_path / BEST)
    about = json.loads((run / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(about | {"index_sha256": "another"}))
    with pytest.raises(UsageError, match="was trained on other photos"):
        evaluate(index, tmp_path, params.evaluate)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"run\.json: needs best"):
        evaluate(index, tmp_path, params.evaluate)
