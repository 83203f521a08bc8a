"""How many workers and large photos fit into the memory that this container may take."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

from settings import NotServed

CGROUPS = Path("/sys/fs/cgroup")
# Megabytes, measured by tests/image on the largest photos: a worker that decodes one; what is there
# beside them (frontend, gateway, launcher, unpacked archive); and each large photo that is on its
# way. Of a processor without units for int8; with them LEAST is enough for one worker.
WORKER = 740
OTHERS = 450
LARGE_PHOTO = 60
LEAST = 1050
MOST_LARGE_PHOTOS = 3  # what the heap in config.properties is made for


class Sizes(NamedTuple):
    workers: int | None  # of each version; None for as many as there are cores
    large_photos: int  # at once


def sizes(versions: int) -> Sizes:
    """For so many versions of the model. Raises NotServed when one worker each has no room."""
    most = int(os.environ.get("CATSDOGS_LARGE_PLACES") or MOST_LARGE_PHOTOS)
    limit = memory_limit()
    if limit is None:
        return Sizes(None, most)
    megabytes = limit / 1e6
    least = LEAST + (versions - 1) * WORKER
    if megabytes < least:
        raise NotServed(f"{megabytes:.0f} MB are too little memory; give this container {least}")
    fitting = int((megabytes - OTHERS - LARGE_PHOTO) / (versions * WORKER))
    workers = max(1, min(cores(), fitting))
    left = megabytes - OTHERS - workers * versions * WORKER
    return Sizes(workers, max(1, min(most, int(left / LARGE_PHOTO))))


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
