from __future__ import annotations

import csv
import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from tests.training.conftest import NO_TEACHER, THREADS, ignore
from training import checkpoint
from training.checkpoint import BEST, CHECKPOINT, HISTORY
from training.dataset import INDEX, Split
from training.epoch import order_of_epoch, resized, steps_in_epoch, update_average
from training.evaluate import evaluate
from training.files import UsageError, load_torch
from training.inference import split_logits
from training.model import load_network
from training.params import Params, TrainParams
from training.train import new_training, train


def accuracy(run: Path, index: Path, split: str, params: Params) -> float:
    network = load_network(torch.load(run / BEST, weights_only=True), 2)
    logits, labels = split_logits(network, Split(index, split), params.train)
    return float((logits.argmax(dim=1) == labels).float().mean())


def test_three_epochs_learn_the_made_photos(run: Path, index: Path, params: Params) -> None:
    assert accuracy(run, index, "train", params) > 0.95
    assert accuracy(run, index, "validation", params) > 0.85


@pytest.mark.slow
def test_a_run_with_a_teacher_trains_and_is_evaluated_on_each_device(
    index: Path, teacher_stats: Path, teacher_params: Params, device: torch.device, tmp_path: Path
) -> None:
    params = teacher_params.train
    go = {"teacher_stats": teacher_stats, "tracker": nullcontext(ignore), "device": device}
    train(index, tmp_path, params, **go)
    train(index, tmp_path, dataclasses.replace(params), resume=True, **go)  # nothing is left to do
    (row,) = load_torch(tmp_path / CHECKPOINT)["history"]
    assert row["loss"] > 0
    assert (row["gpu_memory_gb"] > 0) == (device.type == "cuda")
    assert 0 < row["loading_share"] < 1
    metrics = evaluate(index, tmp_path, teacher_params, device)["metrics"]
    assert metrics["served"]["same_label"] > 0.8


def test_each_epochs_accuracy_is_printed_and_the_best_at_the_end(
    index: Path, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(index, tmp_path, params.train, teacher_stats=NO_TEACHER, tracker=nullcontext(ignore))
    *rows, best = capsys.readouterr().out.splitlines()
    assert [row.split(": ")[0] for row in rows] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert all(row.endswith(" % validation accuracy") for row in rows)
    assert best == f"best: {max(rows, key=lambda row: float(row.split()[2]))}"


def test_a_run_keeps_its_history(run: Path) -> None:
    with (run / HISTORY).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert checkpoint.read_run(run)[0]["finished_epochs"] == 3
    assert not list(run.glob("*.partial"))


@pytest.mark.slow
def test_an_interrupted_and_resumed_run_ends_at_the_same_weights(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    def interrupt(row: dict[str, float]) -> None:
        raise KeyboardInterrupt

    part = tmp_path / "part"
    torch.set_num_threads(THREADS)  # as in `run`
    with pytest.raises(KeyboardInterrupt):
        train(index, part, params.train, teacher_stats=NO_TEACHER, tracker=nullcontext(interrupt))
    train(
        index,
        part,
        params.train,
        teacher_stats=NO_TEACHER,
        resume=True,
        tracker=nullcontext(ignore),
    )
    whole = torch.load(run / CHECKPOINT, weights_only=True)
    resumed = torch.load(part / CHECKPOINT, weights_only=True)
    for part_name in ("model", "average"):
        for name, tensor in whole[part_name].items():
            assert torch.equal(resumed[part_name][name], tensor), name
    assert [row["loss"] for row in resumed["history"]] == [row["loss"] for row in whole["history"]]


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part)
    earlier = load_torch(run / CHECKPOINT)
    longer = dataclasses.replace(params.train, epochs=4)
    earlier["params"]["epochs"] = 4
    earlier["schedule"]["total_steps"] = 4 * earlier["schedule"]["last_epoch"] // 3
    newer = {
        field.name: field.default
        for field in dataclasses.fields(TrainParams)
        if field.default is not dataclasses.MISSING
    }
    for name in newer:
        del earlier["params"][name]
    for row in earlier["history"]:
        del row["gpu_memory_gb"]
    earlier["pupil"] = earlier.pop("student_heads")
    torch.save(earlier, part / CHECKPOINT)
    as_before = dataclasses.replace(longer, **newer)
    train(
        index, part, as_before, teacher_stats=NO_TEACHER, resume=True, tracker=nullcontext(ignore)
    )
    assert len(load_torch(part / CHECKPOINT)["history"]) == 4
    with (part / HISTORY).open(newline="") as file:
        assert [row["gpu_memory_gb"] for row in csv.DictReader(file)] == ["", "", "", "0.0"]


def test_the_checkpoint_is_written_last(
    index: Path, params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = []
    for name in ("save_torch", "write_atomically", "write_json"):
        monkeypatch.setattr(checkpoint, name, lambda path, content: written.append(path))
    training = new_training(params.train, Split(index, "train"))
    training.history = [{"epoch": 1.0, "validation_accuracy": 0.5, "photos_per_second": 1.0}]
    checkpoint.save_epoch(tmp_path, training)
    assert written[-1] == tmp_path / CHECKPOINT


@pytest.mark.slow
def test_finetuning_starts_from_the_best_weights_of_another_run(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    still = dataclasses.replace(params.train, epochs=1, small_epochs=0, learning_rate=1e-9)
    tuned = tmp_path / "tuned"
    train(index, tuned, still, teacher_stats=NO_TEACHER, start=run, tracker=nullcontext(ignore))
    first = torch.load(run / BEST, weights_only=True)
    for name, tensor in torch.load(tuned / BEST, weights_only=True).items():
        if name.endswith("weight"):
            assert torch.allclose(tensor.float(), first[name].float(), atol=1e-3), name
    about = checkpoint.read_run(tuned)[0]
    assert about["before"] == checkpoint.read_run(run)[0]
    go_on = {"teacher_stats": NO_TEACHER, "resume": True, "tracker": nullcontext(ignore)}
    train(index, tuned, still, start=run, **go_on)
    with pytest.raises(UsageError, match="started from other weights"):
        train(index, tuned, still, **go_on)
    with pytest.raises(UsageError, match="train first"):
        train(
            index, tmp_path / "other", still,
            teacher_stats=NO_TEACHER, start=tmp_path / "none", tracker=nullcontext(ignore),
        )  # fmt: skip
    assert not (tmp_path / "other").exists()


def test_a_run_is_never_overwritten_nor_resumed_with_other_parameters(
    run: Path, index: Path, params: Params, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="contains a run; continue"):
        train(index, run, params.train, teacher_stats=NO_TEACHER, tracker=nullcontext(ignore))
    other = dataclasses.replace(params.train, learning_rate=0.5)
    with pytest.raises(UsageError, match="other parameters"):
        train(index, run, other, teacher_stats=NO_TEACHER, resume=True, tracker=nullcontext(ignore))
    fewer = tmp_path / "index"
    shutil.copytree(index, fewer)
    text = (fewer / INDEX).read_text()
    (fewer / INDEX).write_text(text.replace(",train", ",test", 1))
    with pytest.raises(UsageError, match="other photos"):
        train(
            fewer,
            run,
            params.train,
            teacher_stats=NO_TEACHER,
            resume=True,
            tracker=nullcontext(ignore),
        )
    with pytest.raises(UsageError, match="start the run without --resume"):
        train(
            index,
            tmp_path / "none",
            params.train,
            teacher_stats=NO_TEACHER,
            resume=True,
            tracker=nullcontext(ignore),
        )


@pytest.mark.slow
def test_a_run_that_cannot_go_on_is_replaced_when_asked(
    index: Path, params: Params, tmp_path: Path
) -> None:
    def go(params: TrainParams) -> list[float]:
        train(
            index, tmp_path, params,
            teacher_stats=NO_TEACHER, resume=True, replace=True, tracker=nullcontext(ignore),
        )  # fmt: skip
        return [row["loss"] for row in load_torch(tmp_path / CHECKPOINT)["history"]]

    short = dataclasses.replace(params.train, epochs=1, small_epochs=0)
    first = go(short)
    listed = tmp_path / "list.csv"
    listed.write_text(f"path\n{Split(index, 'train').photos[0].path}\n")
    without = dataclasses.replace(short, excluded=str(listed))
    second = go(without)
    listed.write_text("path\n")
    assert go(without) == first != second  # DVC sees that the list has changed
    assert go(dataclasses.replace(short, seed=2)) != first


def test_a_run_is_not_resumed_with_other_steps_or_excluded_photos(
    run: Path, index: Path, params: Params
) -> None:
    split = Split(index, "train")
    without = Split(index, "train", {split.photos[0].path})
    with pytest.raises(UsageError, match="another list of excluded photos; restore it"):
        checkpoint.load_checkpoint(run, new_training(params.train, without))
    training = new_training(params.train, split)
    training.schedule.total_steps += 1
    with pytest.raises(UsageError, match="another number of processes; use as many"):
        checkpoint.load_checkpoint(run, training)


def test_a_schedule_whose_warm_up_is_one_step_can_begin(index: Path, params: Params) -> None:
    split = Split(index, "train")
    short = dataclasses.replace(params.train, epochs=10, batch_size=len(split), warmup_share=0.1)
    training = new_training(short, split)
    assert training.schedule.total_steps == 10
    training.optimizer.step()
    training.schedule.step()


@pytest.mark.parametrize(("asked", "got"), [(0, 10**9), (20, 20), (5, 8), (10**8, 10**9)])
def test_an_epoch_takes_no_more_photos_than_asked_and_others_each_time(
    index: Path, params: Params, asked: int, got: int
) -> None:
    split = Split(index, "train")
    train_params = dataclasses.replace(params.train, epoch_photos=asked, batch_size=4)
    if asked == 5:
        train_params = dataclasses.replace(train_params, batch_size=8)
    order, other = (order_of_epoch(split, train_params) for _ in range(2))
    size = train_params.batch_size
    assert order.shape == (steps_in_epoch(split, train_params), size)
    assert order.numel() == min(got, len(split) // size * size)
    assert len(order.unique()) == order.numel()
    assert not torch.equal(order, other)


@pytest.mark.parametrize("side", [5, 9, 14])
def test_a_picture_made_larger_is_the_same_with_and_without_antialias(side: int) -> None:
    picture = torch.rand(2, 3, 5, 5)
    expected = torch.nn.functional.interpolate(
        picture, (side, side), mode="bilinear", antialias=True
    )
    assert torch.allclose(resized(picture, side), expected, atol=1e-6)


def test_the_moving_average_forgets_its_random_start_and_ends_near_the_weights() -> None:
    model = torch.nn.BatchNorm1d(3)
    average = AveragedModel(model)
    for value in (0.0, *[1.0] * 30):
        torch.nn.init.constant_(model.weight, value)
        model.num_batches_tracked += 1
        update_average(average, model, 0.999)
    assert (average.module.weight > 0.99).all()
    assert (average.module.weight < 1).all()
    assert average.module.num_batches_tracked == model.num_batches_tracked
    torch.nn.init.constant_(model.weight, 7.0)
    update_average(average, model, 0.0)
    assert (average.module.weight == 7).all()
