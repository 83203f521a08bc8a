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
from training.devices import all_reduce_mean, autocast, memory_used, rank, shard, world_size
from training.model import SimpleCNN, normalise
from training.params import TrainParams, photos_in_epoch
from training.teach import Teacher, TeacherOutput


def train_one_epoch(
    training: Training, loader: PixelLoader, teacher: Teacher | None
) -> dict[str, float]:
    """Run the next epoch over the photos of `loader`; return its row of the history."""
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
    # Read only once a second and at the end, since reading a number waits for the GPU.
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
    metrics = all_reduce_mean(
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
        **metrics,
    }


def progress_of(
    values_of: dict[str, list[torch.Tensor]], loading: float, device: torch.device
) -> str:
    """The text of the progress bar after photos/s."""
    text = f"loss={torch.stack(values_of['loss']).mean().item():.3f}, loading={loading:.0%}"
    memory = memory_used(device)
    return text + (f", GPU {memory:.1f} GB" if memory else "")


def order_of_epoch(split: Split, params: TrainParams) -> torch.Tensor:
    """Random photo numbers of each step (steps, photos), for this process."""
    steps, size = steps_in_epoch(split, params), batch_size(split, params) * world_size()
    order = shard(torch.randperm(len(split))[: steps * size].view(steps, size))
    if rank():  # the same order in all processes, but different augmentation and dropout
        torch.manual_seed(torch.initial_seed() + rank())
    return order.sort(dim=1).values  # sorted, for sequential reads from disk


def changed_batch(
    pixels: torch.Tensor, labels: torch.Tensor, classes: int, params: TrainParams, strength: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Randomly changed photos (N, 3, 224, 224), 0 to 255, and targets (N, classes), from uint8.

    The target of a photo without a label is NaN, and so is that of a blend with it.
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

    NaN targets are replaced by the teacher's probabilities.

    Returns values to sum over an epoch, each a scalar tensor on the device.
    """
    params = training.params
    teacher_output = teacher(photos) if teacher else None
    if teacher_output:  # without a label, only the teacher's answer is known
        targets = torch.where(targets.isnan(), teacher_output.probabilities, targets)
    logits, teacher_loss = training.objective(photos, side, teacher_output)
    smoothing = params.label_smoothing
    loss = label_loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if teacher_output:
        share = params.teacher_labels
        teacher_label_loss = F.cross_entropy(logits, teacher_output.probabilities)
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

    The update of AveragedModel itself waits for a GPU twice per step.
    """
    updates = int(average.n_averaged)  # on the CPU
    share = min(decay, (1 + updates) / (10 + updates)) if updates else 0.0
    old, new = (list(m.state_dict().values()) for m in (average.module, model))
    real = [number for number, tensor in enumerate(new) if tensor.is_floating_point()]
    torch._foreach_lerp_([old[n] for n in real], [new[n] for n in real], 1 - share)
    for n in set(range(len(new))) - set(real):  # counters of batches
        old[n].copy_(new[n])
    average.n_averaged += 1


class Objective(nn.Module):
    """The student: the model, with heads that predict the teacher's maps and features."""

    def __init__(self, model: SimpleCNN, student_heads: nn.ModuleDict, params: TrainParams) -> None:
        super().__init__()
        self.model, self.student_heads, self.params = model, student_heads, params

    def forward(
        self, photos: torch.Tensor, side: int, target: TeacherOutput | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (N, classes) of photos (N, 3, 224, 224), 0 to 255, and `teacher_loss` or 0."""
        params, model = self.params, self.model
        with autocast(photos.device):
            photos = resized(normalise(photos, params.mean, params.std), side)
            maps = resized(model.maps(photos), SIDE // 16)
            embedding = model.embed(maps)
            logits = model.fc3(model.dropout(embedding)).float()
        if target is None:
            return logits, torch.zeros((), device=logits.device)
        return logits, self.teacher_loss(maps, embedding, target)

    def teacher_loss(
        self, maps: torch.Tensor, embedding: torch.Tensor, target: TeacherOutput
    ) -> torch.Tensor:
        """Weighted squared error of the student heads' predictions from maps and embedding."""
        with autocast(maps.device):
            student_maps = self.student_heads["maps"](maps).float()
            student_features = self.student_heads["features"](embedding).float()
        params = self.params
        maps_loss = F.mse_loss(student_maps, target.maps)
        features_loss = F.mse_loss(student_features, target.features)
        return params.teacher_maps * maps_loss + params.teacher_features * features_loss


def resized(pictures: torch.Tensor, side: int) -> torch.Tensor:
    """Pictures resized to (N, C, side, side); the same tensor if it has this size."""
    if pictures.shape[-1] == side:
        return pictures
    shrinks = pictures.shape[-1] > side  # enlarging without it is the same and takes half the time
    return F.interpolate(pictures.float(), (side, side), mode="bilinear", antialias=shrinks)


def batch_size(split: Split, params: TrainParams) -> int:
    """Photos per step and process: the parameter, or the whole split if that is smaller."""
    return min(params.batch_size, len(split) // world_size())


def steps_in_epoch(split: Split, params: TrainParams) -> int:
    photos = photos_in_epoch(len(split), params.epoch_photos)
    return max(1, photos // (batch_size(split, params) * world_size()))
