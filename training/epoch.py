"""One pass over the training photos."""

from __future__ import annotations

import time
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from handler.photo import SIDE
from training.augment import augment
from training.checkpoint import Training
from training.dataset import UNKNOWN, PixelLoader, Split
from training.distributed import averaged, rank, share_of, world_size
from training.hardware import autocast, memory_used
from training.model import SimpleCNN, normalise
from training.params import TrainParams, photos_in_epoch
from training.teacher import Seen, Teacher


def train_one_epoch(
    training: Training, loader: PixelLoader, teacher: Teacher | None
) -> dict[str, float]:
    """The next pass over the photos of `loader`; its row of the history."""
    params, epoch, device = training.params, len(training.history), loader.device
    progress = epoch / max(params.epochs - 1, 1)
    strength = 1 + progress * (params.final_strength - 1)
    side = params.small_side if epoch < params.small_epochs else SIDE
    training.model.train()
    order = order_of_epoch(loader.split, params)
    all_labels = torch.tensor(loader.split.labels)[order].to(device)
    batches = zip(loader.batches(order), all_labels, strict=True)
    title = f"epoch {epoch + 1}/{params.epochs}"
    bar = tqdm(batches, title, len(order), unit_scale=order.shape[1], unit="photo", mininterval=1)
    # Read once a second and at the end, since reading a number waits for the GPU.
    values_of: dict[str, list[torch.Tensor]] = defaultdict(list)
    loading = 0.0
    started = loaded = shown = time.perf_counter()
    for pixels, labels in bar:
        classes = len(loader.split.classes)
        photos, targets = changed_batch(pixels, labels, classes, params, strength)
        loading += time.perf_counter() - loaded
        for name, value in train_one_step(training, photos, targets, side, teacher).items():
            values_of[name].append(value)
        loaded = time.perf_counter()
        if loaded - shown > 1:
            shown = loaded
            bar.set_postfix_str(progress_of(values_of, loading / (loaded - started), device), False)
    sums = {
        name: torch.stack(values).cpu().double().sum().item() for name, values in values_of.items()
    }
    seconds = time.perf_counter() - started
    figures = averaged(
        {
            "loading_share": loading / seconds,
            "accuracy": sums.pop("right") / order.numel(),
            **{name: value / len(order) for name, value in sums.items()},
            "gpu_memory_gb": memory_used(device),
        }
    )
    return {
        "epoch": epoch + 1,
        "learning_rate": float(training.schedule.get_last_lr()[0]),
        "photos_per_second": order.numel() * world_size() / seconds,
        **figures,
    }


def progress_of(
    values_of: dict[str, list[torch.Tensor]], loading: float, device: torch.device
) -> str:
    """What the progress bar says after photos/s."""
    text = f"loss={torch.stack(values_of['loss']).mean().item():.3f}, loading={loading:.0%}"
    memory = memory_used(device)
    return text + (f", GPU {memory:.1f} GB" if memory else "")


def order_of_epoch(split: Split, params: TrainParams) -> torch.Tensor:
    """Photo numbers of each step (steps, photos), at random; those of this process."""
    steps, size = steps_in_epoch(split, params), batch_size(split, params) * world_size()
    order = share_of(torch.randperm(len(split))[: steps * size].view(steps, size))
    if rank():  # the same order everywhere, but changes and dropout of its own
        torch.manual_seed(torch.initial_seed() + rank())
    return order.sort(dim=1).values  # neighbours on the disk, should it come from there


def changed_batch(
    pixels: torch.Tensor, labels: torch.Tensor, classes: int, params: TrainParams, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 photos (N, 3, 224, 224) changed at random, 0 to 255, and targets (N, classes).

    The target of a photo without a label, and of what it is blended with, is no number.
    """
    photos = augment(pixels, params, strength)
    targets = F.one_hot(labels.clamp(min=0), classes).float()
    targets.masked_fill_((labels == UNKNOWN).unsqueeze(1), torch.nan)
    if torch.rand(()) < strength * params.mixup:
        photos, targets = mixup(photos, targets)
    return photos, targets


def mixup(photos: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each photo blended with another, and its target likewise; Zhang and others 2018."""
    share = float(torch.rand(()))
    other = torch.randperm(len(photos), device=photos.device)
    return torch.lerp(photos[other], photos, share), torch.lerp(targets[other], targets, share)


def train_one_step(
    training: Training,
    photos: torch.Tensor,
    targets: torch.Tensor,
    side: int,
    teacher: Teacher | None,
) -> dict[str, torch.Tensor]:
    """Learn from photos (N, 3, 224, 224), 0 to 255, with targets (N, classes), at `side` pixels.

    Targets that are no numbers are the teacher's probabilities.

    Returns what is to be summed over an epoch, each a number on the device that computes.
    """
    params = training.params
    seen = teacher(photos) if teacher else None
    if seen:  # without a label, the teacher's word is all that there is
        targets = torch.where(targets.isnan(), seen.probabilities, targets)
    logits, teacher_loss = training.objective(photos, side, seen)
    smoothing = params.label_smoothing
    loss = label_loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if seen:
        share = params.teacher_labels
        teacher_label_loss = F.cross_entropy(logits, seen.probabilities)
        loss = (1 - share) * label_loss + share * teacher_label_loss
    loss = loss + teacher_loss
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    training.schedule.step()
    update_average(training.average, training.model, params.ema_decay)
    return {
        "loss": label_loss.detach(),
        "total_loss": loss.detach(),
        "right": (logits.argmax(1) == targets.argmax(1)).sum(),
    }


@torch.no_grad()
def update_average(average: AveragedModel, model: SimpleCNN, decay: float) -> None:
    """Move the average of weights and statistics towards those of `model`, faster at first.

    AveragedModel's own update waits for a GPU twice a step.
    """
    updates = int(average.n_averaged)  # on the processor
    share = min(decay, (1 + updates) / (10 + updates)) if updates else 0.0
    old, new = (list(m.state_dict().values()) for m in (average.module, model))
    real = [number for number, tensor in enumerate(new) if tensor.is_floating_point()]
    torch._foreach_lerp_([old[n] for n in real], [new[n] for n in real], 1 - share)
    for n in set(range(len(new))) - set(real):  # counters of batches
        old[n].copy_(new[n])
    average.n_averaged += 1


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
        with autocast(photos.device):
            photos = resized(normalise(photos, params.mean, params.std), side)
            maps = resized(model.maps(photos), SIDE // 16)
            embedding = model.embed(maps)
            logits = model.fc3(model.dropout(embedding)).float()
        if seen is None:
            return logits, torch.zeros((), device=logits.device)
        return logits, self.teacher_loss(maps, embedding, seen)

    def teacher_loss(self, maps: torch.Tensor, embedding: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Weighted squared error of what the pupil makes of the model's maps and embedding."""
        with autocast(maps.device):
            known_maps = self.pupil["maps"](maps).float()
            known_features = self.pupil["features"](embedding).float()
        params = self.params
        maps_loss = F.mse_loss(known_maps, seen.maps)
        features_loss = F.mse_loss(known_features, seen.features)
        return params.teacher_maps * maps_loss + params.teacher_features * features_loss


def resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """(N, C, side, side); the same tensor where that is its size."""
    if pictures.shape[-1] == side:
        return pictures
    shrinks = pictures.shape[-1] > side  # without, to enlarge is the same and takes half the time
    return F.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=shrinks)


def batch_size(split: Split, params: TrainParams) -> int:
    """Photos a step and process: the parameter, or the whole split where that is smaller."""
    return min(params.batch_size, len(split) // world_size())


def steps_in_epoch(split: Split, params: TrainParams) -> int:
    photos = photos_in_epoch(len(split), params.epoch_photos)
    return max(1, photos // (batch_size(split, params) * world_size()))
