"""Measure the Python memory that a block of code uses and keeps."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Taken:
    """Bytes: peak, and at the end."""

    most: int = 0
    kept: int = 0


@contextmanager
def memory() -> Iterator[Taken]:
    """Measure the block. Reference cycles count as kept: they may stay for thousands of photos."""
    taken = Taken()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield taken
        taken.kept, taken.most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
