"""The folders of photos that `prepare` is given, and what may be wrong with them.

Nothing is imported here that takes seconds: what is wrong is told at once.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.walk import HIDDEN, is_hidden, walk
from training.errors import UsageError
from training.layouts import class_of, folders_in, is_split, photos_in, what_helps

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


@dataclass
class Found:
    """What is in the data folders."""

    files: list[PhotoFile] = field(default_factory=list)
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)  # path, label, reason
    hidden: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # class folders without a file
    beside: list[str] = field(default_factory=list)  # photos that lie beside class folders

    def left_out(self) -> Iterator[str]:
        """A line for each kind of things that no row of doubtful.csv tells of."""
        for paths, kind in (
            (self.hidden, "hidden, or of a system's own"),
            (self.empty, "class folders without a file"),
            (self.beside, "photos beside the class folders"),
        ):
            if paths:
                yield f"{len(paths):10} left out, {kind}: {', '.join(paths[:3])}" + (
                    ", ..." if len(paths) > 3 else ""
                )


def find_files(data: Sequence[Path], classes: Collection[str] = ()) -> Found:
    """All files in the class folders of the folders `data`, sorted in each.

    Their paths are relative to the one folder, or of several begin with a folder's own name. Where
    a folder has none of `classes`, but files that are named after them, these are taken.
    Raises UsageError when there are not two classes with files, or one of `classes` lacks.
    """
    prefixes = prefixes_of(data)
    for folder in data:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; {WANTED}")
    names = {folder: class_folders(folder, classes) for folder in data}
    if not any("" in of_one for of_one in names.values()):
        check_names(data, classes)
    found = Found()
    for folder in data:
        for name in names[folder]:
            add_files(found, folder, name, prefixes[folder], classes)
        found.hidden += [str(folder / p.name) for p in folder.iterdir() if is_hidden(p.name)]
        if "" not in names[folder]:
            found.beside += [str(folder / name) for name in photos_in(folder)]
    check_classes(data, names, found, classes)
    return found


def prefixes_of(data: Sequence[Path]) -> dict[Path, str]:
    """What the paths of photos in each folder begin with: nothing where there is but one."""
    if len(data) == 1:
        return {data[0]: ""}
    twice = [name for name, count in Counter(map(own_name, data)).items() if count > 1]
    if twice:
        raise UsageError(f"{named(data)}: two folders are called {twice[0]}; rename one of them")
    return {folder: own_name(folder) for folder in data}


def own_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # that of a link, and of "."


def class_folders(data: Path, classes: Collection[str]) -> list[str]:
    """Names of the folders in `data` to take; "" for itself, with files named after `classes`."""
    names = folders_in(data)
    by_name = classes and not set(classes) & set(names)
    if by_name and any(class_of(name) in classes for name in photos_in(data)):
        return [""]
    return [name for name in names if not classes or name in classes or name == UNLABELLED]


def add_files(found: Found, data: Path, name: str, prefix: str, classes: Collection[str]) -> None:
    """Add what is in the folder `name` of `data`, at any depth."""
    root = Path(os.path.abspath(data)).parent if prefix else data
    own_source, own_label = sys.intern(own_name(data)), "" if name == UNLABELLED else name

    def leave_out(path: str, reason: str) -> None:
        if reason == HIDDEN:
            found.hidden.append(path)
        else:
            found.unreadable.append((path, own_label, reason))

    before = len(found.files)
    for path in walk(str(root), os.path.join(prefix, name), leave_out):
        file_name = os.path.basename(path)
        label = own_label if name else class_of(file_name)
        if name or label in classes:
            source = source_of(file_name) or own_source
            found.files.append(PhotoFile(root, path, sys.intern(label), source))
        else:
            leave_out(path, "its name begins with none of the classes")
    if len(found.files) == before:
        found.empty.append(str(data / name))


def source_of(name: str) -> str:
    """The source that a file's own name tells, as SOURCE__NAME, or ""."""
    source, parted, _ = name.partition("__")
    return sys.intern(source) if parted else ""


def check_names(data: Sequence[Path], classes: Collection[str]) -> None:
    """Raise UsageError where folders are named as splits are, or one of `classes` lacks."""
    known = {name for folder in data for name in folders_in(folder)} - {UNLABELLED}
    if not classes and (splits := sorted(filter(is_split, known))):
        what = "is a split's name, no class's" if len(splits) == 1 else "are names of splits"
        way = what_helps(data) or "name the classes by --classes"
        raise UsageError(f"{named(data)}: {' and '.join(splits)} {what}; {way}")
    if unknown := sorted(set(classes) - known):
        there = ", ".join(sorted(known)) or "none"
        way = f"; {way}" if (way := what_helps(data)) else ""
        raise UsageError(
            f"{named(data)}: has no folder {unknown[0]!r} for that class, but {there}{way}"
        )


def check_classes(
    data: Sequence[Path], names: dict[Path, list[str]], found: Found, classes: Collection[str]
) -> None:
    """Raise UsageError for fewer than two classes with files, for one of `classes` without, and for
    folders that call their classes differently, unless `classes` are named."""
    with_files = {file.label for file in found.files} - {""}
    if len(with_files) < 2 or set(classes) - with_files:
        taken = {name for of_one in names.values() for name in of_one} - {UNLABELLED}
        wanted = sorted(classes or taken)
        raise UsageError(f"{named(data)}: {what_is_wrong(data, wanted, with_files)}")
    of_each = [with_files & set(of_one) for of_one in names.values()]
    if not classes and with_files not in of_each:
        each = "; ".join(
            f"{folder} has {', '.join(sorted(of_one)) or 'none'}"
            for folder, of_one in zip(data, of_each, strict=True)
        )
        raise UsageError(f"classes have different names: {each}; name all of them by --classes")


def what_is_wrong(data: Sequence[Path], classes: list[str], with_files: set[str]) -> str:
    """With class folders of which fewer than two, or not all that are named, have files; and what
    to do."""
    way = what_helps(data) or WANTED
    if any(map(photos_in, data)):
        if has_classes_beside(data[0]) or (way == WANTED and not is_split(own_name(data[0]))):
            return f"holds photos itself, as a class does; the folder above may be meant; {WANTED}"
        return f"holds photos itself; {way}"
    if empty := [name for name in classes if name not in with_files]:
        return f"there is no photo in {', '.join(empty)}; {way}"
    only = f"there is only {', '.join(classes)}" if classes else "there is no class folder in it"
    return f"{only}; {way}"


def has_classes_beside(data: Path) -> bool:
    """Whether `data` and its neighbours look like the classes of the folder above."""
    above = Path(os.path.abspath(data)).parent
    try:
        classes = [name for name in folders_in(above) if not is_split(name)]
        return own_name(data) in classes and sum(bool(photos_in(above / c)) for c in classes) > 1
    except OSError:  # no permission
        return False


def named(data: Sequence[Path]) -> str:
    return ", ".join(map(str, data))
