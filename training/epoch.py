"""One pass over the training photos."""

from __future__ import annotations

import time
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from handler.photo import SIDE
from training.augment import augment
from training.checkpoint import Training
from training.data import Split
from training.distributed import averaged, rank, share_of, world_size
from training.hardware import autocast, device
from training.model import SimpleCNN, normalise
from training.params import TrainParams
from training.teacher import Seen, Teacher


def train_one_epoch(training: Training, split: Split, teacher: Teacher | None) -> dict[str, float]:
    """The next pass over `split`; its row of the history."""
    params, epoch = training.params, len(training.history)
    progress = epoch / max(params.epochs - 1, 1)
    strength = 1 + progress * (params.final_strength - 1)
    side = params.small_side if epoch < params.small_epochs else SIDE
    training.model.train()
    sums: dict[str, float] = defaultdict(float)
    order = order_of_epoch(split, params)
    title = f"epoch {epoch + 1}/{params.epochs}"
    bar = tqdm(order, desc=title, unit_scale=order.shape[1], unit="photo", mininterval=1)
    started = loaded = time.perf_counter()
    for step, numbers in enumerate(bar, start=1):
        photos, targets = changed_batch(split, numbers, params, strength)
        sums["loading"] += time.perf_counter() - loaded
        for name, value in train_one_step(training, photos, targets, side, teacher).items():
            sums[name] += value
        loaded = time.perf_counter()
        bar.set_postfix(loss=f"{sums['loss'] / step:.3f}", refresh=False)
    seconds = loaded - started
    figures = averaged(
        {
            "loading_share": sums.pop("loading") / seconds,
            "accuracy": sums.pop("right") / order.numel(),
            **{name: value / len(order) for name, value in sums.items()},
        }
    )
    return {
        "epoch": epoch + 1,
        "learning_rate": float(training.schedule.get_last_lr()[0]),
        "photos_per_second": order.numel() * world_size() / seconds,
        **figures,
    }


def order_of_epoch(split: Split, params: TrainParams) -> torch.Tensor:
    """Photo numbers of each step (steps, photos), at random; those of this process."""
    steps, size = steps_in_epoch(split, params), batch_size(split, params) * world_size()
    order = share_of(torch.randperm(len(split))[: steps * size].view(steps, size))
    if rank():  # the same order everywhere, but changes and dropout of its own
        torch.manual_seed(torch.initial_seed() + rank())
    return order


def changed_batch(
    split: Split, numbers: torch.Tensor, params: TrainParams, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos (N, 3, 224, 224), 0 to 255, changed at random, and their targets (N, classes)."""
    numbers = numbers.sort().values  # neighbours on the disk, should it come from there
    labels = torch.tensor([split.labels[number] for number in numbers])
    photos = augment(split.pixel_batch(numbers.tolist()), params, strength)
    targets = F.one_hot(labels, len(split.classes)).float()
    if torch.rand(()) < strength * params.mixup:
        photos, targets = mixup(photos, targets)
    return photos, targets


def mixup(photos: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each photo blended with another, and its target likewise; Zhang and others 2018."""
    share = float(torch.rand(()))
    other = torch.randperm(len(photos))
    return torch.lerp(photos[other], photos, share), torch.lerp(targets[other], targets, share)


def train_one_step(
    training: Training,
    photos: torch.Tensor,
    targets: torch.Tensor,
    side: int,
    teacher: Teacher | None,
) -> dict[str, float]:
    """Learn from photos (N, 3, 224, 224), 0 to 255, with targets (N, classes), at `side` pixels.

    Returns what is to be summed over an epoch.
    """
    params = training.params
    seen = teacher(photos) if teacher else None
    logits, teacher_loss = training.objective(photos, side, seen)
    targets = targets.to(device())
    smoothing = params.label_smoothing
    loss = label_loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if seen:
        share = params.teacher_labels
        told_loss = F.cross_entropy(logits, seen.probabilities.to(device()))
        loss = (1 - share) * label_loss + share * told_loss
    loss = loss + teacher_loss
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    training.schedule.step()
    training.average.update_parameters(training.model)
    return {
        "loss": label_loss.item(),
        "total_loss": loss.item(),
        "right": (logits.argmax(1) == targets.argmax(1)).sum().item(),
    }


class Objective(nn.Module):
    """The model, with what the teacher asks of its maps and embedding."""

    def __init__(self, model: SimpleCNN, pupil: nn.ModuleDict, params: TrainParams) -> None:
        super().__init__()
        self.model, self.pupil, self.params = model, pupil, params

    def forward(
        self, photos: torch.Tensor, side: int, seen: Seen | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, classes) of photos (N, 3, 224, 224), 0 to 255, and `teacher_loss`, or 0."""
        params, model = self.params, self.model
        with autocast():
            photos = resized(normalise(photos.to(device()), params.mean, params.std), side)
            maps = resized(model.maps(photos), SIDE // 16)
            embedding = model.embed(maps)
            logits = model.fc3(model.dropout(embedding)).float()
        if seen is None:
            return logits, torch.zeros((), device=logits.device)
        return logits, self.teacher_loss(maps, embedding, seen)

    def teacher_loss(self, maps: torch.Tensor, embedding: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Weighted squared error of what the pupil makes of the model's maps and embedding."""
        with autocast():
            known_maps = self.pupil["maps"](maps).float()
            known_features = self.pupil["features"](embedding).float()
        params = self.params
        maps_loss = F.mse_loss(known_maps, seen.maps.to(device()))
        features_loss = F.mse_loss(known_features, seen.features.to(device()))
        return params.teacher_maps * maps_loss + params.teacher_features * features_loss


def resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(N, C, side, side); the same tensor where that is its size."""
    if pictures.shape[-1] == side:
        return pictures
    return F.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=True)


def batch_size(split: Split, params: TrainParams) -> int:
    """Photos a step and process: the parameter, or the whole split where that is smaller."""
    return min(params.batch_size, len(split) // world_size())


def steps_in_epoch(split: Split, params: TrainParams) -> int:
    return len(split) // (batch_size(split, params) * world_size())
