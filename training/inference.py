"""The network's outputs for all photos of a split, and the ranges of its layers' inputs."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from training.dataset import Split
from training.devices import autocast, device_of
from training.model import SimpleCNN, normalise
from training.params import TrainParams


class Outputs(NamedTuple):
    """Outputs for the photos of a split, in its order."""

    averages: torch.Tensor  # averages of the last maps (N, 256), float32
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
    """Outputs of `model` for all photos of `split`.

    `exact` computes in float32 only, as the server's PyTorch backend does.
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


@torch.inference_mode()
def activation_ranges(
    network: SimpleCNN, split: Split, photos: int, params: TrainParams
) -> dict[str, list[float]]:
    """Lowest and highest input of each layer, in the order of computation, over a random sample of
    `photos` photos.

    These are the extremes over all photos. NNCF's default, means of each photo's extremes, clips
    bright maps and costs a third of a point of accuracy.
    """
    ranges: dict[str, list[float]] = {}

    def widen(name: str, module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        low, high = ranges.get(name, [0.0, 0.0])
        ranges[name] = [min(low, inputs[0].min().item()), max(high, inputs[0].max().item())]

    layers = [
        module.register_forward_pre_hook(partial(widen, name))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:photos]
    for start in range(0, len(order), params.batch_size):
        numbers = order[start : start + params.batch_size].sort().values
        batch = split.pixel_batch(numbers.tolist()).to(device_of(network))
        network(normalise(batch, params.mean, params.std))
    for layer in layers:
        layer.remove()
    return ranges
