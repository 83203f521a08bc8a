"""Photos into training, validation and test, look-alikes never parted."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations, count

import numpy as np

from training.params import PrepareParams

SPLITS = ("train", "validation", "test")
FEWEST = {"train": 2, "validation": 1, "test": 1}  # photos of a class; `teach` halves the first
FIRST_PAIRS = 8  # of each photo in a bucket, before those that have been found alike are left out
EQUAL_BLOCKS = 3  # that two hashes must share to be compared: keys of 21 bits at a distance of 6


@dataclass(frozen=True, slots=True)  # a million of them take 0.5 GB
class Photo:
    """One row of photos.csv."""

    path: str  # relative to the data folder; where there were several, their names come first
    label: str  # "" of a photo without one
    bytes: int
    width: int
    height: int
    sha256: str
    orientation: int  # of EXIF, 1 to 8; 1 is upright
    perceptual_hash: str  # 64 bits in hexadecimal
    split: str
    source: str

    @property
    def names_source(self) -> bool:
        """Whether the file's own name does, and not its data folder's."""
        return self.path.rpartition("/")[2].startswith(f"{self.source}__")


def split_photos(
    photos: list[Photo], params: PrepareParams, say: Callable[[str], None] = print
) -> list[Photo]:
    """The same photos with their splits: per class, by seeded hash, look-alikes never parted.

    Sources that files name are not parted either. A photo without a label is trained on; its split
    is "" where it looks like one that is not, or its source validates. The order of `photos`
    doesn't matter, and further photos move few of the old ones. `say` gets a line for each group of
    look-alikes that is too large for validation and test.
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
                    "validation or test should hold, so all of them are trained on"
                )
    return split_of


def split_by_source(photos: list[Photo], params: PrepareParams) -> str | None:
    """The split of look-alikes for their sources' sake; None where the shares decide."""
    if any(photo.source in params.validation_sources for photo in photos):
        return "validation"
    return "train" if any(photo.names_source for photo in photos) else None


def splits_of_unlabelled(
    photos: list[Photo], split_of: dict[str, str], params: PrepareParams
) -> dict[str, str]:
    """Of `photos`, with the splits of those that have a label. No other split depends on them."""
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
    """How many photos of a class with `total` the splits beside training should get."""
    return {"test": params.test_share * total, "validation": params.validation_share * total}


def largest_groups(total: int, params: PrepareParams) -> dict[str, float]:
    """How many look-alikes may go to a split: its share, lest one scene be all that it measures."""
    return {name: max(share, 1) for name, share in shares(total, params).items()}


def fewest_photos(params: PrepareParams) -> int:
    """How many photos of a class, no two alike, are enough for every split."""
    return next(n for n in count(1) if Counter(FEWEST) <= Counter(fill([1] * n, params)))


def look_alikes(photos: list[Photo], distance: int) -> list[int]:
    """A group number for each photo; hashes at most `distance` bits apart share one, in chains."""
    hashes = np.array([int(photo.perceptual_hash, 16) for photo in photos], dtype=np.uint64)
    different, number = np.unique(hashes, return_inverse=True)
    groups: list[int] = chains(different, distance)[number].tolist()
    return groups


def chains(hashes: np.ndarray, distance: int) -> np.ndarray:
    """A group number for each of `hashes`, uint64 (N,), no two equal; memory grows with N alone.

    Union-find over the pairs that `candidates` gives, and no others: a million random hashes take
    seconds.
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
            while (parents != parents[parents]).any():  # each points at its root again
                parents[:] = parents[parents]
    return parents


def candidates(
    hashes: np.ndarray, distance: int, groups: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of row numbers, many at a time, among them all that are at most `distance` bits apart.

    Of `distance` + 3 blocks of bits such hashes have 3 in common (multi-index hashing; Greene and
    others 1994, Norouzi and others 2012). Rows whose numbers in `groups` are equal are not paired;
    it may change between two pairs.
    """
    for order, bucket in buckets(hashes, distance):
        size, rows = FIRST_PAIRS, order
        while len(rows):
            # Each row with what follows its own group in its bucket; now and then sorted anew, so
            # that thousands of frames of one video are soon one group and cost no pairs.
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
    """Of sorted `values` (N,): the number of the first that is larger than each, or N."""
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True)) + 1
    return np.repeat(ends, np.diff(ends, prepend=0))


def buckets(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each choice of 3 blocks: row numbers in the order of these blocks' bits, without those
    that share them with no other, and the number of each one's bucket, from 0 on."""
    low = np.uint64(2**32 - 1)  # of the sorted numbers: the row; above it the key
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
