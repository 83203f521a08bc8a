"""What the network says to all photos of a split."""

from __future__ import annotations

import torch

from training.data import Split
from training.hardware import autocast, device
from training.model import SimpleCNN, normalise
from training.params import TrainParams


def split_logits(
    model: SimpleCNN, split: Split, params: TrainParams, *, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, classes), float32, and labels (N,), int64, of a split in its order.

    `exact` computes in float32 throughout, as the server's eager backend does.
    """
    return split_outputs(model, split, params, exact=exact)[1:]


@torch.inference_mode()
def split_outputs(
    model: SimpleCNN, split: Split, params: TrainParams, *, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The averages of the last maps (N, 256), float32, before what `split_logits` gives."""
    model.eval()
    averages, logits = [], []
    for photos in split.batches(params.batch_size):
        with autocast(enabled=not exact):
            maps = model.maps(normalise(photos.to(device()), params.mean, params.std))
            averages.append(maps.float().mean((2, 3)).cpu())
            logits.append(model.head(maps).float().cpu())
    return torch.cat(averages), torch.cat(logits), torch.tensor(split.labels)
