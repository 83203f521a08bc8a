"""The files of a run: checkpoint, best weights, history, and how they were made."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel

from files.atomic import write_atomically
from training.compat import CHECKPOINT as CHECKPOINT_NAMES
from training.compat import renamed
from training.devices import device_of, machine, world_size
from training.files import (
    UsageError,
    load_torch,
    one_line,
    read_json,
    save_torch,
    write_json,
)
from training.model import SimpleCNN, State, half_precision
from training.params import TrainParams, photos_in_epoch

CHECKPOINT = "checkpoint.pt"  # all state of the last finished epoch, for --resume
BEST = "best.pt"  # half-precision state dict of the epoch with the highest validation accuracy
RUN_FILE = "run.json"  # classes, index, parameters and the best epoch
HISTORY = "history.csv"  # one row per epoch
RUN_ID = "mlflow-run-id"  # so that a resumed run continues the same MLflow run
CARD = "best.json"  # is released together with the best weights; `evaluate` writes it

Log = Callable[[dict[str, float]], None]  # takes an epoch's row of the history


@dataclass
class Training:
    """The parameters of a run, and its state."""

    params: TrainParams
    classes: list[str]
    photos: int  # in the training split
    sources: dict[str, int]  # number of these photos per source
    left_out: int  # photos of that split whose paths `params.excluded` lists
    photos_sha256: str  # a run can't be resumed with other photos or splits
    used_sha256: str  # of those that are not excluded
    model: SimpleCNN
    student_heads: nn.ModuleDict  # from the model's maps and embedding to the teacher's
    objective: nn.Module  # model and heads, as training calls them
    average: AveragedModel  # average of the model's weights, which is validated and released
    optimizer: Optimizer
    schedule: OneCycleLR
    history: list[dict[str, float]]
    before: dict[str, Any] | None = None  # how its start weights were trained


def save_epoch(run: Path, training: Training) -> None:
    """Write the files of a finished epoch; the checkpoint last, since --resume relies on it."""
    best = best_epoch(training.history)
    if best is training.history[-1]:
        state = half_precision(training.average.module.state_dict())
        save_torch(run / BEST, state)
    made_with = {
        "params": asdict(training.params),
        "classes": training.classes,
        "photos": training.photos,
        "sources": training.sources,
        "left_out": training.left_out,
        "photos_sha256": training.photos_sha256,
        "used_sha256": training.used_sha256,
        "before": training.before,
    }
    photos = photos_in_epoch(training.photos, training.params.epoch_photos)
    seconds = sum(photos / row["photos_per_second"] for row in training.history)
    so_far = {
        "seconds": seconds,
        "machine": machine(world_size(), device_of(training.model)),
        "best": best,
        "finished_epochs": len(training.history),
    }
    write_json(run / RUN_FILE, made_with | so_far)
    write_atomically(run / HISTORY, lambda path: _write_history(path, training.history))
    checkpoint = made_with | {
        "model": training.model.state_dict(),
        "student_heads": training.student_heads.state_dict(),
        "average": training.average.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "history": training.history,
    }
    save_torch(run / CHECKPOINT, checkpoint)


def best_epoch(history: list[dict[str, float]]) -> dict[str, float]:
    """The row of the epoch with the highest validation accuracy."""
    return max(history, key=lambda row: row["validation_accuracy"])


def load_checkpoint(run: Path, training: Training) -> None:
    """Restore `training` from the checkpoint of `run`.

    Raises UsageError if there is none, or if it had other parameters, photos, start weights or
    steps.
    """
    path = run / CHECKPOINT
    if not path.exists():
        raise UsageError(f"{path}: missing; start the run without --resume")
    checkpoint = renamed(load_torch(path), CHECKPOINT_NAMES)
    if _params(path, checkpoint) != training.params:
        raise UsageError(f"{path}: was made with other parameters; restore them or start a new run")
    if checkpoint["photos_sha256"] != training.photos_sha256:
        raise UsageError(f"{path}: was made with other photos; prepare them or start a new run")
    # Earlier versions didn't note it.
    if checkpoint.get("used_sha256", training.used_sha256) != training.used_sha256:
        raise UsageError(
            f"{path}: was made with another list of excluded photos; restore it or start a new run"
        )
    if checkpoint["schedule"]["total_steps"] != training.schedule.total_steps:
        raise UsageError(
            f"{path}: was made with another number of processes; use as many or start a new run"
        )
    if not same_start(checkpoint["before"], training.before):
        raise UsageError(f"{path}: started from other weights; use those or start a new run")
    training.model.load_state_dict(checkpoint["model"])
    training.student_heads.load_state_dict(checkpoint["student_heads"])
    training.average.load_state_dict(checkpoint["average"])
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    training.schedule.load_state_dict(checkpoint["schedule"])
    training.history = checkpoint["history"]


def same_start(known: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    """Whether both describe the same first weights; older checkpoints have no `version`."""
    return known == now or known == {k: v for k, v in (now or {}).items() if k != "version"}


def read_run(run: Path) -> tuple[dict[str, Any], TrainParams, State]:
    """The content of run.json, its parameters, and the best weights.

    Raises UsageError if `run` contains no trained run.
    """
    for name in (RUN_FILE, BEST):
        if not (run / name).is_file():
            raise UsageError(f"{run / name}: missing; train first: python -m training train")
    about = read_json(run / RUN_FILE, {"params", "classes", "photos_sha256", "best"})
    return about, _params(run / RUN_FILE, about), load_torch(run / BEST)


def _params(path: Path, content: dict[str, Any]) -> TrainParams:
    try:
        return TrainParams(**content["params"])
    except TypeError as error:
        raise UsageError(f"{path}: of another version: {one_line(error)}; train again") from error


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    columns = dict.fromkeys(name for row in history for name in row)  # earlier rows had fewer
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
