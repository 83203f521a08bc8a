"""What the machine offers to training: a GPU, bfloat16, an allocator that keeps its pages."""

from __future__ import annotations

import ctypes
import os
import re
import sys

import torch
from torch import nn

from training.errors import UsageError

CPU = torch.device("cpu")


def choose_device(name: str) -> torch.device:
    """The device of a name: cpu, cuda, cuda:N, mps, or auto, a CUDA GPU where there is one.

    Of several processes that torchrun starts, each takes a GPU of its own. Raises UsageError for a
    name that is none of these, and for a device that PyTorch doesn't find here.
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
    # In float32, as on the processor; training itself computes in bfloat16.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    return torch.device("cuda", chosen)


def _apple() -> torch.device:
    if not torch.backends.mps.is_available():
        raise UsageError("device mps: PyTorch finds no Apple GPU here; give cpu")
    print(
        "mps: in float32 alone, and its speed was never measured; what Apple's GPU can't compute, "
        "PyTorch computes on the processor and names in a warning",
        file=sys.stderr,
    )
    return torch.device("mps")


def device_of(module: nn.Module) -> torch.device:
    """Where `module` computes."""
    return next(module.parameters()).device


def machine(processes: int, device: torch.device) -> str:
    """What so many processes compute on, in words."""
    cores = torch.get_num_threads()
    one = f"{cores} core{'s' * (cores > 1)} without a GPU"
    if device.type != "cpu":
        one = torch.cuda.get_device_name(device) if device.type == "cuda" else "an Apple GPU"
    return one if processes == 1 else f"{processes} times {one}"


def autocast(device: torch.device, *, enabled: bool = True) -> torch.autocast:
    """bfloat16 where `device` computes in it; emulated, it would be slower than float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled and fast)


def memory_used(device: torch.device) -> float:
    """The most memory of a CUDA GPU that this process has held, in GB; of other devices 0."""
    return torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else 0.0


def keep_freed_memory() -> None:
    """Stop glibc from giving big blocks back to the kernel between steps.

    Mapping and clearing the activations anew each step halves the photos a second.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
