"""The folder of photos that `prepare` is given, and what may be wrong with it.

Nothing is imported here that takes seconds: what is wrong is told at once.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Collection
from pathlib import Path

from training.errors import UsageError

WANTED = "give one that holds a folder of photos for each of two classes or more"


def list_files(data: Path, classes: Collection[str] = ()) -> list[str]:
    """Paths of all files in the class folders of `data`, relative to it, sorted.

    Raises UsageError when there are not two such folders with files, or one of `classes` lacks.
    """
    if not data.is_dir():
        raise UsageError(f"{data}: no such folder; {WANTED}")
    folders = sorted(p for p in data.iterdir() if p.is_dir() and not p.name.startswith("."))
    names = [folder.name for folder in folders]
    if unknown := sorted(set(classes) - set(names)):
        there = ", ".join(names) or "none"
        raise UsageError(f"{data}: has no folder {unknown[0]!r} for that class, but {there}")
    files = {
        folder.name: [
            str(file.relative_to(data))
            for file in sorted(folder.rglob("*"))
            if not file.is_dir() and not file.name.startswith(".")
        ]
        for folder in folders
        if not classes or folder.name in classes
    }
    if sum(map(bool, files.values())) < 2 or not all(files.get(name) for name in classes):
        raise UsageError(f"{data}: {what_is_wrong(data, files)}; {WANTED}")
    return [path for paths in files.values() for path in paths]


def what_is_wrong(data: Path, files: dict[str, list[str]]) -> str:
    """With class folders of which fewer than two, or not all that are named, have `files`."""
    if any((mimetypes.guess_type(p.name)[0] or "").startswith("image/") for p in data.iterdir()):
        return "holds photos itself, as a class does; the folder above may be meant"
    if empty := [name for name, paths in files.items() if not paths]:
        return f"there is no photo in {', '.join(empty)}"
    return f"there is only {', '.join(files)}" if files else "there is no folder in it"


def label_of(path: str) -> str:
    """The class folder of a path relative to the data folder."""
    return Path(path).parts[0]
