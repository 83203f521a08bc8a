"""How many workers fit into the memory limit of this container."""

from __future__ import annotations

import math
import os
from pathlib import Path

from tools.server.settings import NotServed

CGROUPS = Path("/sys/fs/cgroup")
# Megabytes, measured with the largest photos on /predict and /explain: a worker, and everything
# else (frontend, gateway, launcher, the archive unpacked in memory). On CPUs without int8 units;
# with them, a worker needs 650, and LEAST is enough for one worker and everything else.
WORKER = 810
OTHERS = 350
LEAST = 950


def workers_that_fit(versions: int) -> int | None:
    """Number of workers for each of `versions` versions; None without a memory limit.

    Raises NotServed if there is no room for one worker of each.
    """
    limit = memory_limit()
    if limit is None:
        return None
    megabytes = limit / 1e6
    least = LEAST + (versions - 1) * WORKER
    if megabytes < least:
        raise NotServed(
            f"{megabytes:.0f} MB of memory are too little; give this container {least} MB"
        )
    fitting = int((megabytes - OTHERS) / (versions * WORKER))
    return max(1, min(cores(), fitting))


def memory_limit() -> int | None:
    """Bytes, from cgroup version 2 or 1; None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = read(name)
        if text.isdecimal() and int(text) < 2**50:  # version 1 says 2**63 for no limit
            return int(text)
    return None


def cores() -> int:
    """CPU cores that this container may use, rounded up, as Java does."""
    quota, _, period = read("cpu.max").partition(" ")
    if not quota:
        quota, period = read("cpu/cpu.cfs_quota_us"), read("cpu/cpu.cfs_period_us")
    there = len(os.sched_getaffinity(0))
    return min(there, math.ceil(int(quota) / int(period))) if quota.isdecimal() else there


def read(name: str) -> str:
    try:
        return (CGROUPS / name).read_text().strip()
    except OSError:
        return ""
