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
from training.checkpoint import CHECKPOINT, Training, load_checkpoint, read_run, save_epoch
from training.data import Split
from training.model import SimpleCNN, normalise
from training.params import TrainParams, UsageError

Log = Callable[[dict[str, float]], None]
Tracker = AbstractContextManager[Log]


def train(
    index: Path,
    run: Path,
    params: TrainParams,
    *,
    resume: bool,
    tracker: Tracker,
    start: Path | None = None,
) -> None:
    """Train for `params.epochs` epochs; write checkpoint, best weights and history into `run`.

    The weights are random at first, or the best ones of the run `start`. `tracker` is entered
    when all checks have passed, and what it gives is called after each epoch with its row of the
    history. Interrupted between two steps, nothing but the epoch in hand is lost, and `resume`
    ends at the same weights as an uninterrupted run. Raises UsageError for a run that exists
    (without `resume`), doesn't exist, or had other parameters or photos (with it).
    """
    keep_freed_memory()
    training_split = Split(index, "train", augmentation(params))
    validation_split = Split(index, "validation")
    training = new_training(params, training_split)
    if resume:
        load_checkpoint(run, training)
    elif (run / CHECKPOINT).exists():
        raise UsageError(f"{run}: holds a run already; continue it with --resume or name another")
    elif start is not None:
        start_from(start, training)
    run.mkdir(parents=True, exist_ok=True)
    with tracker as log:
        for epoch in range(len(training.history), params.epochs):
            # Seeded by epoch, so that a resumed run sees the same order, crops and dropout.
            torch.manual_seed(params.seed * 1_000_000 + epoch)
            training.history.append(train_and_validate(training, training_split, validation_split))
            save_epoch(run, training)
            log(training.history[-1])


def train_and_validate(
    training: Training, training_split: Split, validation_split: Split
) -> dict[str, float]:
    """Run the next epoch; its row of the history."""
    epoch = len(training.history) + 1
    started = time.perf_counter()
    loss = train_one_epoch(training, training_split, f"epoch {epoch}/{training.params.epochs}")
    seconds = time.perf_counter() - started
    logits, labels = split_logits(training.model, validation_split, training.params)
    return {
        "epoch": epoch,
        "learning_rate": float(training.schedule.get_last_lr()[0]),
        "loss": loss,
        "validation_loss": F.cross_entropy(logits, labels).item(),
        "validation_accuracy": (logits.argmax(1) == labels).float().mean().item(),
        "photos_per_second": len(training_split) / seconds,
    }


def new_training(params: TrainParams, split: Split) -> Training:
    """A fresh model with AdamW and a one-cycle schedule over all steps."""
    torch.manual_seed(params.seed)
    model = SimpleCNN(len(split.classes)).to(device()).to(memory_format=torch.channels_last)
    narrow = [p for name, p in model.named_parameters() if not name.startswith("fc1.")]
    # A step of Adam moves every weight by the learning rate, so an output by that times its
    # inputs: the 50,176 of fc1 need smaller steps than the 27 to 1,152 of a convolution.
    groups = [
        {"params": narrow, "lr": params.learning_rate},
        {
            "params": list(model.fc1.parameters()),
            "lr": params.learning_rate * params.fc1_learning_rate_share,
        },
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=params.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=params.epochs * (len(split) // batch_size(split, params)),
        pct_start=params.warmup_share,
    )
    return Training(params, split.classes, split.index_sha256, model, optimizer, schedule, [])


def start_from(run: Path, training: Training) -> None:
    """Give `training` the best weights of `run`.

    Raises UsageError when it was trained on other photos: it may have learned this test split.
    """
    about, _, state = read_run(run)
    if about["index_sha256"] != training.index_sha256:
        raise UsageError(f"{run}: was trained on other photos or splits")
    training.model.load_state_dict(state)


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


def train_one_epoch(training: Training, split: Split, title: str) -> float:
    """One pass over `split`; the mean loss of its steps."""
    params = training.params
    loader = DataLoader(
        split,
        batch_size=batch_size(split, params),
        shuffle=True,
        drop_last=True,  # the statistics of a small last batch would be noise
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
def split_logits(
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


def batch_size(split: Split, params: TrainParams) -> int:
    """Photos a step: the parameter, or the whole split where that is smaller."""
    return min(params.batch_size, len(split))


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
