"""Devices for training: a GPU or the CPU, and several processes or machines.

torchrun --nproc-per-node 2 -m -- training train --run runs/two

Each process takes its share of every step's photos: the effective batch is `batch_size` times the
number of processes. Gradients are averaged (DistributedDataParallel, over NCCL between GPUs, else
over gloo). The first process writes the run.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from training.files import UsageError

CPU = torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """The device named cpu, cuda, cuda:N, mps, or auto (a CUDA GPU if there is one, else the CPU).

    Each process that torchrun starts gets its own GPU. Raises UsageError for another name, and for
    a device that PyTorch doesn't find.
    """
    kind, _, number = name.partition(":")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise UsageError(f"device {name!r} is unknown; give auto, cpu, cuda, cuda:N or mps")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return CPU
    if kind == "mps":
        return _apple()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = int(number or os.environ.get("LOCAL_RANK", "0"))
    if chosen >= gpus:
        raise UsageError(
            f"device {name}: PyTorch finds {gpus} CUDA GPUs here; give another, or cpu"
        )
    # Plain float32, as on the CPU; training itself uses bfloat16.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    return torch.device("cuda", chosen)


def _apple() -> torch.device:
    if not torch.backends.mps.is_available():
        raise UsageError("device mps: PyTorch finds no Apple GPU here; give cpu")
    print(
        "mps: computes in float32, and its speed was never measured; PyTorch warns about "
        "operations that run on the CPU instead",
        file=sys.stderr,
    )
    return torch.device("mps")


def device_of(module: nn.Module) -> torch.device:
    """The device of the parameters of `module`."""
    return next(module.parameters()).device


def machine(processes: int, device: torch.device) -> str:
    """A description of the hardware that `processes` processes use."""
    cores = torch.get_num_threads()
    one = f"{cores} core{'s' * (cores > 1)} without a GPU"
    if device.type != "cpu":
        one = torch.cuda.get_device_name(device) if device.type == "cuda" else "an Apple GPU"
    return one if processes == 1 else f"{processes} times {one}"


def autocast(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16 if `device` supports it; emulated, it would be slower than float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled and fast)


def memory_used(device: torch.device) -> float:
    """Peak memory of this process on a CUDA GPU, in GB; 0 on other devices."""
    return torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else 0.0


def keep_freed_memory() -> None:
    """Stop glibc from returning large blocks to the kernel between steps.

    Mapping and clearing the activations again in each step halves throughput.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def world_size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if there are several."""
    if world_size() == 1:
        yield
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def data_parallel(module: nn.Module) -> nn.Module:
    """`module` with gradients that are averaged over all processes."""
    if world_size() == 1:
        return module
    # Without a teacher, the student heads get no gradient.
    return DistributedDataParallel(module, find_unused_parameters=True)


def shard(order: torch.Tensor) -> torch.Tensor:
    """This process's part of the photo numbers of each step (steps, photos)."""
    return order.chunk(world_size(), dim=1)[rank()]


def all_reduce_mean(values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over all processes."""
    if world_size() == 1:
        return values
    sums = torch.tensor(list(values.values()), dtype=torch.float64)
    distributed.all_reduce(sums)
    return dict(zip(values, (sums / world_size()).tolist(), strict=True))
