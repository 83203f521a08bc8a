"""What the machine offers to training: a GPU, bfloat16, an allocator that keeps its pages."""

from __future__ import annotations

import ctypes
import sys

import torch


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(processes: int) -> str:
    """What so many processes compute on, in words."""
    cores = torch.get_num_threads()
    gpu = torch.cuda.is_available()
    one = torch.cuda.get_device_name() if gpu else f"{cores} core{'s' * (cores > 1)} without a GPU"
    return one if processes == 1 else f"{processes} times {one}"


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
