"""The files of a run: checkpoint, best weights, history and what they were made with."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.distributed import world_size
from training.errors import UsageError, one_line
from training.files import load_torch, read_json, write_atomically, write_json
from training.hardware import device_of, machine
from training.model import SimpleCNN, State, half_precision
from training.params import TrainParams, photos_in_epoch

CHECKPOINT = "checkpoint.pt"  # all that --resume needs, of the last finished epoch
BEST = "best.pt"  # half-precision state dict of the epoch with the highest validation accuracy
RUN_FILE = "run.json"  # classes, index, parameters and the best epoch
HISTORY = "history.csv"  # one row an epoch
CARD = "best.json"  # what is released beside the best weights; `evaluate` writes it


@dataclass
class Training:
    """A run's parameters, and everything that changes while it goes on."""

    params: TrainParams
    classes: list[str]
    photos: int  # in the training split
    sources: dict[str, int]  # of these photos: how many each source has
    left_out: int  # photos of that split whose paths `params.excluded` lists
    photos_sha256: str  # a run never goes on with other photos or splits
    model: SimpleCNN
    pupil: nn.ModuleDict  # from the model's maps and embedding to what the teacher sees
    objective: nn.Module  # both, as training calls them
    average: AveragedModel  # of the model's weights: what is validated and released
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    history: list[dict[str, float]]
    before: dict[str, Any] | None = None  # how the weights that it started from were trained


def save_epoch(run: Path, training: Training) -> None:
    """Write the files of a finished epoch, the checkpoint last: it is what counts on resume."""
    best = max(training.history, key=lambda row: row["validation_accuracy"])
    if best is training.history[-1]:
        state = half_precision(training.average.module.state_dict())
        write_atomically(run / BEST, lambda path: torch.save(state, path))
    made_with = {
        "params": asdict(training.params),
        "classes": training.classes,
        "photos": training.photos,
        "sources": training.sources,
        "left_out": training.left_out,
        "photos_sha256": training.photos_sha256,
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
        "pupil": training.pupil.state_dict(),
        "average": training.average.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "history": training.history,
    }
    write_atomically(run / CHECKPOINT, lambda path: torch.save(checkpoint, path))


def load_checkpoint(run: Path, training: Training) -> None:
    """Put `training` where the run stopped.

    Raises UsageError when there is no such run, or it had other parameters, photos or weights to
    start from.
    """
    path = run / CHECKPOINT
    if not path.exists():
        raise UsageError(f"{path}: missing; start the run without --resume")
    checkpoint = load_torch(path)
    if _params(path, checkpoint) != training.params:
        raise UsageError(f"{path}: was made with other parameters; restore them or start a new run")
    if checkpoint["photos_sha256"] != training.photos_sha256:
        raise UsageError(f"{path}: was made with other photos; prepare them or start a new run")
    if not same_start(checkpoint["before"], training.before):
        raise UsageError(f"{path}: started from other weights; give those or start a new run")
    training.model.load_state_dict(checkpoint["model"])
    training.pupil.load_state_dict(checkpoint["pupil"])
    training.average.load_state_dict(checkpoint["average"])
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    training.schedule.load_state_dict(checkpoint["schedule"])
    training.history = checkpoint["history"]


def same_start(known: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    """Whether both describe the same first weights; older checkpoints lack their `version`."""
    return known == now or known == {k: v for k, v in (now or {}).items() if k != "version"}


def read_run(run: Path) -> tuple[dict[str, Any], TrainParams, State]:
    """What run.json tells, its parameters, and the best weights.

    Raises UsageError when `run` holds no trained run.
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
        raise UsageError(f"{path}: of another version: {one_line(error)}") from error


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    columns = dict.fromkeys(name for row in history for name in row)  # earlier rows had fewer
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
