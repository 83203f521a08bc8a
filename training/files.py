"""Files written as a whole or not at all, and read with errors that name them."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.errors import UsageError, one_line


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then rename it: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` as JSON, as a whole or not at all."""
    write_atomically(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def read_json(path: Path, keys: set[str]) -> dict[str, Any]:
    """The mapping in `path`. Raises UsageError when it can't be read or lacks one of `keys`."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read: {one_line(error)}") from error
    if not isinstance(content, dict) or not keys <= content.keys():
        raise UsageError(f"{path}: needs {', '.join(sorted(keys))}")
    return content


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is inside `locked(path)`; the empty file `path` stays."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load_torch(path: Path) -> Any:
    """What torch.save wrote to `path`, on the CPU; code in it is not run.

    Raises UsageError for any other file.
    """
    import torch  # here, since who writes a table doesn't want to wait for it

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an untrusted file makes torch.load raise nearly anything
        raise UsageError(f"{path}: not written by this program: {one_line(error)}") from error
