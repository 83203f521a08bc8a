"""Which files of a folder may be photos, for `python -m training prepare` and `tools/classify`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from unicodedata import category

# The suffixes that Pillow and pi-heif register for the formats that handler/photo.py opens.
SUFFIXES = {
    ".apng", ".avif", ".avifs", ".bmp", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif",
    ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp",
}  # fmt: skip
HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")  # without TIFF: raw photos begin like it
BRANDS = {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Files and folders that systems and programs add, in lower case. Dotfiles are hidden, too.
HIDDEN_NAMES = {
    "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information",
    "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "_ds_store",
}  # fmt: skip
HIDDEN = "hidden"
CONTROL = {"Cc", "Zl", "Zp"}  # Unicode categories: control characters and line ends

LeaveOut = Callable[[str, str], None]  # called with a path and the reason


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in HIDDEN_NAMES


def is_named_as_photo(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def may_be_photo(path: str) -> bool:
    """Judge by the name, else by the first bytes. True for a file that can't be read."""
    if is_named_as_photo(path):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return True
    if head[4:8] == b"ftyp":
        return head[8:] in BRANDS
    return head.startswith(HEADS) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def walk(root: str, start: str, leave_out: LeaveOut) -> Iterator[str]:
    """Paths, relative to `root`, of all files below its folder `start`, in order.

    Follows links, but walks no folder twice. Calls `leave_out` for everything that it skips: hidden
    files and folders (HIDDEN), files that can't be read, and anything that is no regular file.
    """
    seen: set[tuple[int, int]] = set()

    def inside(folder: str) -> Iterator[str]:
        status = os.stat(os.path.join(root, folder))
        if (status.st_dev, status.st_ino) in seen:
            leave_out(folder, "the same folder as another one")
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(os.path.join(root, folder)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if is_hidden(entry.name):
                leave_out(path, HIDDEN)
                continue
            try:
                if entry.is_dir():
                    yield from inside(path)
                elif entry.is_file():
                    yield path
                else:
                    dangling = entry.is_symlink()
                    leave_out(path, "a link to nothing" if dangling else "no regular file")
            except OSError as error:
                leave_out(path, f"can't be read: {error.strerror}")

    try:
        yield from inside(start)
    except OSError as error:
        leave_out(start, f"can't be read: {error.strerror}")


def on_one_line(name: str) -> str:
    """A file's name for a line of output: line ends and other control characters are escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if category(character) in CONTROL else character
        for character in name
    )
