"""Lock files that are released when their process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO


class Held(Exception):
    """Another process holds the lock; the message is its process ID."""


def hold(path: Path) -> TextIO:
    """Lock `path` until this process ends or closes the file. Raises Held, or OSError."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Held(path.read_text()) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def holder(path: Path) -> int | None:
    """ID of the process that holds `path`, or None."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        number = path.read_text()
        return int(number) if number else None
    return None
