"""Whether `prepare` may and can do what it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tools.walk import is_hidden
from training.dataset import INDEX, PIXELS
from training.errors import UsageError
from training.folders import PhotoFile
from training.params import PrepareParams
from training.split import FEWEST, SPLITS, Photo, fewest_photos

DOUBTFUL = "doubtful.csv"  # what was left out, and why


def check_index(data: Sequence[Path], index: Path) -> None:
    """Raise UsageError where replacing `index` would lose anything but an earlier index."""
    if any(index.resolve().is_relative_to(folder.resolve()) for folder in data):
        raise UsageError(f"{index}: lies in the data folder; name one outside it")
    known = {INDEX, DOUBTFUL, PIXELS}
    if index.exists() and not (
        index.is_dir() and {p.name for p in index.iterdir() if not is_hidden(p.name)} <= known
    ):
        raise UsageError(f"{index}: exists and is no index; name a new folder")


def check_sources(files: list[PhotoFile], params: PrepareParams) -> None:
    """Raise UsageError where a source that should validate has no file."""
    known = {file.source for file in files}
    if unknown := sorted(set(params.validation_sources) - known):
        raise UsageError(
            f"prepare.validation_sources: there is no photo of {unknown[0]!r}, but of "
            f"{', '.join(sorted(known))}"
        )


def check_splits(data: Sequence[Path], photos: list[Photo], params: PrepareParams) -> None:
    """Raise UsageError for a class that no training could learn, or no evaluation measure."""
    counts = Counter((photo.label, photo.split) for photo in photos)
    for label in sorted({photo.label for photo in photos} - {""}):
        for split, fewest in FEWEST.items():
            if counts[label, split] < fewest:
                total = sum(counts[label, name] for name in SPLITS)
                sources = any(photo.names_source for photo in photos)
                raise UsageError(
                    f"{folders_of(data, label)}: has {total} photos of use, {counts[label, split]} "
                    f"of them for {split}; it takes {fewest_photos(params)} at least that don't "
                    f"look alike{' and are not named SOURCE__NAME' if sources else ''}"
                )


def folders_of(data: Sequence[Path], label: str) -> str:
    """Those of a class, for an error; of a class that only names of files tell, its name."""
    folders = [str(folder / label) for folder in data if (folder / label).is_dir()]
    return ", ".join(folders) or label
