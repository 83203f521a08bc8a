"""Read the index that `prepare` wrote: splits, and their pixels on a device."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.photo import SIDE
from training.files import UsageError
from training.params import TrainParams

INDEX = "photos.csv"  # one row per photo
PIXELS = "photos.uint8"  # decoded photos, in the order of photos.csv
FILE_NAMES = "surrogateescape"  # Linux allows names that are not UTF-8
UNKNOWN = -1  # the class number of unlabelled photos
FOREIGN = "foreign_validation"  # the name of metrics on `Split.foreign`
BYTES = SIDE * SIDE * 3  # of a decoded photo
AHEAD = 2  # batches to prefetch
BLOCK = 1024  # photos read at a time without a batch size


@dataclass(frozen=True, slots=True)  # a million of them take 0.5 GB
class Photo:
    """One row of photos.csv."""

    path: str  # relative to the data folder; with several, it begins with the folder's name
    label: str  # "" if unlabelled
    bytes: int
    width: int
    height: int
    sha256: str
    orientation: int  # from EXIF, 1 to 8; 1 is upright
    perceptual_hash: str  # 64 bits in hexadecimal
    split: str
    source: str

    @property
    def names_source(self) -> bool:
        """Whether the file name contains the source; otherwise it is the data folder's name."""
        return self.path.rpartition("/")[2].startswith(f"{self.source}__")


class Split:
    """The photos of one split, except the `excluded` paths, with class numbers and sources.

    Unlabelled photos have the number UNKNOWN; only the training split has them. Raises UsageError
    for a missing or unreadable index, and for a split without photos.
    """

    def __init__(self, index: Path, split: str, excluded: Collection[str] = ()) -> None:
        photos = read_index(index)
        self.photos_sha256 = photos_sha256(photos)
        self.classes = sorted({photo.label for photo in photos} - {""})
        rows = [row for row, photo in enumerate(photos) if photo.split == split]
        self.rows = [row for row in rows if not listed(photos[row].path, excluded)]
        self.left_out = len(rows) - len(self.rows)
        self.photos = [photos[row] for row in self.rows]
        number_of = {name: number for number, name in enumerate(self.classes)} | {"": UNKNOWN}
        self.labels = [number_of[photo.label] for photo in self.photos]
        self.sources = [photo.source for photo in self.photos]
        self.elsewhere = {photo.source for photo in photos if photo.split != split}
        if not self.rows:
            raise UsageError(
                f"{index}: no photo in the {split} split; add photos and run `prepare` again"
            )
        shape = (len(photos), SIDE, SIDE, 3)
        if not (index / PIXELS).exists() or (index / PIXELS).stat().st_size != np.prod(shape):
            raise UsageError(f"{index / PIXELS}: doesn't match {INDEX}; run `prepare` again")
        self.pixels = np.memmap(index / PIXELS, dtype=np.uint8, mode="r", shape=shape)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def foreign(self) -> np.ndarray:
        """A mask (N,) of foreign photos: those of sources that are in this split as a whole."""
        return np.array([photo.source not in self.elsewhere for photo in self.photos])

    def half_and_half(self) -> np.ndarray:
        """Photo numbers, repeated so that foreign photos and others have equal weight."""
        kinds = [np.flatnonzero(kind) for kind in (~self.foreign, self.foreign) if kind.any()]
        most = max(map(len, kinds))
        # Evenly, since photos are sorted by class.
        return np.concatenate([kind[np.arange(most) * len(kind) // most] for kind in kinds])

    def pixel_batch(self, numbers: Sequence[int]) -> torch.Tensor:
        """The photos of these numbers as uint8 (N, 3, 224, 224)."""
        pixels = self.pixels[[self.rows[number] for number in numbers]]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def batches(self, size: int = BLOCK) -> Iterator[torch.Tensor]:
        """All photos in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.pixel_batch(range(start, min(start + size, len(self))))


class PixelLoader:
    """Batches of a split's photos on `device`.

    If all photos fit into `room` bytes of its memory (default: a third of a GPU's), they stay
    there. Otherwise a thread prefetches batches, into pinned memory for a GPU.
    """

    def __init__(self, split: Split, device: torch.device, room: int | None = None) -> None:
        self.split, self.device = split, device
        if room is None:
            cuda = device.type == "cuda"
            room = torch.cuda.get_device_properties(device).total_memory // 3 if cuda else 0
        self.kept = self._kept() if len(split) * BYTES <= room else None

    def _kept(self) -> torch.Tensor:
        kept = torch.empty(len(self.split), SIDE, SIDE, 3, dtype=torch.uint8, device=self.device)
        for place, photos in zip(torch.split(kept, BLOCK), self.split.batches(), strict=True):
            place.copy_(photos.permute(0, 2, 3, 1))
        return kept

    def batches(self, order: torch.Tensor) -> Iterator[torch.Tensor]:
        """The photos of each row of `order` (steps, N): uint8 (N, 3, 224, 224)."""
        if self.kept is not None:
            for numbers in order.to(self.device):
                yield self.kept[numbers].permute(0, 3, 1, 2)
            return
        reading: deque[Future[torch.Tensor]] = deque()
        with ThreadPoolExecutor(1) as thread:
            for numbers in order.tolist():
                reading.append(thread.submit(self._read, numbers))
                if len(reading) > AHEAD:
                    yield reading.popleft().result().to(self.device, non_blocking=True)
            while reading:
                yield reading.popleft().result().to(self.device, non_blocking=True)

    def _read(self, numbers: list[int]) -> torch.Tensor:
        photos = self.split.pixel_batch(numbers)
        return photos.pin_memory() if self.device.type == "cuda" else photos


def listed(path: str, excluded: Collection[str]) -> bool:
    """Whether `excluded` lists the photo, by its path with or without the data folder's name."""
    return path in excluded or path.partition("/")[2] in excluded


def excluded_photos(params: TrainParams) -> set[str]:
    """The paths in the reviewed list `params.excluded`; empty if no list is set."""
    if not params.excluded:
        return set()
    try:
        # Excel begins a file with a byte order mark.
        with Path(params.excluded).open(
            newline="", encoding="utf-8-sig", errors=FILE_NAMES
        ) as file:
            return {row["path"] for row in csv.DictReader(file)}
    except (OSError, KeyError, csv.Error) as error:
        raise UsageError(
            f"{params.excluded}: not a CSV file with a column `path`; fix train.excluded"
        ) from error


def photos_of_each(sources: Iterable[str]) -> dict[str, int]:
    """The number of photos per source, the most frequent first."""
    return dict(sorted(Counter(sources).items(), key=lambda item: (-item[1], item[0])))


def photos_sha256(photos: Iterable[Photo]) -> str:
    """A digest of the photos with their labels and splits."""
    lines = sorted(f"{photo.sha256} {photo.label} {photo.split}\n" for photo in photos)
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()


def read_index(index: Path) -> list[Photo]:
    """The rows of photos.csv in the folder `index`. Raises UsageError if it can't be read."""
    path = index / INDEX
    if not path.exists():
        raise UsageError(f"{path}: missing; run `python -m training prepare --data FOLDER` first")
    try:
        with path.open(newline="", errors=FILE_NAMES) as file:
            return [_photo(row) for row in csv.DictReader(file)]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: no index of photos ({error}); run `prepare` again") from error


def _photo(row: dict[str, Any]) -> Photo:
    numbers = {name: int(row[name]) for name in ("bytes", "width", "height", "orientation")}
    # Shared, since they are the same a million times.
    words = {name: sys.intern(row[name]) for name in ("label", "split", "source")}
    return Photo(**row | numbers | words)


def write_csv(path: Path, kind: type, rows: Iterable[Any]) -> None:
    names = [field.name for field in fields(kind)]
    with path.open("w", newline="", errors=FILE_NAMES) as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(map(attrgetter(*names), rows))
