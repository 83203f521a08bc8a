"""The machine of a benchmark."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """Number of cores, CPU model and its vector units."""
    features = torch.cpu.get_capabilities()
    units = [
        name
        for key, name in (
            ("avx512_f", "AVX-512"), ("avx512_vnni", "VNNI (int8)"), ("avx512_bf16", "bfloat16"),
            ("amx_bf16", "AMX"),
        )
        if features.get(key)
    ]  # fmt: skip
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {name()} with {', '.join(units) or 'AVX2 or less'}"


def name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
