"""Train SimpleCNN on the training split.

python -m training train --run runs/train [--resume]
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from handler.photo import SIDE
from training.checkpoint import CHECKPOINT, Training, load_checkpoint, save_epoch
from training.data import Split
from training.model import SimpleCNN, normalise
from training.params import TrainParams, UsageError

Log = Callable[[dict[str, float]], None]
Tracker = AbstractContextManager[Log]


def train(index: Path, run: Path, params: TrainParams, *, resume: bool, tracker: Tracker) -> None:
    """Train for `params.epochs` epochs; write checkpoint, best weights and history into `run`.

    `tracker` is entered when all checks have passed, and what it gives is called after each epoch
    with its row of the history. Interrupted between two steps, nothing but the epoch in hand is
    lost, and `resume` ends at the same weights as an uninterrupted run. Raises UsageError for a
    run that exists (without `resume`), doesn't exist (with it) or has other parameters.
    """
    keep_freed_memory()
    training_split = Split(index, "train", augmentation(params))
    validation_split = Split(index, "validation")
    training = new_training(params, len(training_split.classes), len(training_split))
    if resume:
        load_checkpoint(run, training, params)
    elif (run / CHECKPOINT).exists():
        raise UsageError(f"{run}: holds a run already; continue it with --resume or name another")
    run.mkdir(parents=True, exist_ok=True)
    with tracker as log:
        for epoch in range(len(training.history), params.epochs):
            # Seeded by epoch, so that a resumed run sees the same order, crops and dropout.
            torch.manual_seed(params.seed * 1_000_000 + epoch)
            row = train_and_validate(training, training_split, validation_split, params)
            training.history.append(row)
            save_epoch(run, training, params, training_split.classes)
            log(row)


def train_and_validate(
    training: Training, training_split: Split, validation_split: Split, params: TrainParams
) -> dict[str, float]:
    """Run the next epoch; its row of the history."""
    epoch = len(training.history) + 1
    started = time.perf_counter()
    loss = train_one_epoch(training, training_split, params, f"epoch {epoch}/{params.epochs}")
    seconds = time.perf_counter() - started
    logits, labels = predict(training.model, validation_split, params)
    return {
        "epoch": epoch,
        "learning_rate": float(training.schedule.get_last_lr()[0]),
        "loss": loss,
        "validation_loss": F.cross_entropy(logits, labels).item(),
        "validation_accuracy": (logits.argmax(1) == labels).float().mean().item(),
        "photos_per_second": len(training_split) / seconds,
    }


def new_training(params: TrainParams, classes: int, photos: int) -> Training:
    """A fresh model with AdamW and a one-cycle schedule over all steps."""
    torch.manual_seed(params.seed)
    model = SimpleCNN(classes).to(device()).to(memory_format=torch.channels_last)
    wide = set(model.fc1.parameters())
    # A step of Adam moves every weight by the learning rate, so an output by that times its
    # inputs: the 50,176 of fc1 need smaller steps than the 27 to 1,152 of a convolution.
    groups = [
        {"params": [p for p in model.parameters() if p not in wide], "lr": params.learning_rate},
        {
            "params": list(model.fc1.parameters()),
            "lr": params.learning_rate * params.fc1_learning_rate_share,
        },
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=params.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=params.epochs * steps_per_epoch(photos, params),
        pct_start=params.warmup_share,
    )
    return Training(model, optimizer, schedule, [])


def augmentation(params: TrainParams) -> v2.Compose:
    """Random crop, mirror, colour and greyscale, on one uint8 photo (3, 224, 224)."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(SIDE, scale=(params.crop_scale, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(params.brightness, params.contrast, params.saturation),
            v2.RandomGrayscale(params.greyscale),
        ]
    )


def train_one_epoch(training: Training, split: Split, params: TrainParams, title: str) -> float:
    """One pass over `split`; the mean loss of its steps."""
    loader = DataLoader(
        split,
        batch_size=min(params.batch_size, len(split)),
        shuffle=True,
        drop_last=True,  # batch normalisation can't use a last batch of one photo
        num_workers=params.loader_workers,
    )
    training.model.train()
    total = 0.0
    bar = tqdm(loader, desc=title, unit_scale=params.batch_size, unit="photo", mininterval=1)
    for step, (photos, labels) in enumerate(bar, start=1):
        with autocast():
            logits = training.model(normalise(photos.to(device()), params.mean, params.std))
            loss = F.cross_entropy(
                logits.float(), labels.to(device()), label_smoothing=params.label_smoothing
            )
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        training.schedule.step()
        total += loss.item()
        bar.set_postfix(loss=f"{total / step:.3f}", refresh=False)
    return total / len(loader)


@torch.inference_mode()
def predict(
    model: SimpleCNN, split: Split, params: TrainParams, *, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, classes), float32, and labels (N,), int64, of a split in its order.

    `exact` computes in float32 throughout, as the server's eager backend does.
    """
    model.eval()
    logits = []
    for photos, _ in DataLoader(split, batch_size=params.batch_size):
        with autocast(enabled=not exact):
            batch = normalise(photos.to(device()), params.mean, params.std)
            logits.append(model(batch).float().cpu())
    return torch.cat(logits), torch.tensor(split.labels)


def steps_per_epoch(photos: int, params: TrainParams) -> int:
    return photos // min(params.batch_size, photos)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(*, enabled: bool = True) -> torch.autocast:
    """bfloat16 where the processor computes in it; emulated, it would be slower than float32."""
    features = torch.cpu.get_capabilities()
    fast = device().type == "cuda" or features.get("avx512_bf16") or features.get("amx_bf16")
    return torch.autocast(device().type, dtype=torch.bfloat16, enabled=enabled and bool(fast))


def keep_freed_memory() -> None:
    """Stop glibc from giving big blocks back to the kernel between steps.

    Mapping and clearing the activations anew each step halves the photos a second.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
