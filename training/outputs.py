"""What the network says to all photos of a split."""

from __future__ import annotations

from typing import NamedTuple

import torch

from training.dataset import Split
from training.hardware import autocast, device_of
from training.model import SimpleCNN, normalise
from training.params import TrainParams


class Outputs(NamedTuple):
    """Of the photos of a split, in its order."""

    averages: torch.Tensor  # of the last maps (N, 256), float32
    logits: torch.Tensor  # (N, classes), float32
    labels: torch.Tensor  # (N,), int64


def split_logits(
    model: SimpleCNN, split: Split, params: TrainParams, *, exact: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of `split_outputs`."""
    outputs = split_outputs(model, split, params, exact=exact)
    return outputs.logits, outputs.labels


@torch.inference_mode()
def split_outputs(
    model: SimpleCNN, split: Split, params: TrainParams, *, exact: bool = False
) -> Outputs:
    """What `model` says to all photos of `split`.

    `exact` computes in float32 throughout, as the server's eager backend does.
    """
    model.eval()
    device = device_of(model)
    averages, logits = [], []
    for photos in split.batches(params.batch_size):
        with autocast(device, enabled=not exact):
            maps = model.maps(normalise(photos.to(device), params.mean, params.std))
            averages.append(maps.float().mean((2, 3)).cpu())
            logits.append(model.head(maps).float().cpu())
    return Outputs(torch.cat(averages), torch.cat(logits), torch.tensor(split.labels))
