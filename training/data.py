"""From a folder of photos to an index with splits and decoded pixels.

python -m training prepare --data FOLDER
"""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import imagehash
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from handler.integrity import sha256_of
from handler.photo import SIDE, PhotoException, read_photo
from training.errors import UsageError
from training.folders import label_of, list_files
from training.params import PrepareParams
from training.split import FEWEST, SPLITS, Photo, fewest_photos, split_photos

INDEX = "photos.csv"  # one row a photo
DOUBTFUL = "doubtful.csv"  # what was left out, and why
FILE_NAMES = "surrogateescape"  # Linux allows names that are not UTF-8
PIXELS = "photos.uint8"  # the photos of photos.csv in its order, decoded


@dataclass(frozen=True)
class Doubtful:
    """One row of doubtful.csv."""

    path: str
    label: str
    reason: str


def prepare(data: Path, index: Path, params: PrepareParams, classes: Collection[str] = ()) -> None:
    """Index the photos of `data`/CLASS/ into the folder `index`, which is replaced as a whole.

    With `classes`, of these folders alone. Writes photos.csv, doubtful.csv and photos.uint8. No
    file stops it; raises UsageError when `data` lacks a class that is named, doesn't hold at least
    two class folders, or one has too few readable photos to be in every split.
    """
    _check_index(data, index)
    files = list_files(data, classes)
    staging = index.with_name(index.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with (staging / PIXELS).open("wb") as pixels:
            photos, doubtful = read_photos(data, files, params.minimum_side, pixels)
        if empty := {label_of(path) for path in files} - {photo.label for photo in photos}:
            raise UsageError(f"{data / min(empty)}: holds no readable photo; add some")
        photos = split_photos(photos, params)
        _check_splits(data, photos, params)
        write_csv(staging / INDEX, Photo, photos)
        write_csv(staging / DOUBTFUL, Doubtful, doubtful)
        shutil.rmtree(index, ignore_errors=True)
        staging.rename(index)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(index, photos, doubtful)


def _check_index(data: Path, index: Path) -> None:
    """Raise UsageError where replacing `index` would lose anything but an earlier index."""
    if index.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{index}: lies in the data folder; name one outside it")
    known = {INDEX, DOUBTFUL, PIXELS}
    if index.exists() and not (index.is_dir() and {p.name for p in index.iterdir()} <= known):
        raise UsageError(f"{index}: exists and is no index; name a new folder")


def _check_splits(data: Path, photos: list[Photo], params: PrepareParams) -> None:
    """Raise UsageError for a class that no training could learn, or no evaluation measure."""
    counts = Counter((photo.label, photo.split) for photo in photos)
    for label in sorted({photo.label for photo in photos}):
        for split, fewest in FEWEST.items():
            if counts[label, split] < fewest:
                total = sum(counts[label, name] for name in SPLITS)
                raise UsageError(
                    f"{data / label}: has {total} photos of use, {counts[label, split]} of them "
                    f"for {split}; it takes {fewest_photos(params)} at least that don't look alike"
                )


def read_photos(
    data: Path, files: list[str], minimum_side: int, pixels: BinaryIO
) -> tuple[list[Photo], list[Doubtful]]:
    """Sort `files` into photos, whose decoded pixels are written to `pixels`, and doubtful ones."""
    digests = {path: _digest(data / path) for path in files}
    labels_of_digest = defaultdict(set)
    for path, digest in digests.items():
        labels_of_digest[digest].add(label_of(path))
    photos: list[Photo] = []
    doubtful: list[Doubtful] = []
    with multiprocessing.Pool() as pool:
        results = pool.imap(partial(_read_photo, data, minimum_side), files, chunksize=16)
        for path, result in zip(files, tqdm(results, total=len(files), unit="photo"), strict=True):
            label, digest = label_of(path), digests[path]
            if isinstance(result, str):
                doubtful.append(Doubtful(path, label, result))
            elif len(labels_of_digest[digest]) > 1:
                doubtful.append(Doubtful(path, label, "same bytes under several labels"))
            else:
                size, width, height, turned, hash64, decoded = result
                photos.append(Photo(path, label, size, width, height, digest, turned, hash64, ""))
                pixels.write(decoded)
    return photos, doubtful


def _digest(file: Path) -> str:
    try:
        return sha256_of(file)
    except (OSError, MemoryError):
        return ""  # `_read_photo` tells the reason


def _read_photo(
    data: Path, minimum_side: int, path: str
) -> str | tuple[int, int, int, int, str, bytes]:
    """Bytes, width, height, orientation, perceptual hash and pixels, or why it is left out."""
    try:
        content = (data / path).read_bytes()
        pixels, (width, height), turned = read_photo(content)
    except (OSError, MemoryError, PhotoException) as error:
        return f"unreadable: {error or type(error).__name__}"
    if min(width, height) < minimum_side:
        return f"tiny: {width}x{height} pixels"
    hash64 = str(imagehash.phash(Image.fromarray(pixels)))
    return len(content), width, height, turned, hash64, pixels.tobytes()


class Split:
    """The photos of one split, but for the `excluded` paths, with their class numbers."""

    def __init__(self, index: Path, split: str, excluded: Collection[str] = ()) -> None:
        photos = read_index(index)
        self.photos_sha256 = photos_sha256(photos)
        self.classes = sorted({photo.label for photo in photos})
        rows = [row for row, photo in enumerate(photos) if photo.split == split]
        self.rows = [row for row in rows if photos[row].path not in excluded]
        self.left_out = len(rows) - len(self.rows)
        self.photos = [photos[row] for row in self.rows]
        self.labels = [self.classes.index(photo.label) for photo in self.photos]
        if not self.rows:
            raise UsageError(f"{index}: no photo in the {split} split; give more photos")
        shape = (len(photos), SIDE, SIDE, 3)
        if not (index / PIXELS).exists() or (index / PIXELS).stat().st_size != np.prod(shape):
            raise UsageError(f"{index / PIXELS}: doesn't fit {INDEX}; run `prepare` again")
        self.pixels = np.memmap(index / PIXELS, dtype=np.uint8, mode="r", shape=shape)

    def __len__(self) -> int:
        return len(self.rows)

    def pixel_batch(self, numbers: Sequence[int]) -> torch.Tensor:
        """The photos of these numbers as uint8 (N, 3, 224, 224)."""
        pixels = self.pixels[[self.rows[number] for number in numbers]]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def batches(self, size: int) -> Iterator[torch.Tensor]:
        """All photos in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.pixel_batch(range(start, min(start + size, len(self))))


def photos_sha256(photos: Iterable[Photo]) -> str:
    """A digest of which photos there are, with their labels and splits."""
    lines = sorted(f"{photo.sha256} {photo.label} {photo.split}\n" for photo in photos)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_index(index: Path) -> list[Photo]:
    """The rows of photos.csv in the folder `index`. Raises UsageError when there is none."""
    path = index / INDEX
    if not path.exists():
        raise UsageError(f"{path}: missing; run `python -m training prepare --data FOLDER` first")
    try:
        with path.open(newline="", errors=FILE_NAMES) as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        numbers = ("bytes", "width", "height", "orientation")
        return [Photo(**row | {name: int(row[name]) for name in numbers}) for row in rows]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: no index of photos ({error}); run `prepare` again") from error


def write_csv(path: Path, kind: type, rows: Iterable[Any]) -> None:
    with path.open("w", newline="", errors=FILE_NAMES) as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(kind))
        writer.writerows(astuple(row) for row in rows)


def _report(index: Path, photos: list[Photo], doubtful: list[Doubtful]) -> None:
    counts = Counter((photo.split, photo.label) for photo in photos)
    for split in SPLITS:
        classes = sorted({photo.label for photo in photos})
        print(f"{split:10}", *(f"{counts[split, label]:6} {label}" for label in classes))
    print(f"{len(doubtful):10} left out, reasons in {index / DOUBTFUL}")
    print(f"{os.path.getsize(index / PIXELS) / 1e9:10.2f} GB of decoded photos in {index / PIXELS}")
