"""Train SimpleCNN on the training split.

python -m training train --run runs/train [--resume]
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.checkpoint import CHECKPOINT, Training, load_checkpoint, save_epoch
from training.dataset import UNKNOWN, PixelLoader, Split, excluded_photos, photos_of_each
from training.distributed import joined, rank, shared
from training.epoch import Objective, steps_in_epoch, train_one_epoch
from training.errors import UsageError
from training.hardware import CPU, keep_freed_memory
from training.model import SimpleCNN
from training.outputs import split_logits
from training.params import TrainParams
from training.start import start_from
from training.teacher import FEATURES, MAPS, Teacher, load_lesson

Log = Callable[[dict[str, float]], None]
Tracker = AbstractContextManager[Log]


@joined()
def train(
    index: Path,
    run: Path,
    params: TrainParams,
    *,
    lesson: Path,
    tracker: Tracker,
    device: torch.device = CPU,
    start: Path | None = None,
    resume: bool = False,
    replace: bool = False,
) -> None:
    """Train for `params.epochs` epochs; write checkpoint, best weights and history into `run`.

    The weights are random at first, or those of `start`, the best of a finished run or a file.
    `lesson` is the folder that `teach` wrote, read where `params` want a teacher. `tracker` is
    entered when all checks have passed, and what it gives is called after each epoch with its row
    of the history. Interrupted between two steps, nothing but the epoch in hand is lost, and
    `resume` ends at the same weights as an uninterrupted run. Raises UsageError for a run that
    exists (without `resume`), doesn't exist, or had other parameters, photos or weights to start
    from (with it); with `replace` such a run starts anew.
    """
    keep_freed_memory()
    training_split = Split(index, "train", excluded_photos(params))
    validation_split = Split(index, "validation")
    if UNKNOWN in training_split.labels and not params.taught:
        raise UsageError(
            f"{index}: has photos without a label, which only a teacher can learn from; give "
            "teacher_labels, or leave the folder `unlabelled` out"
        )
    teacher = Teacher(load_lesson(lesson, training_split), device) if params.taught else None
    training = new_training(params, training_split, device)
    if start is not None:
        start_from(start, training)
    try:
        if resume:
            load_checkpoint(run, training)
        elif (run / CHECKPOINT).exists():
            raise UsageError(f"{run}: holds a run; continue it with --resume or name another")
    except UsageError:
        if not replace:
            raise
    run.mkdir(parents=True, exist_ok=True)
    loader = PixelLoader(training_split, device)
    with tracker if rank() == 0 else nullcontext() as log:
        for epoch in range(len(training.history), params.epochs):
            # Seeded by epoch, so that a resumed run sees the same order, changes and dropout.
            torch.manual_seed(params.seed * 1_000_000 + epoch)
            figures = train_one_epoch(training, loader, teacher)
            training.history.append(figures | validate(training, validation_split))
            if log:
                save_epoch(run, training)
                log(training.history[-1])


def validate(training: Training, split: Split) -> dict[str, float]:
    """Loss and accuracy of the averaged weights; foreign photos count as much as the others."""
    averaged = cast(SimpleCNN, training.average.module)
    logits, labels = split_logits(averaged, split, training.params)
    right = (logits.argmax(1) == labels).float()
    rows = split.half_and_half()
    figures = {
        "validation_loss": F.cross_entropy(logits[rows], labels[rows]).item(),
        "validation_accuracy": right[rows].mean().item(),
    }
    if (foreign := split.foreign).any():
        figures["foreign_accuracy"] = right[foreign].mean().item()
    return figures


def new_training(params: TrainParams, split: Split, device: torch.device = CPU) -> Training:
    """A fresh model with AdamW and a one-cycle schedule over all steps."""
    torch.manual_seed(params.seed)
    model = SimpleCNN(len(split.classes)).to(device).to(memory_format=torch.channels_last)
    pupil = nn.ModuleDict(
        {"maps": nn.Conv2d(256, MAPS, kernel_size=1), "features": nn.Linear(128, FEATURES)}
    ).to(device)
    optimizer = new_optimizer(model, pupil, params)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=params.epochs * steps_in_epoch(split, params),
        pct_start=params.warmup_share,
    )
    return Training(
        params,
        split.classes,
        len(split),
        photos_of_each(split.sources),
        split.left_out,
        split.photos_sha256,
        model,
        pupil,
        shared(Objective(model, pupil, params)),
        AveragedModel(model),
        optimizer,
        schedule,
        history=[],
    )


def new_optimizer(
    model: SimpleCNN, pupil: nn.ModuleDict, params: TrainParams
) -> torch.optim.Optimizer:
    """AdamW, with a learning rate of its own for the widest layer."""
    narrow = [p for name, p in model.named_parameters() if not name.startswith("fc1.")]
    # A step of Adam moves every weight by the learning rate, so an output by that times its
    # inputs: the 50,176 of fc1 need smaller steps than the 27 to 1,152 of a convolution.
    groups = [
        {"params": narrow + list(pupil.parameters()), "lr": params.learning_rate},
        {
            "params": list(model.fc1.parameters()),
            "lr": params.learning_rate * params.fc1_learning_rate_share,
        },
    ]
    return torch.optim.AdamW(groups, weight_decay=params.weight_decay, fused=True)
