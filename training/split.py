"""Split photos into training, validation and test; look-alikes stay together."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, count

import numpy as np

from training.dataset import Photo
from training.params import PrepareParams

SPLITS = ("train", "validation", "test")
FEWEST = {"train": 2, "validation": 1, "test": 1}  # photos per class; `teach` needs 2 folds
FIRST_PAIRS = 8  # per photo in a bucket, before photos already found alike are skipped
EQUAL_BLOCKS = 3  # that two hashes must share to be compared; with distance 6, keys have 21 bits


def split_photos(
    photos: list[Photo], params: PrepareParams, say: Callable[[str], None] = print
) -> list[Photo]:
    """The same photos with their splits: per class, by seeded hash, look-alikes together.

    Sources in file names stay together too. Photos without a label go to training; their split is
    "" if they look like a photo of another split, or their source is in `validation_sources`. The
    order of `photos` doesn't matter, and adding photos moves few of the others. `say` gets a line
    for each group of look-alikes that is too large for validation and test.
    """
    split_of = splits_of_labelled([photo for photo in photos if photo.label], params, say)
    if len(split_of) < len(photos):
        split_of |= splits_of_unlabelled(photos, split_of, params)
    return [replace(photo, split=split_of[photo.path]) for photo in photos]


def splits_of_labelled(
    photos: list[Photo], params: PrepareParams, say: Callable[[str], None]
) -> dict[str, str]:
    groups: dict[int, list[Photo]] = defaultdict(list)
    for photo, group in zip(photos, look_alikes(photos, params.look_alike_distance), strict=True):
        groups[group].append(photo)
    split_of: dict[str, str] = {}
    by_class: dict[str, list[tuple[str, list[Photo]]]] = defaultdict(list)
    for group_photos in groups.values():
        if split := split_by_source(group_photos, params):
            split_of |= {photo.path: split for photo in group_photos}
            continue
        first = min(group_photos, key=lambda photo: photo.sha256)
        rank = hashlib.sha256(f"{params.seed} {first.sha256}".encode()).hexdigest()
        by_class[first.label].append((rank, group_photos))

    for label, ranked in by_class.items():
        ordered = [group_photos for _, group_photos in sorted(ranked, key=lambda item: item[0])]
        sizes = list(map(len, ordered))
        largest = max(largest_groups(sum(sizes), params).values())
        for group_photos, split in zip(ordered, fill(sizes, params), strict=True):
            split_of |= {photo.path: split for photo in group_photos}
            if len(group_photos) > largest:
                example = min(photo.path for photo in group_photos)
                say(
                    f"{len(group_photos):,} photos of {label} look like {example}: more than "
                    "validation or test should contain, so all of them go to training"
                )
    return split_of


def split_by_source(photos: list[Photo], params: PrepareParams) -> str | None:
    """The split of look-alikes if their sources determine it; None if the shares do."""
    if any(photo.source in params.validation_sources for photo in photos):
        return "validation"
    return "train" if any(photo.names_source for photo in photos) else None


def splits_of_unlabelled(
    photos: list[Photo], split_of: dict[str, str], params: PrepareParams
) -> dict[str, str]:
    """The splits of the unlabelled among `photos`, given those of the labelled, by path."""
    groups = look_alikes(photos, params.look_alike_distance)
    held_out = {
        group
        for photo, group in zip(photos, groups, strict=True)
        if split_of.get(photo.path, "train") != "train"
    }
    return {
        photo.path: ""
        if group in held_out or photo.source in params.validation_sources
        else "train"
        for photo, group in zip(photos, groups, strict=True)
        if not photo.label
    }


def fill(sizes: list[int], params: PrepareParams) -> list[str]:
    """A split for each group of look-alikes, in their order, from their sizes."""
    total = sum(sizes)
    wanted = shares(total, params)
    largest = largest_groups(total, params)
    filled: Counter[str] = Counter()
    splits = []
    for size in sizes:
        open_splits = (
            name for name in wanted if filled[name] + 0.5 <= wanted[name] and size <= largest[name]
        )
        splits.append(next(open_splits, "train"))
        filled[splits[-1]] += size
    return splits


def shares(total: int, params: PrepareParams) -> dict[str, float]:
    """How many of a class's `total` photos validation and test should get."""
    return {"test": params.test_share * total, "validation": params.validation_share * total}


def largest_groups(total: int, params: PrepareParams) -> dict[str, float]:
    """The largest group of look-alikes for a split: its share, so that one scene can't fill it."""
    return {name: max(share, 1) for name, share in shares(total, params).items()}


def fewest_photos(params: PrepareParams) -> int:
    """How many photos of a class, no two alike, suffice for all splits."""
    return next(n for n in count(1) if Counter(FEWEST) <= Counter(fill([1] * n, params)))


def look_alikes(photos: list[Photo], distance: int) -> list[int]:
    """A group number for each photo; hashes at most `distance` bits apart share one, in chains."""
    hashes = np.array([int(photo.perceptual_hash, 16) for photo in photos], dtype=np.uint64)
    different, number = np.unique(hashes, return_inverse=True)
    groups: list[int] = chains(different, distance)[number].tolist()
    return groups


def chains(hashes: np.ndarray, distance: int) -> np.ndarray:
    """A group number for each of `hashes`, uint64 (N,), no two equal; memory grows linearly with N.

    It runs union-find over the pairs from `candidates` only: a million random hashes take seconds.
    """
    parents = np.arange(len(hashes))

    def root(number: int) -> int:
        while (parent := int(parents[number])) != number:
            number = parent
        return number

    for left, right in candidates(hashes, distance, parents):
        near = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
        for pair in zip(left[near].tolist(), right[near].tolist(), strict=True):
            older, newer = sorted(map(root, pair))
            parents[newer] = older
        if near.any():
            while (parents != parents[parents]).any():  # until each points to its root
                parents[:] = parents[parents]
    return parents


def candidates(
    hashes: np.ndarray, distance: int, groups: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of row numbers, in batches; they include all at most `distance` bits apart.

    Of `distance` + 3 blocks of bits, such hashes share at least 3 (multi-index hashing; Greene and
    others 1994, Norouzi and others 2012). Rows with equal numbers in `groups` are not paired;
    `groups` may change between two batches.
    """
    for order, bucket in buckets(hashes, distance):
        size, rows = FIRST_PAIRS, order
        while len(rows):
            # Pair each row with those after its own group in the bucket. Sort again now and then:
            # thousands of frames of a video soon form one group and need no more pairs.
            key = bucket << 32 | groups[order]
            by_group = np.argsort(key)
            order, key = order[by_group], key[by_group]
            partner, end = run_ends(key), run_ends(bucket)
            rows = np.flatnonzero(partner < end)
            for offset in range(size):
                yield order[rows], order[partner[rows] + offset]
                rows = rows[partner[rows] + offset + 1 < end[rows]]
            size *= 2


def run_ends(values: np.ndarray) -> np.ndarray:
    """For each of sorted `values` (N,): the index of the first larger one, or N."""
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) + 1
    return np.repeat(ends, np.diff(ends, prepend=0))


def buckets(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each choice of 3 blocks: row numbers sorted by the bits of these blocks, without rows
    that are alone in their bucket; and the bucket number of each, from 0."""
    low = np.uint64(2**32 - 1)  # in the sorted numbers: the row; the key is above it
    rows = np.arange(len(hashes), dtype=np.uint64)
    edges = np.linspace(0, 64, distance + EQUAL_BLOCKS + 1).round().astype(np.uint64)
    width = np.diff(edges).max()
    blocks = [
        (hashes >> start & (np.uint64(1) << end - start) - np.uint64(1)) << np.uint64(32)
        for start, end in zip(edges, edges[1:], strict=False)
    ]
    for chosen in combinations(blocks, EQUAL_BLOCKS):
        keyed = rows.copy()
        for number, block in enumerate(chosen):
            keyed |= block << np.uint64(number) * width
        keyed.sort()
        same = (keyed[1:] ^ keyed[:-1]) <= low
        shared = np.append(same, False) | np.append(False, same)
        new = ~np.append(False, same)[shared]
        yield (keyed[shared] & low).astype(np.intp), np.cumsum(new) - 1
