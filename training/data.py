"""From a folder of photos to an index with splits and decoded pixels.

python -m training prepare --data FOLDER
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import MapResult, Pool
from pathlib import Path
from typing import BinaryIO, TypeVar

import imagehash
from PIL import Image
from tqdm import tqdm

from handler.integrity import sha256_of
from handler.photo import PhotoException, read_photo
from training.dataset import INDEX, PIXELS, write_csv
from training.errors import UsageError
from training.folders import label_of, list_files
from training.params import PrepareParams
from training.split import FEWEST, SPLITS, Photo, fewest_photos, split_photos

DOUBTFUL = "doubtful.csv"  # what was left out, and why
CHUNK = 16  # files that a process is given at once

Result = TypeVar("Result")


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
    photos: list[Photo] = []
    doubtful: list[Doubtful] = []
    with multiprocessing.Pool() as pool:
        digests = list(in_order(pool, partial(_digest, data), files))
        labels_of_digest = defaultdict(set)
        for path, digest in zip(files, digests, strict=True):
            labels_of_digest[digest].add(label_of(path))
        results = in_order(pool, partial(_read_photo, data, minimum_side), files)
        bar = tqdm(results, total=len(files), unit="photo")
        for path, digest, result in zip(files, digests, bar, strict=True):
            label = label_of(path)
            if isinstance(result, str):
                doubtful.append(Doubtful(path, label, result))
            elif len(labels_of_digest[digest]) > 1:
                doubtful.append(Doubtful(path, label, "same bytes under several labels"))
            else:
                size, width, height, turned, hash64, decoded = result
                photos.append(Photo(path, label, size, width, height, digest, turned, hash64, ""))
                pixels.write(decoded)
    return photos, doubtful


def in_order(pool: Pool, function: Callable[[str], Result], files: list[str]) -> Iterator[Result]:
    """`function` of each of `files`, as `pool.imap` gives it, but never far ahead of who reads it.

    Decoded photos would pile up in memory where the disk takes them more slowly than they come.
    """
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    waiting: deque[MapResult[Result]] = deque()
    for chunk in chunks:
        waiting.append(pool.map_async(function, chunk, chunksize=CHUNK))
        if len(waiting) > 4 * (os.cpu_count() or 1):
            yield from waiting.popleft().get()
    while waiting:
        yield from waiting.popleft().get()


def _digest(data: Path, path: str) -> str:
    try:
        return sha256_of(data / path)
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


def _report(index: Path, photos: list[Photo], doubtful: list[Doubtful]) -> None:
    counts = Counter((photo.split, photo.label) for photo in photos)
    for split in SPLITS:
        classes = sorted({photo.label for photo in photos})
        print(f"{split:10}", *(f"{counts[split, label]:6} {label}" for label in classes))
    print(f"{len(doubtful):10} left out, reasons in {index / DOUBTFUL}")
    print(f"{os.path.getsize(index / PIXELS) / 1e9:10.2f} GB of decoded photos in {index / PIXELS}")
