"""How many workers fit into the memory that this container may take."""

from __future__ import annotations

import math
import os
from pathlib import Path

from settings import NotServed

CGROUPS = Path("/sys/fs/cgroup")
# Megabytes, measured with the largest photos, explained and not: a worker, and everything else
# (frontend, gateway, launcher, and the archive unpacked in memory). They are for processors without
# units for int8; with them a worker takes 650, and LEAST is enough for one and everything else.
WORKER = 810
OTHERS = 350
LEAST = 950


def workers_that_fit(versions: int) -> int | None:
    """Of each of so many versions; None for as many as there are cores.

    Raises NotServed when one worker each has no room.
    """
    limit = memory_limit()
    if limit is None:
        return None
    megabytes = limit / 1e6
    least = LEAST + (versions - 1) * WORKER
    if megabytes < least:
        raise NotServed(f"{megabytes:.0f} MB are too little memory; give this container {least}")
    fitting = int((megabytes - OTHERS) / (versions * WORKER))
    return max(1, min(cores(), fitting))


def memory_limit() -> int | None:
    """Bytes, by the cgroup of version 2 or 1."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = read(name)
        if text.isdecimal() and int(text) < 2**50:  # version 1 says 2**63 for no limit
            return int(text)
    return None


def cores() -> int:
    """As many as this container may use, a part of one counted as one, as Java does."""
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
