"""From a folder of photos to an index with splits and decoded pixels.

python -m training prepare --data FOLDER [FOLDER ...]
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
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
from training.checks import DOUBTFUL, check_index, check_sources, check_splits, folders_of
from training.dataset import BYTES, INDEX, PIXELS, write_csv
from training.errors import UsageError
from training.folders import UNLABELLED, Found, PhotoFile, find_files
from training.params import PrepareParams
from training.split import SPLITS, Photo, split_photos

CHUNK = 16  # files that a process is given at once

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Doubtful:
    """One row of doubtful.csv."""

    path: str
    label: str
    reason: str


def prepare(
    data: Sequence[Path], index: Path, params: PrepareParams, classes: Collection[str] = ()
) -> None:
    """Index the photos of the folders `data`, each with a folder of photos for each class.

    The folder `index` is replaced as a whole: photos.csv, doubtful.csv and photos.uint8. With
    `classes`, of these folders alone. No file stops it; raises UsageError when `data` lacks a class
    or a source that is named, doesn't hold at least two class folders, or one has too few readable
    photos to be in every split.
    """
    check_index(data, index)
    found = find_files(data, classes)
    files = found.files
    check_sources(files, params)
    staging = index.with_name(index.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with (staging / PIXELS).open("wb") as pixels:
            photos, doubtful = read_photos(files, params.minimum_side, pixels)
        if empty := {file.label for file in files} - {photo.label for photo in photos} - {""}:
            raise UsageError(f"{folders_of(data, min(empty))}: holds no readable photo; add some")
        photos = split_photos(photos, params)
        check_splits(data, photos, params)
        doubtful += [Doubtful(*row) for row in found.unreadable]
        doubtful += [
            Doubtful(photo.path, "", why_left_out(photo, params))
            for photo in photos
            if not photo.split
        ]
        photos = _keep_split(photos, staging / PIXELS)
        write_csv(staging / INDEX, Photo, photos)
        write_csv(staging / DOUBTFUL, Doubtful, doubtful)
        shutil.rmtree(index, ignore_errors=True)
        staging.rename(index)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(index, photos, doubtful, found)


def read_photos(
    files: list[PhotoFile], minimum_side: int, pixels: BinaryIO
) -> tuple[list[Photo], list[Doubtful]]:
    """Sort `files` into photos, whose decoded pixels are written to `pixels`, and doubtful ones."""
    photos: list[Photo] = []
    doubtful: list[Doubtful] = []
    with multiprocessing.Pool() as pool:
        digests = list(in_order(pool, _digest, files))
        labels_of_digest = defaultdict(set)
        for file, digest in zip(files, digests, strict=True):
            if file.label:
                labels_of_digest[digest].add(file.label)
        results = in_order(pool, partial(_read_photo, minimum_side), files)
        bar = tqdm(results, total=len(files), unit="photo")
        for file, digest, result in zip(files, digests, bar, strict=True):
            if isinstance(result, str):
                doubtful.append(Doubtful(file.path, file.label, result))
            elif len(labels_of_digest[digest]) > 1:
                reason = "same bytes under several labels"
                doubtful.append(Doubtful(file.path, file.label, reason))
            else:
                size, width, height, turned, hash64, decoded = result
                photos.append(
                    Photo(
                        file.path, file.label, size, width, height, digest, turned, hash64,
                        "", file.source,
                    )
                )  # fmt: skip
                pixels.write(decoded)
    return photos, doubtful


def why_left_out(photo: Photo, params: PrepareParams) -> str:
    """The reason for a photo without label and split."""
    if photo.source in params.validation_sources:
        return "without a label, and of a source that validates"
    return "looks like a photo of another split"


def _keep_split(photos: list[Photo], pixels: Path) -> list[Photo]:
    """The photos that have a split; those of the others are taken out of the file `pixels`."""
    kept = [row for row, photo in enumerate(photos) if photo.split]
    with pixels.open("r+b") as file:
        for place, row in enumerate(kept):
            if place < row:
                file.seek(row * BYTES)
                photo = file.read(BYTES)
                file.seek(place * BYTES)
                file.write(photo)
        file.truncate(len(kept) * BYTES)
    return [photos[row] for row in kept]


def in_order(pool: Pool, function: Callable[[Item], Result], files: list[Item]) -> Iterator[Result]:
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


def _digest(file: PhotoFile) -> str:
    try:
        return sha256_of(file.place)
    except (OSError, MemoryError):
        return ""  # `_read_photo` tells the reason


def _read_photo(minimum_side: int, file: PhotoFile) -> str | tuple[int, int, int, int, str, bytes]:
    """Bytes, width, height, orientation, perceptual hash and pixels, or why it is left out."""
    try:
        content = file.place.read_bytes()
        pixels, (width, height), turned = read_photo(content)
    except (OSError, MemoryError, PhotoException) as error:
        return f"unreadable: {error or type(error).__name__}"
    if min(width, height) < minimum_side:
        return f"tiny: {width}x{height} pixels"
    hash64 = str(imagehash.phash(Image.fromarray(pixels)))
    return len(content), width, height, turned, hash64, pixels.tobytes()


def _report(index: Path, photos: list[Photo], doubtful: list[Doubtful], found: Found) -> None:
    counts = Counter((photo.split, photo.label) for photo in photos)
    for split in SPLITS:
        labels = sorted({label for name, label in counts if label or name == split})
        print(f"{split:10}", *(f"{counts[split, name]:6} {name or UNLABELLED}" for name in labels))
    by_source = Counter((photo.source, photo.split) for photo in photos)
    sources = sorted({source for source, _ in by_source})
    for source in sources if len(sources) > 1 else ():
        shares = (f"{by_source[source, split]:6} {split}" for split in SPLITS)
        print(f"{'':10}", *shares, f"from {source}")
    print(f"{len(doubtful):10} left out, reasons in {index / DOUBTFUL}")
    for line in found.left_out():
        print(line)
    print(f"{os.path.getsize(index / PIXELS) / 1e9:10.2f} GB of decoded photos in {index / PIXELS}")
