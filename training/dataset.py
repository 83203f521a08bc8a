"""The photos that `prepare` has indexed: a split, and its pixels on the device that computes."""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.photo import SIDE
from training.errors import UsageError
from training.params import TrainParams
from training.split import Photo

INDEX = "photos.csv"  # one row a photo
PIXELS = "photos.uint8"  # the photos of photos.csv in its order, decoded
FILE_NAMES = "surrogateescape"  # Linux allows names that are not UTF-8
UNKNOWN = -1  # of the class numbers
BYTES = SIDE * SIDE * 3  # of a decoded photo
AHEAD = 2  # batches that are read while another is computed
BLOCK = 1024  # photos that are read at once, where there is no batch


class Split:
    """The photos of one split, but for the `excluded` paths, with class numbers and sources.

    The number of a photo without a label is UNKNOWN; only training has such photos.
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
            raise UsageError(f"{index}: no photo in the {split} split; give more photos")
        shape = (len(photos), SIDE, SIDE, 3)
        if not (index / PIXELS).exists() or (index / PIXELS).stat().st_size != np.prod(shape):
            raise UsageError(f"{index / PIXELS}: doesn't fit {INDEX}; run `prepare` again")
        self.pixels = np.memmap(index / PIXELS, dtype=np.uint8, mode="r", shape=shape)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def foreign(self) -> np.ndarray:
        """A mask (N,) of photos not of the collection that is divided: their sources are in this
        split as a whole."""
        return np.array(
            [photo.names_source or photo.source not in self.elsewhere for photo in self.photos]
        )

    def half_and_half(self) -> np.ndarray:
        """Photo numbers among which foreign photos are as many as the others, by repetition."""
        kinds = [np.flatnonzero(kind) for kind in (~self.foreign, self.foreign)]
        most = max(map(len, kinds))
        return np.concatenate([np.resize(kind, most) for kind in kinds if len(kind)])

    def pixel_batch(self, numbers: Sequence[int]) -> torch.Tensor:
        """The photos of these numbers as uint8 (N, 3, 224, 224)."""
        pixels = self.pixels[[self.rows[number] for number in numbers]]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def batches(self, size: int = BLOCK) -> Iterator[torch.Tensor]:
        """All photos in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.pixel_batch(range(start, min(start + size, len(self))))


class PixelLoader:
    """Batches of a split's photos on the device that computes.

    Where all of them fit into `room` bytes of its memory (of a GPU's, a third), they are kept
    there. Else a thread reads ahead of the step, into pinned memory for a GPU.
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
    """Whether a list names the photo, by its path in one data folder or in several."""
    return path in excluded or path.partition("/")[2] in excluded


def excluded_photos(params: TrainParams) -> set[str]:
    """The paths in the reviewed list `params.excluded`; none when it is empty."""
    if not params.excluded:
        return set()
    try:
        with Path(params.excluded).open(newline="") as file:
            return {row["path"] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise UsageError(f"{params.excluded}: no list of photos with a column `path`") from error


def photos_of_each(sources: Iterable[str]) -> dict[str, int]:
    """How often each source is there, the most frequent first."""
    return dict(sorted(Counter(sources).items(), key=lambda item: (-item[1], item[0])))


def photos_sha256(photos: Iterable[Photo]) -> str:
    """A digest of which photos there are, with their labels and splits."""
    lines = sorted(f"{photo.sha256} {photo.label} {photo.split}\n" for photo in photos)
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
    return digest.hexdigest()


def read_index(index: Path) -> list[Photo]:
    """The rows of photos.csv in the folder `index`. Raises UsageError when there is none."""
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
