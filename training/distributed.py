"""One training on several processes or machines, which torchrun starts.

torchrun --nproc-per-node 2 -m -- training train --run runs/two

Each takes its share of every step's photos, so that a step sees as many times `batch_size` as there
are processes; gradients are averaged (DistributedDataParallel: over NCCL between GPUs, else over
gloo). The first writes the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def joined() -> Iterator[None]:
    """With the other processes, where there are any."""
    if world_size() == 1:
        yield
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def shared(module: nn.Module) -> nn.Module:
    """`module` with gradients that are averaged over all processes."""
    if world_size() == 1:
        return module
    # Without a teacher, what looks at the model for it gets no gradient.
    return DistributedDataParallel(module, find_unused_parameters=True)


def share_of(order: torch.Tensor) -> torch.Tensor:
    """Of the photo numbers of each step (steps, photos), this process's."""
    return order.chunk(world_size(), dim=1)[rank()]


def averaged(figures: dict[str, float]) -> dict[str, float]:
    """Over all processes."""
    if world_size() == 1:
        return figures
    values = torch.tensor(list(figures.values()), dtype=torch.float64)
    distributed.all_reduce(values)
    return dict(zip(figures, (values / world_size()).tolist(), strict=True))
