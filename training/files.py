"""Atomic file writing and reading, and the error that the command line prints in one line."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from files.atomic import write_atomically


class UsageError(Exception):
    """Wrong input from the user. The message says what is wrong, then what to do."""


def one_line(error: Exception) -> str:
    """The error's message on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path` as JSON, atomically."""
    write_atomically(path, lambda partial: partial.write_text(json.dumps(content, indent=2) + "\n"))


def read_json(
    path: Path, keys: set[str], rename: Callable[[Any], Any] = lambda content: content
) -> dict[str, Any]:
    """The JSON object in `path`, with keys renamed by `rename`.

    Raises UsageError if it can't be read or lacks one of `keys`.
    """
    try:
        content = rename(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read: {one_line(error)}; restore it") from error
    if not isinstance(content, dict) or not keys <= content.keys():
        raise UsageError(f"{path}: needs {', '.join(sorted(keys))}; restore it")
    return content


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds this lock. The empty file `path` remains."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def load_torch(path: Path) -> Any:
    """The content that torch.save wrote to `path`, on the CPU, without running code in it.

    Raises UsageError for any other file.
    """
    import torch  # slow to import, and not needed to write a table

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises nearly anything for a broken file
        raise UsageError(
            f"{path}: not a PyTorch file of tensors: {one_line(error)}; name another"
        ) from error


def save_torch(path: Path, content: Any) -> None:
    """Write `content` to `path` with torch.save, atomically. Raises UsageError if it can't."""
    import torch

    try:
        write_atomically(path, lambda partial: torch.save(content, partial))
    except RuntimeError as error:  # PyTorch's writer doesn't say what the system said
        raise UsageError(
            f"{path}: can't be written: {one_line(error)}; make room on its disk"
        ) from error
