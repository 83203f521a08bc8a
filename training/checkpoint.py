"""The files of a run: checkpoint, best weights, history and what they were made with."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.model import SimpleCNN, half_precision
from training.params import TrainParams, UsageError

CHECKPOINT = "checkpoint.pt"  # all that --resume needs, of the last finished epoch
BEST = "best.pt"  # half-precision state dict of the epoch with the highest validation accuracy
RUN_FILE = "run.json"  # classes, parameters and the best epoch
HISTORY = "history.csv"  # one row an epoch


@dataclass
class Training:
    """Everything that changes while a run goes on."""

    model: SimpleCNN
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    history: list[dict[str, float]]


def save_epoch(run: Path, training: Training, params: TrainParams, classes: list[str]) -> None:
    """Write the files of a finished epoch, the checkpoint last: it is what counts on resume."""
    best = max(training.history, key=lambda row: row["validation_accuracy"])
    if best is training.history[-1]:
        state = half_precision(training.model.state_dict())
        write_atomically(run / BEST, lambda path: torch.save(state, path))
    about = {"classes": classes, "best": best, "params": asdict(params)}
    write_json(run / RUN_FILE, about)
    write_atomically(run / HISTORY, lambda path: _write_history(path, training.history))
    checkpoint = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "history": training.history,
        "params": asdict(params),
    }
    write_atomically(run / CHECKPOINT, lambda path: torch.save(checkpoint, path))


def load_checkpoint(run: Path, training: Training, params: TrainParams) -> None:
    """Put `training` where the run stopped. Raises UsageError when there is no such run."""
    path = run / CHECKPOINT
    if not path.exists():
        raise UsageError(f"{path}: missing; start the run without --resume")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if checkpoint["params"] != asdict(params):
        raise UsageError(f"{path}: was made with other parameters; restore them or start a new run")
    training.model.load_state_dict(checkpoint["model"])
    training.optimizer.load_state_dict(checkpoint["optimizer"])
    training.schedule.load_state_dict(checkpoint["schedule"])
    training.history = checkpoint["history"]


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
