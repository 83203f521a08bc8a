"""Turn folders of photos into an index with splits and decoded pixels.

python -m training prepare --data FOLDER [FOLDER ...]
"""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import imagehash
from PIL import Image
from tqdm import tqdm

from files.walk import is_hidden
from handler.integrity import sha256_of
from handler.photo import PhotoException, read_photo
from training.compat import FILES as EARLIER_NAMES
from training.dataset import BYTES, INDEX, PIXELS, Photo, write_csv
from training.files import UsageError
from training.folders import UNLABELLED, Found, PhotoFile, find_files
from training.params import PrepareParams
from training.split import FEWEST, SPLITS, fewest_photos, split_photos

REJECTED = "rejected.csv"  # files that were left out, and why
CHUNK = 16  # files per task of a process
REMEDY = re.compile("[;:] send .*", re.DOTALL)  # the end of an error for clients of the server
MAX_BYTES = 256_000_000  # of a file, which is read whole; no photo has as many, but films do

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rejected:
    """One row of rejected.csv."""

    path: str
    label: str
    reason: str


def prepare(
    data: Sequence[Path], index: Path, params: PrepareParams, classes: Collection[str] = ()
) -> None:
    """Index the photos of the folders `data`, each with a folder of photos for each class.

    `classes` restricts it to these folders. The folder `index` is replaced as a whole: photos.csv,
    rejected.csv and photos.uint8. Unreadable files don't stop it. Raises UsageError if a given
    class or source is missing, if there are fewer than two class folders, or if a class has too few
    readable photos for all splits.
    """
    check_index(data, index)
    found = find_files(data, classes)
    files = found.files
    check_sources(files, params)
    home = index.resolve()  # the index may be a link
    staging = home.with_name(home.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        with (staging / PIXELS).open("wb") as pixels:
            photos, rejected = read_photos(files, params.minimum_side, pixels)
        if empty := {file.label for file in files} - {photo.label for photo in photos} - {""}:
            raise UsageError(f"{folders_of(data, min(empty))}: has no readable photo; add some")
        photos = split_photos(photos, params)
        check_splits(data, photos, params)
        rejected += [Rejected(*row) for row in found.unreadable]
        rejected += [
            Rejected(photo.path, "", why_left_out(photo, params))
            for photo in photos
            if not photo.split
        ]
        photos = _keep_split(photos, staging / PIXELS)
        write_csv(staging / INDEX, Photo, photos)
        write_csv(staging / REJECTED, Rejected, rejected)
        shutil.rmtree(home, ignore_errors=True)
        staging.rename(home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(index, photos, rejected, found)


def check_index(data: Sequence[Path], index: Path) -> None:
    """Raise UsageError if replacing `index` would delete anything but an earlier index."""
    if any(index.resolve().is_relative_to(folder.resolve()) for folder in data):
        raise UsageError(f"{index}: is inside a data folder; name a folder outside it")
    known = {INDEX, REJECTED, EARLIER_NAMES[REJECTED], PIXELS}
    if index.exists() and not (
        index.is_dir() and {p.name for p in index.iterdir() if not is_hidden(p.name)} <= known
    ):
        raise UsageError(f"{index}: exists and is not an index; name a new folder")


def check_sources(files: list[PhotoFile], params: PrepareParams) -> None:
    """Raise UsageError if a source in `validation_sources` has no file."""
    known = {file.source for file in files}
    if unknown := sorted(set(params.validation_sources) - known):
        raise UsageError(
            f"prepare.validation_sources: there is no photo of {unknown[0]!r}; choose from "
            f"{', '.join(sorted(known))}"
        )


def check_splits(data: Sequence[Path], photos: list[Photo], params: PrepareParams) -> None:
    """Raise UsageError for a class with too few photos for training or evaluation."""
    counts = Counter((photo.label, photo.split) for photo in photos)
    for label in sorted({photo.label for photo in photos} - {""}):
        for split, fewest in FEWEST.items():
            if counts[label, split] < fewest:
                total = sum(counts[label, name] for name in SPLITS)
                sources = any(photo.names_source for photo in photos)
                raise UsageError(
                    f"{folders_of(data, label)}: has {total} usable photos, {counts[label, split]} "
                    f"of them for {split}; give at least {fewest_photos(params)} that don't look "
                    f"alike{' and are not named SOURCE__NAME' if sources else ''}"
                )


def folders_of(data: Sequence[Path], label: str) -> str:
    """The folders of a class, for an error message; its name if it has no folder."""
    folders = [str(folder / label) for folder in data if (folder / label).is_dir()]
    return ", ".join(folders) or label


def read_photos(
    files: list[PhotoFile], minimum_side: int, pixels: BinaryIO
) -> tuple[list[Photo], list[Rejected]]:
    """Photos and rejected ones among `files`; write the decoded pixels of photos to `pixels`."""
    photos: list[Photo] = []
    rejected: list[Rejected] = []
    with readers() as pool:
        digests = list(in_order(pool, _digest, files))
        labels_of_digest = defaultdict(set)
        for file, digest in zip(files, digests, strict=True):
            if file.label:
                labels_of_digest[digest].add(file.label)
        results = in_order(pool, partial(_read_photo, minimum_side), files)
        bar = tqdm(results, total=len(files), unit="photo")
        for file, digest, result in zip(files, digests, bar, strict=True):
            if isinstance(result, str):
                rejected.append(Rejected(file.path, file.label, result))
            elif len(labels_of_digest[digest]) > 1:
                reason = "same file with several labels"
                rejected.append(Rejected(file.path, file.label, reason))
            else:
                size, width, height, turned, hash64, decoded = result
                photos.append(
                    Photo(
                        file.path, file.label, size, width, height, digest, turned, hash64,
                        "", file.source,
                    )
                )  # fmt: skip
                pixels.write(decoded)
    return photos, rejected


def why_left_out(photo: Photo, params: PrepareParams) -> str:
    """Why a photo without a label has no split, for rejected.csv."""
    if photo.source in params.validation_sources:
        return "no label, but its source is in validation_sources"
    return "looks like a photo of another split"


def _keep_split(photos: list[Photo], pixels: Path) -> list[Photo]:
    """The photos that have a split. Remove the pixels of the others from the file `pixels`."""
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


@contextmanager
def readers() -> Iterator[Executor]:
    """A process for each core. Raises UsageError if one is killed."""
    pool = ProcessPoolExecutor(initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        # Ctrl-C reaches them as well. Where they are forked, all start here and inherit that it is
        # ignored, or it could come before the initializer.
        heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            pool.submit(abs, 0).result()  # starts them
        finally:
            signal.signal(signal.SIGINT, heeded)
        yield pool
    except BrokenExecutor as error:
        raise UsageError(
            "a process that reads photos was killed; is there enough memory for a photo per core?"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C, don't read on


def in_order(
    pool: Executor, function: Callable[[Item], Result], files: list[Item]
) -> Iterator[Result]:
    """Like `pool.map(function, files)`, but never far ahead of its consumer.

    Otherwise decoded photos would fill the memory if the disk is slower than decoding.
    """
    chunks = (files[start : start + CHUNK] for start in range(0, len(files), CHUNK))
    waiting: deque[Future[list[Result]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(apply, function, chunk))
        if len(waiting) > 4 * (os.cpu_count() or 1):
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def apply(function: Callable[[Item], Result], files: list[Item]) -> list[Result]:
    return [function(file) for file in files]


def _digest(file: PhotoFile) -> str:
    try:
        return sha256_of(file.place)
    except (OSError, MemoryError):
        return ""  # `_read_photo` gives the reason


def _read_photo(minimum_side: int, file: PhotoFile) -> str | tuple[int, int, int, int, str, bytes]:
    """Bytes, width, height, orientation, perceptual hash and pixels; or why it is left out."""
    try:
        if file.place.stat().st_size > MAX_BYTES:
            return f"over {MAX_BYTES // 10**6} MB"
        content = file.place.read_bytes()
        photo = read_photo(content)
    except PhotoException as error:
        return f"unreadable: {REMEDY.sub('', str(error))}"
    except (OSError, MemoryError) as error:
        return f"unreadable: {error or type(error).__name__}"
    width, height = photo.size
    if min(width, height) < minimum_side:
        return f"tiny: {width}x{height} pixels"
    hash64 = str(imagehash.phash(Image.fromarray(photo.pixels)))
    return len(content), width, height, photo.orientation, hash64, photo.pixels.tobytes()


def _report(index: Path, photos: list[Photo], rejected: list[Rejected], found: Found) -> None:
    counts = Counter((photo.split, photo.label) for photo in photos)
    for split in SPLITS:
        labels = sorted({label for name, label in counts if label or name == split})
        print(f"{split:10}", *(f"{counts[split, name]:6} {name or UNLABELLED}" for name in labels))
    by_source = Counter((photo.source, photo.split) for photo in photos)
    sources = sorted({source for source, _ in by_source})
    for source in sources if len(sources) > 1 else ():
        shares = (f"{by_source[source, split]:6} {split}" for split in SPLITS)
        print(f"{'':10}", *shares, f"from {source}")
    kinds = Counter(row.reason.partition(":")[0] for row in rejected).most_common()
    reasons = ", ".join(f"{kind} ({number})" for kind, number in kinds)
    print(f"{len(rejected):10} left out, see {index / REJECTED}{': ' * bool(kinds)}{reasons}")
    for line in found.left_out():
        print(line)
    print(f"{os.path.getsize(index / PIXELS) / 1e9:10.2f} GB of decoded photos in {index / PIXELS}")
