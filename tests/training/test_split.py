"""Which photos go to which split, and which look alike."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from training.dataset import Photo
from training.params import PrepareParams
from training.split import FEWEST, fewest_photos, fill, look_alikes, split_photos

SPLIT = PrepareParams(
    seed=1,
    validation_share=0.1,
    test_share=0.1,
    minimum_side=16,
    look_alike_distance=2,
    validation_sources=[],
)
VALIDATING = dataclasses.replace(SPLIT, validation_sources=["ads"])


def made_row(
    path: str, label: str, number: int, perceptual_hash: int, source: str = "photos"
) -> Photo:
    digest, hash64 = f"{number:064x}", f"{perceptual_hash:016x}"
    return Photo(path, label, 1, 50, 50, digest, 1, hash64, "", source)


def made_index(hashes: list[int], labels: list[str] | None = None) -> list[Photo]:
    """Rows for photos with these perceptual hashes."""
    labels = labels or ["cat"] * len(hashes)
    return [
        made_row(f"{label}/{n}.jpg", label, n, value)
        for n, (label, value) in enumerate(zip(labels, hashes, strict=True))
    ]


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60),
    st.data(),
)
@settings(deadline=None)
def test_look_alikes_share_a_split_whatever_their_order(
    hashes: list[int], data: st.DataObject
) -> None:
    twins = [value ^ data.draw(st.sampled_from([0, 1, 3, 2**63])) for value in hashes]
    rows = made_index(hashes + twins)
    split_of = {row.path: row.split for row in split_photos(rows, SPLIT)}
    for n in range(len(hashes)):
        assert split_of[f"cat/{n}.jpg"] == split_of[f"cat/{n + len(hashes)}.jpg"]
    shuffled = data.draw(st.permutations(rows))
    assert {row.path: row.split for row in split_photos(shuffled, SPLIT)} == split_of


def test_further_photos_move_few_of_the_old_ones() -> None:
    random = np.random.default_rng(0)
    hashes = [int(value) for value in random.integers(0, 2**63, 1000)]
    before = split_photos(made_index(hashes[:900]), SPLIT)
    after = split_photos(made_index(hashes), SPLIT)
    moved = sum(old.split != new.split for old, new in zip(before, after, strict=False))
    assert moved < 40


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 0.5), st.floats(0, 0.5))
@settings(deadline=None)
def test_each_class_is_split_in_the_given_shares_as_near_as_whole_photos_come(
    cats: int, dogs: int, validation: float, test: float
) -> None:
    params = dataclasses.replace(
        SPLIT, validation_share=validation, test_share=test, look_alike_distance=0
    )
    rows = made_index(list(range(cats + dogs)), ["cat"] * cats + ["dog"] * dogs)
    counts = Counter((photo.label, photo.split) for photo in split_photos(rows, params))
    assert {split for _, split in counts} <= {"train", "validation", "test"}
    for label, total in (("cat", cats), ("dog", dogs)):
        assert abs(counts[label, "test"] - test * total) <= 0.5
        assert counts[label, "validation"] <= validation * total + 0.5
        assert abs(counts[label, "train"] - (1 - test - validation) * total) <= 1


def test_another_seed_gives_another_split() -> None:
    rows = made_index([int(v) for v in np.random.default_rng(0).integers(0, 2**63, 100)])
    other = dataclasses.replace(SPLIT, seed=2)
    assert split_photos(rows, SPLIT) != split_photos(rows, other)


@pytest.mark.parametrize("distance", [0, 1, 6, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_look_alikes_are_those_that_a_comparison_of_all_pairs_finds(
    distance: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, 300, dtype=np.uint64)
    steps = [hashes[:1]]  # a chain with dissimilar ends
    for _ in range(100):
        steps.append(flipped(steps[-1], distance, random))
    twins = [flipped(hashes, bits, random) for bits in range(distance + 2)]
    hashes = np.concatenate([hashes, *steps, *twins, hashes[:50]])
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= distance
    expected = connected_components(near, directed=False)[1]
    groups = look_alikes(made_index([int(value) for value in hashes]), distance)
    assert len(set(zip(groups, expected, strict=True))) == len(set(groups)) == len(set(expected))


def flipped(hashes: np.ndarray, bits: int, random: np.random.Generator) -> np.ndarray:
    """The hashes with `bits` random bits of each flipped."""
    places = np.argsort(random.random((len(hashes), 64)), axis=1)[:, :bits].astype(np.uint64)
    return hashes ^ (np.uint64(1) << places).sum(axis=1, dtype=np.uint64)


@pytest.mark.parametrize("bits", [0, 15])
def test_thousands_of_frames_of_one_video_are_one_group_in_little_memory(bits: int) -> None:
    random = np.random.default_rng(0)
    frames = np.full(8000, random.integers(2**63), np.uint64)
    frames ^= random.integers(0, 2**bits, len(frames), dtype=np.uint64)  # some bits flicker
    others = random.integers(0, 2**64, 2000, dtype=np.uint64)
    photos = made_index([int(value) for value in np.concatenate([frames, others])])
    tracemalloc.start()
    groups = look_alikes(photos, 6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(groups[:8000])) == 1
    assert peak < 50e6  # all pairs of equal hashes took 1.5 GB


def test_a_group_larger_than_a_splits_share_is_trained_on_and_named() -> None:
    random = np.random.default_rng(0)
    hashes = [7] * 30 + [int(value) for value in random.integers(0, 2**63, 70)]
    for seed in range(20):
        lines: list[str] = []
        params = dataclasses.replace(SPLIT, seed=seed)
        photos = split_photos(made_index(hashes), params, lines.append)
        assert {photo.split for photo in photos[:30]} == {"train"}
        counts = Counter(photo.split for photo in photos)
        assert counts["test"] == counts["validation"] == 10
        assert lines == [
            "30 photos of cat look like cat/0.jpg: more than validation or test should contain, "
            "so all of them go to training"
        ]


def test_hashes_within_the_distance_share_a_group_in_chains() -> None:
    groups = look_alikes(made_index([0b0, 0b11, 0b1111, 0xFFFF0000]), distance=2)
    assert groups[0] == groups[1] == groups[2] != groups[3]


@given(st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_the_fewest_photos_are_in_every_split_and_one_less_is_not(
    validation: float, test: float
) -> None:
    shares = dataclasses.replace(SPLIT, validation_share=validation, test_share=test)
    fewest = fewest_photos(shares)
    assert Counter(FEWEST) <= Counter(fill([1] * fewest, shares))
    assert not Counter(FEWEST) <= Counter(fill([1] * (fewest - 1), shares))


def made_rows(count: int, source: str, label: str = "cat", first: int = 0) -> list[Photo]:
    """Rows of photos without look-alikes; files with a source have it in their name."""
    name = "" if source == "photos" else f"{source}__"
    hashes = np.random.default_rng(first).integers(0, 2**63, count).tolist()
    return [
        made_row(f"{label}/{name}{n}.jpg", label, n, value, source)
        for n, value in enumerate(hashes, first)
    ]


def alike(photo: Photo, other: Photo) -> Photo:
    return dataclasses.replace(photo, perceptual_hash=other.perceptual_hash)


def splits(photos: list[Photo], params: PrepareParams) -> dict[str, str]:
    return {photo.path: photo.split for photo in split_photos(photos, params, lambda line: None)}


def test_named_sources_are_whole_and_the_shares_divide_the_others_as_before() -> None:
    own = made_rows(200, "photos")
    named = made_rows(30, "ads", first=1000) + made_rows(30, "voc", first=2000)
    before = splits(own, SPLIT)
    after = splits(named + own, VALIDATING)
    assert {path: after[path] for path in before} == before
    of_source = defaultdict(set)
    for photo in named:
        of_source[photo.source].add(after[photo.path])
    assert of_source == {"ads": {"validation"}, "voc": {"train"}}


def test_look_alikes_of_a_named_source_go_with_it_and_a_validating_one_comes_first() -> None:
    own = made_rows(100, "photos")
    ads, voc = made_rows(2, "ads", first=1000), made_rows(2, "voc", first=2000)
    photos = own + [alike(ads[0], own[0]), ads[1], alike(voc[0], own[1]), alike(voc[1], ads[1])]
    split_of = splits(photos, VALIDATING)
    assert split_of[own[0].path] == "validation"
    assert split_of[own[1].path] == "train"
    assert split_of[voc[1].path] == split_of[ads[1].path] == "validation"


def test_photos_without_a_label_are_trained_on_unless_they_look_like_held_out_ones() -> None:
    own, ads = made_rows(100, "photos"), made_rows(5, "ads", first=1000)
    before = splits(own, SPLIT)
    chosen = {split: next(p for p in own if before[p.path] == split) for split in before.values()}
    extra = made_rows(4, "photos", "", first=3000)
    extra[:3] = [alike(e, chosen[s]) for e, s in zip(extra, sorted(chosen), strict=False)]
    extra += [dataclasses.replace(made_rows(1, "ads", "", first=4000)[0], source="ads")]
    after = splits(own + ads + extra, VALIDATING)
    assert sorted(chosen) == ["test", "train", "validation"]
    assert [after[photo.path] for photo in extra] == ["", "train", "", "train", ""]
    assert {path: after[path] for path in before} == before
