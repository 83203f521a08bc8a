"""Find the photos in the folders that `prepare` gets, and explain what is wrong with them.

This module imports nothing slow, so errors appear at once.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from files.walk import HIDDEN, is_hidden, is_named_as_photo, walk
from training.files import UsageError

WANTED = "give a folder that contains one folder of photos per class, for two or more classes"
UNLABELLED = "unlabelled"  # a folder that is not a class: its photos have the label ""
SPLIT = re.compile(
    r"(train|test|val|valid|dev|eval)(ing|ation|uation)?([ _-]?(set|data|split))?\d*"
)
NUMBER = re.compile(r"[\s._()\d-]*$")  # at the end of a file name without its suffix
CAMERAS = {"dsc", "dscf", "dscn", "image", "img", "photo", "pict", "pxl"}  # not classes
MOST_CLASSES = 50  # that are guessed from file names
DEPTH = 3  # of nested folders that are searched for classes


@dataclass(frozen=True, slots=True)  # there may be a million
class PhotoFile:
    """A file that `prepare` reads, with label and source from its name and folders."""

    root: Path
    path: str  # relative to `root`, as in photos.csv
    label: str
    source: str

    @property
    def place(self) -> Path:
        return self.root / self.path


@dataclass
class Found:
    """The content of the data folders."""

    files: list[PhotoFile] = field(default_factory=list)
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)  # path, label, reason
    hidden: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)  # class folders without a file
    beside: list[str] = field(default_factory=list)  # photos next to class folders

    def left_out(self) -> Iterator[str]:
        """A line for each kind of item that rejected.csv doesn't list."""
        for paths, kind in (
            (self.hidden, "hidden or system files"),
            (self.empty, "class folders without a file"),
            (self.beside, "photos outside the class folders"),
        ):
            if paths:
                yield f"{len(paths):10} left out, {kind}: {', '.join(paths[:3])}" + (
                    ", ..." if len(paths) > 3 else ""
                )


def find_files(data: Sequence[Path], classes: Collection[str] = ()) -> Found:
    """All files in the class folders of the folders `data`, sorted in each.

    Paths are relative to the data folder; with several, they begin with its name. If a folder has
    no folder for any of `classes`, but files named after them, it finds these files. Raises
    UsageError for fewer than two classes with files, and if one of `classes` is missing.
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
    """The prefix of the paths of photos in each folder; empty if there is only one folder."""
    if len(data) == 1:
        return {data[0]: ""}
    twice = [name for name, count in Counter(map(own_name, data)).items() if count > 1]
    if twice:
        raise UsageError(f"{named(data)}: two folders are called {twice[0]}; rename one")
    return {folder: own_name(folder) for folder in data}


def own_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name  # that of a link, and of "."


def class_folders(data: Path, classes: Collection[str]) -> list[str]:
    """Names of the class folders in `data`; [""] if its files are named after `classes`."""
    names = folders_in(data)
    by_name = classes and not set(classes) & set(names)
    if by_name and any(class_of(name) in classes for name in photos_in(data)):
        return [""]
    return [name for name in names if not classes or name in classes or name == UNLABELLED]


def add_files(found: Found, data: Path, name: str, prefix: str, classes: Collection[str]) -> None:
    """Add the files in the folder `name` of `data`, at any depth."""
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
            leave_out(path, "its name doesn't begin with a class")
    if len(found.files) == before:
        found.empty.append(str(data / name))


def source_of(name: str) -> str:
    """The source in a file name of the form SOURCE__NAME, or ""."""
    source, parted, _ = name.partition("__")
    return sys.intern(source) if parted else ""


def check_names(data: Sequence[Path], classes: Collection[str]) -> None:
    """Raise UsageError for folders named like splits, and if one of `classes` is missing."""
    known = {name for folder in data for name in folders_in(folder)} - {UNLABELLED}
    if not classes and (splits := sorted(filter(is_split, known))):
        what = "is the name of a split" if len(splits) == 1 else "are names of splits"
        way = what_helps(data) or "name the classes with --classes"
        raise UsageError(f"{named(data)}: {' and '.join(splits)} {what}, not of classes; {way}")
    if unknown := sorted(set(classes) - known):
        there = ", ".join(sorted(known)) or "none"
        way = f"; {way}" if (way := what_helps(data)) else ""
        raise UsageError(
            f"{named(data)}: has no folder {unknown[0]!r} for that class; it has {there}{way}"
        )


def check_classes(
    data: Sequence[Path], names: dict[Path, list[str]], found: Found, classes: Collection[str]
) -> None:
    """Raise UsageError for fewer than two classes with files, and if one of `classes` has none.

    Without `classes`, also raise it if data folders have different class names.
    """
    with_files = {file.label for file in found.files} - {""}
    for name in with_files:
        if not name.isprintable():  # nor are bytes that are not UTF-8
            raise UsageError(f"{named(data)}: a class can't be called {name!r}; rename its folder")
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
        raise UsageError(f"classes have different names: {each}; name all of them with --classes")


def what_is_wrong(data: Sequence[Path], classes: list[str], with_files: set[str]) -> str:
    """An explanation and a remedy, if fewer than two class folders, or not all given classes, have
    files."""
    way = what_helps(data) or WANTED
    if any(map(photos_in, data)):
        if has_classes_beside(data[0]) or (way == WANTED and not is_split(own_name(data[0]))):
            return f"contains photos like a class folder; {WANTED}, perhaps its parent folder"
        return f"contains photos itself; {way}"
    if empty := [name for name in classes if name not in with_files]:
        return f"there is no photo in {', '.join(empty)}; {way}"
    only = f"there is only {', '.join(classes)}" if classes else "it contains no class folder"
    return f"{only}; {way}"


def has_classes_beside(data: Path) -> bool:
    """Whether `data` and its siblings look like the class folders of their parent."""
    above = Path(os.path.abspath(data)).parent
    try:
        classes = [name for name in folders_in(above) if not is_split(name)]
        return own_name(data) in classes and sum(bool(photos_in(above / c)) for c in classes) > 1
    except OSError:  # no permission
        return False


def named(data: Sequence[Path]) -> str:
    return ", ".join(map(str, data))


def is_split(name: str) -> bool:
    """Whether a folder's name is that of a split, such as test1, training_set or validation."""
    return SPLIT.fullmatch(name.lower()) is not None


def class_of(name: str) -> str:
    """The class with which a file name begins: `cat` for cat.12.jpg, "" for a number."""
    source, parted, rest = name.partition("__")
    stem = os.path.splitext(rest if parted else source)[0]
    return NUMBER.sub("", stem)


def folders_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def photos_in(folder: Path) -> list[str]:
    """Names of the photos directly in `folder`."""
    with os.scandir(folder) as entries:
        return [e.name for e in entries if is_named_as_photo(e.name) and not is_hidden(e.name)]


def classes_in_names(folder: Path) -> list[str]:
    """The two or more classes that photos in `folder` are named after; else an empty list."""
    counts = Counter(map(class_of, photos_in(folder)))
    names = sorted(
        name for name, count in counts.items() if count > 1 and name.lower() not in {"", *CAMERAS}
    )
    covered = sum(counts[name] for name in names) > 0.9 * counts.total()
    return names if covered and 1 < len(names) <= MOST_CLASSES else []


def homes_of_classes(folder: Path, depth: int = DEPTH) -> list[tuple[Path, list[str]]]:
    """`folder` or folders in it that have photos by class, and the classes to name, if any."""
    inner = folders_in(folder)
    classes = [name for name in inner if not is_split(name)]
    if len(classes) > 1:
        return [(folder, classes if len(classes) < len(inner) else [])]
    if names := classes_in_names(folder):
        return [(folder, names)]
    found = [homes_of_classes(folder / name, depth - 1) for name in inner if depth]
    return [home for homes in found for home in homes]


def what_helps(data: Sequence[Path]) -> str:
    """Options for the classes that `data` seems to contain, as advice; or ""."""
    homes = [home for folder in data for home in homes_of_classes(folder)]
    homes = [home for home in homes if not home[1]] or homes[:1]
    # Training photos first: only they are suggested if all have the same name (train/images).
    homes.sort(key=lambda home: not re.search("train", str(home[0]), re.IGNORECASE))
    if len({home.name for home, _ in homes}) < len(homes):
        homes = homes[:1]
    if not homes:
        return ""
    classes = homes[0][1]
    folders = shlex.join(str(home) for home, _ in homes)
    options = f"--data {folders}" + (f" --classes {shlex.join(classes)}" if classes else "")
    variables = [f"DATA={shlex.quote(folders)}"]
    variables += [f"CLASSES={shlex.quote(shlex.join(classes))}"] if classes else []
    return f"give `{options}` (with make: `{' '.join(variables)}`)"
