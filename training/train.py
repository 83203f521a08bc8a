"""Train SimpleCNN on the training split.

python -m training train --run runs/train [--resume]
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.checkpoint import (
    CHECKPOINT,
    RUN_ID,
    Log,
    Training,
    best_epoch,
    load_checkpoint,
    save_epoch,
)
from training.dataset import (
    UNKNOWN,
    PixelLoader,
    Split,
    excluded_photos,
    photos_of_each,
    photos_sha256,
)
from training.devices import CPU, data_parallel, keep_freed_memory, process_group, rank
from training.epoch import Objective, steps_in_epoch, train_one_epoch
from training.files import UsageError
from training.inference import split_logits
from training.model import SimpleCNN
from training.params import TrainParams
from training.teach import FEATURES, MAPS, Teacher, load_teacher_stats
from training.weights import start_from

Tracker = AbstractContextManager[Log]


@process_group()
def train(
    index: Path,
    run: Path,
    params: TrainParams,
    *,
    teacher_stats: Path,
    tracker: Tracker,
    device: torch.device = CPU,
    start: Path | None = None,
    resume: bool = False,
    replace: bool = False,
) -> None:
    """Train for `params.epochs` epochs; write checkpoint, best weights and history into `run`.

    Training starts from random weights, or from `start`: a finished run or a file of weights.
    `teacher_stats` is the folder that `teach` wrote, needed if `params` use a teacher. `tracker` is
    entered after all checks have passed; its log function is called after each epoch with the
    epoch's row of the history. An interruption loses only the current epoch, and `resume` ends with
    the same weights as an uninterrupted run.

    Without `resume`, raises UsageError if the run exists. With `resume`, raises it if the run
    doesn't exist or had other parameters, photos or start weights. With `replace`, such a run and a
    finished one start again: DVC asks for it only if something has changed.
    """
    keep_freed_memory()
    training_split = Split(index, "train", excluded_photos(params))
    validation_split = Split(index, "validation")
    if UNKNOWN in training_split.labels and not params.uses_teacher:
        raise UsageError(
            f"{index}: has photos without a label, which need a teacher; set teacher_labels, or "
            "remove the folder `unlabelled` and run `prepare` again"
        )
    teacher = None
    if params.uses_teacher:
        stats = load_teacher_stats(teacher_stats, training_split)
        if rank() == 0:
            print("preparing the teacher and the log; this can take a minute", flush=True)
        teacher = Teacher(stats, device)
    training = started(params, training_split, device, start)
    try:
        if resume:
            load_checkpoint(run, training)
            if replace and len(training.history) >= params.epochs:
                raise UsageError(f"{run}: is finished")
        elif (run / CHECKPOINT).exists():
            raise UsageError(f"{run}: contains a run; continue it with --resume or name another")
    except UsageError:
        if not replace:
            raise
        training = started(params, training_split, device, start)
        if rank() == 0:  # which writes the new one
            (run / RUN_ID).unlink(missing_ok=True)  # its curves are another run's
    run.mkdir(parents=True, exist_ok=True)
    loader = PixelLoader(training_split, device)
    with tracker if rank() == 0 else nullcontext() as log:
        for epoch in range(len(training.history), params.epochs):
            # Seeded per epoch, so that a resumed run has the same order, augmentation and dropout.
            torch.manual_seed(params.seed * 1_000_000 + epoch)
            metrics = train_one_epoch(training, loader, teacher)
            training.history.append(metrics | validate(training, validation_split))
            if log:
                save_epoch(run, training)
                log(training.history[-1])
                print(accuracy_line(training.history[-1], params), flush=True)
        if log and training.history:
            print(f"best: {accuracy_line(best_epoch(training.history), params)}")


def accuracy_line(row: dict[str, float], params: TrainParams) -> str:
    accuracy = f"{100 * row['validation_accuracy']:.1f} % validation accuracy"
    return f"epoch {row['epoch']:.0f}/{params.epochs}: {accuracy}"


def started(
    params: TrainParams, split: Split, device: torch.device, start: Path | None
) -> Training:
    """A new training, from the weights in `start` or random ones."""
    training = new_training(params, split, device)
    if start is not None:
        start_from(start, training)
    return training


def validate(training: Training, split: Split) -> dict[str, float]:
    """Loss and accuracy of the averaged weights; foreign photos have half of the total weight."""
    averaged = cast(SimpleCNN, training.average.module)
    logits, labels = split_logits(averaged, split, training.params)
    right = (logits.argmax(1) == labels).float()
    rows = split.half_and_half()
    metrics = {
        "validation_loss": F.cross_entropy(logits[rows], labels[rows]).item(),
        "validation_accuracy": right[rows].mean().item(),
    }
    if (foreign := split.foreign).any():
        metrics["foreign_accuracy"] = right[foreign].mean().item()
    return metrics


def new_training(params: TrainParams, split: Split, device: torch.device = CPU) -> Training:
    """A new model with AdamW and a one-cycle schedule over all steps."""
    torch.manual_seed(params.seed)
    model = SimpleCNN(len(split.classes)).to(device).to(memory_format=torch.channels_last)
    student_heads = nn.ModuleDict(
        {"maps": nn.Conv2d(256, MAPS, kernel_size=1), "features": nn.Linear(128, FEATURES)}
    ).to(device)
    optimizer = new_optimizer(model, student_heads, params)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=params.epochs * steps_in_epoch(split, params),
        pct_start=min(1.0, params.warmup_share + 1e-9),  # PyTorch divides by 0 if it is one step
    )
    return Training(
        params,
        split.classes,
        len(split),
        photos_of_each(split.sources),
        split.left_out,
        split.photos_sha256,
        photos_sha256(split.photos),
        model,
        student_heads,
        data_parallel(Objective(model, student_heads, params)),
        AveragedModel(model),
        optimizer,
        schedule,
        history=[],
    )


def new_optimizer(
    model: SimpleCNN, student_heads: nn.ModuleDict, params: TrainParams
) -> torch.optim.Optimizer:
    """AdamW, with a separate learning rate for the widest layer."""
    narrow = [p for name, p in model.named_parameters() if not name.startswith("fc1.")]
    # Adam moves every weight by the learning rate, so an output by that times its number of inputs:
    # the 50,176 of fc1 need smaller steps than the 27 to 1,152 of a convolution.
    groups = [
        {"params": narrow + list(student_heads.parameters()), "lr": params.learning_rate},
        {
            "params": list(model.fc1.parameters()),
            "lr": params.learning_rate * params.fc1_learning_rate_share,
        },
    ]
    return torch.optim.AdamW(groups, weight_decay=params.weight_decay, fused=True)
