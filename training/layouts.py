"""How well-known sets of photos are laid out, if not with a folder for each class; what helps."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tools.walk import is_hidden, is_named_as_photo

SPLIT = re.compile(
    r"(train|test|val|valid|dev|eval)(ing|ation|uation)?([ _-]?(set|data|split))?\d*"
)
NUMBER = re.compile(r"[\s._()\d-]*$")  # at the end of a name without its suffix
CAMERAS = {"dsc", "dscf", "dscn", "image", "img", "photo", "pict", "pxl"}  # no classes
MOST_CLASSES = 50  # that names of files are taken for
DEPTH = 3  # of folders in which classes are looked for


def is_split(name: str) -> bool:
    """Whether a folder's name is that of a split, such as test1, training_set or validation."""
    return SPLIT.fullmatch(name.lower()) is not None


def class_of(name: str) -> str:
    """The class that a file's name begins with, of cat.12.jpg `cat`; "" of a mere number."""
    source, parted, rest = name.partition("__")
    stem = os.path.splitext(rest if parted else source)[0]
    return NUMBER.sub("", stem)


def folders_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def photos_in(folder: Path) -> list[str]:
    """Names of the photos that lie in `folder` itself."""
    with os.scandir(folder) as entries:
        return [e.name for e in entries if is_named_as_photo(e.name) and not is_hidden(e.name)]


def classes_in_names(folder: Path) -> list[str]:
    """The classes that photos in `folder` are named after, if they are: two or more."""
    counts = Counter(map(class_of, photos_in(folder)))
    names = sorted(
        name for name, count in counts.items() if count > 1 and name.lower() not in {"", *CAMERAS}
    )
    covered = sum(counts[name] for name in names) > 0.9 * counts.total()
    return names if covered and 1 < len(names) <= MOST_CLASSES else []


def homes_of_classes(folder: Path, depth: int = DEPTH) -> list[tuple[Path, list[str]]]:
    """Folders in `folder`, or itself, that hold photos by class, and the classes to be named."""
    inner = folders_in(folder)
    classes = [name for name in inner if not is_split(name)]
    if len(classes) > 1:
        return [(folder, classes if len(classes) < len(inner) else [])]
    if names := classes_in_names(folder):
        return [(folder, names)]
    found = [homes_of_classes(folder / name, depth - 1) for name in inner if depth]
    return [home for homes in found for home in homes]


def what_helps(data: Sequence[Path]) -> str:
    """The options that take the classes which `data` seems to hold, or ""."""
    homes = [home for folder in data for home in homes_of_classes(folder)]
    homes = [home for home in homes if not home[1]] or homes[:1]
    # The training photos first, which stay alone where all are called the same (train/images).
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
