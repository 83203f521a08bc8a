"""The folders of photos that `prepare` is given, and what may be wrong with them.

Nothing is imported here that takes seconds: what is wrong is told at once.
"""

from __future__ import annotations

import mimetypes
import os
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import UsageError

WANTED = "give one that holds a folder of photos for each of two classes or more"
UNLABELLED = "unlabelled"  # a folder that is no class: its photos have the label ""


@dataclass(frozen=True, slots=True)  # there may be a million
class PhotoFile:
    """A file that `prepare` reads, and what its name and its folders say of it."""

    root: Path
    path: str  # relative to `root`; in photos.csv, too
    label: str
    source: str

    @property
    def place(self) -> Path:
        return self.root / self.path


def list_files(data: Sequence[Path], classes: Collection[str] = ()) -> list[PhotoFile]:
    """All files in the class folders of the folders `data`, sorted in each.

    Their paths are relative to the one folder, or of several begin with a folder's own name.
    Raises UsageError when there are not two classes with files, or one of `classes` lacks.
    """
    prefixes = prefixes_of(data)
    for folder in data:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; {WANTED}")
    names = {folder: class_folders(folder) for folder in data}
    known = {name for of_one in names.values() for name in of_one} - {UNLABELLED}
    if unknown := sorted(set(classes) - known):
        there = ", ".join(sorted(known)) or "none"
        raise UsageError(f"{named(data)}: has no folder {unknown[0]!r} for that class, but {there}")
    files: list[PhotoFile] = []
    for folder in data:
        for name in names[folder]:
            if not classes or name in classes or name == UNLABELLED:
                files += class_files(folder, name, prefixes[folder])
    check_classes(data, names, files, classes)
    return files


def prefixes_of(data: Sequence[Path]) -> dict[Path, str]:
    """What the paths of photos in each folder begin with: nothing where there is but one."""
    if len(data) == 1:
        return {data[0]: ""}
    prefixes = {folder: own_name(folder) for folder in data}
    twice = [name for name, count in Counter(map(own_name, data)).items() if count > 1]
    if twice:
        raise UsageError(f"{named(data)}: two folders are called {twice[0]}; rename one of them")
    return prefixes


def own_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # that of a link, and of "."


def class_folders(data: Path) -> list[str]:
    return sorted(p.name for p in data.iterdir() if p.is_dir() and not p.name.startswith("."))


def class_files(data: Path, name: str, prefix: str) -> list[PhotoFile]:
    """The files in the folder `name` of `data`, at any depth."""
    root = Path(os.path.abspath(data)).parent if prefix else data
    label = "" if name == UNLABELLED else sys.intern(name)
    source = sys.intern(own_name(data))
    return [
        PhotoFile(root, str(file.relative_to(root)), label, source_of(file.name) or source)
        for file in sorted((root / prefix / name).rglob("*"))
        if not file.is_dir() and not file.name.startswith(".")
    ]


def source_of(name: str) -> str:
    """The source that a file's own name tells, as SOURCE__NAME, or ""."""
    source, parted, _ = name.partition("__")
    return sys.intern(source) if parted else ""


def check_classes(
    data: Sequence[Path],
    names: dict[Path, list[str]],
    files: list[PhotoFile],
    classes: Collection[str],
) -> None:
    """Raise UsageError for fewer than two classes with files, for one of `classes` without, and for
    folders that call their classes differently, unless `classes` are named."""
    with_files = {file.label for file in files} - {""}
    if len(with_files) < 2 or set(classes) - with_files:
        taken = sorted({name for of_one in names.values() for name in of_one} - {UNLABELLED})
        taken = [name for name in taken if not classes or name in classes]
        raise UsageError(f"{named(data)}: {what_is_wrong(data, taken, with_files)}; {WANTED}")
    of_each = [with_files & set(of_one) for of_one in names.values()]
    if not classes and with_files not in of_each:
        each = "; ".join(
            f"{folder} has {', '.join(sorted(of_one)) or 'none'}"
            for folder, of_one in zip(data, of_each, strict=True)
        )
        raise UsageError(f"classes have different names: {each}; name all of them by --classes")


def what_is_wrong(data: Sequence[Path], classes: list[str], with_files: set[str]) -> str:
    """Of class folders of which fewer than two, or not all that are named, have files."""
    types = (mimetypes.guess_type(p.name)[0] or "" for folder in data for p in folder.iterdir())
    if any(type_name.startswith("image/") for type_name in types):
        return "holds photos itself, as a class does; the folder above may be meant"
    if empty := [name for name in classes if name not in with_files]:
        return f"there is no photo in {', '.join(empty)}"
    return f"there is only {', '.join(classes)}" if classes else "there is no class folder in it"


def named(data: Sequence[Path]) -> str:
    return ", ".join(map(str, data))
