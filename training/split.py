"""Photos into training, validation and test, look-alikes never parted."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.params import PrepareParams

SPLITS = ("train", "validation", "test")
FEWEST = {"train": 2, "validation": 1, "test": 1}  # photos of a class; `teach` halves the first


@dataclass(frozen=True)
class Photo:
    """One row of photos.csv."""

    path: str  # relative to the data folder
    label: str
    bytes: int
    width: int
    height: int
    sha256: str
    orientation: int  # of EXIF, 1 to 8; 1 is upright
    perceptual_hash: str  # 64 bits in hexadecimal
    split: str


def split_photos(photos: list[Photo], params: PrepareParams) -> list[Photo]:
    """The same photos with their splits: per class, by seeded hash, look-alikes never parted.

    The order of `photos` doesn't matter, and further photos move few of the old ones.
    """
    groups: dict[int, list[Photo]] = defaultdict(list)
    for photo, group in zip(photos, look_alikes(photos, params.look_alike_distance), strict=True):
        groups[group].append(photo)
    by_class: dict[str, list[tuple[str, list[Photo]]]] = defaultdict(list)
    for group_photos in groups.values():
        first = min(group_photos, key=lambda photo: photo.sha256)
        rank = hashlib.sha256(f"{params.seed} {first.sha256}".encode()).hexdigest()
        by_class[first.label].append((rank, group_photos))

    split_of: dict[str, str] = {}
    for ranked in by_class.values():
        ordered = [group_photos for _, group_photos in sorted(ranked, key=lambda item: item[0])]
        for group_photos, split in zip(ordered, fill(list(map(len, ordered)), params), strict=True):
            split_of |= {photo.path: split for photo in group_photos}
    return [replace(photo, split=split_of[photo.path]) for photo in photos]


def fill(sizes: list[int], params: PrepareParams) -> list[str]:
    """A split for each group of look-alikes, in their order, from their sizes."""
    total = sum(sizes)
    wanted = {"test": params.test_share * total, "validation": params.validation_share * total}
    filled: Counter[str] = Counter()
    splits = []
    for size in sizes:
        open_splits = (name for name in wanted if filled[name] + 0.5 <= wanted[name])
        splits.append(next(open_splits, "train"))
        filled[splits[-1]] += size
    return splits


def fewest_photos(params: PrepareParams) -> int:
    """How many photos of a class, no two alike, are enough for every split."""
    return next(n for n in count(1) if Counter(FEWEST) <= Counter(fill([1] * n, params)))


def look_alikes(photos: list[Photo], distance: int) -> list[int]:
    """A group number for each photo; hashes at most `distance` bits apart share one, in chains."""
    hashes = np.array([int(photo.perceptual_hash, 16) for photo in photos], dtype=np.uint64)
    rows, columns = [], []
    for row, value in enumerate(hashes):
        near = np.flatnonzero(np.bitwise_count(hashes[row:] ^ value) <= distance) + row
        rows.append(np.full(len(near), row))
        columns.append(near)
    pairs = (np.concatenate(rows), np.concatenate(columns))
    graph = coo_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(len(photos), len(photos)))
    groups: list[int] = connected_components(graph, directed=False)[1].tolist()
    return groups
