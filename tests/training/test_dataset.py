from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch

from handler.photo import SIDE
from training.dataset import (
    AHEAD,
    BYTES,
    INDEX,
    PIXELS,
    Photo,
    PixelLoader,
    Split,
    excluded_photos,
    listed,
    write_csv,
)
from training.files import UsageError
from training.params import Params


@pytest.mark.parametrize("room", [0, 2**40], ids=["read ahead", "kept on the device"])
def test_batches_come_in_order_wherever_the_pixels_lie(
    index: Path, device: torch.device, room: int
) -> None:
    split = Split(index, "train")
    loader = PixelLoader(split, device, room)
    assert (loader.kept is None) == (room == 0)
    order = torch.randperm(len(split))[:60].view(6, 10)
    batches = list(loader.batches(order))
    assert len(batches) == 6
    for numbers, photos in zip(order.tolist(), batches, strict=True):
        assert photos.shape == (10, 3, SIDE, SIDE)
        assert photos.dtype == torch.uint8
        assert photos.device.type == device.type
        assert torch.equal(photos.cpu(), split.pixel_batch(numbers))


def test_pixels_are_kept_only_where_all_of_them_fit(index: Path) -> None:
    split = Split(index, "train")
    fits = len(split) * BYTES
    assert PixelLoader(split, torch.device("cpu"), fits).kept is not None
    assert PixelLoader(split, torch.device("cpu"), fits - 1).kept is None
    assert PixelLoader(split, torch.device("cpu")).kept is None  # the processor's memory is theirs


def test_reading_never_goes_far_ahead_and_ends_with_who_reads(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(index, "train")
    read: list[int] = []
    whole = split.pixel_batch
    monkeypatch.setattr(split, "pixel_batch", lambda numbers: (read.append(1), whole(numbers))[1])
    batches = PixelLoader(split, torch.device("cpu")).batches(torch.arange(60).view(30, 2))
    for taken in range(1, 11):
        next(batches)
        assert len(read) <= taken + AHEAD
    batches.close()
    assert len(read) <= 10 + AHEAD
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_a_batch_that_cannot_be_read_is_an_error_of_the_step(index: Path) -> None:
    split = Split(index, "train")
    batches = PixelLoader(split, torch.device("cpu")).batches(torch.tensor([[0], [len(split)]]))
    next(batches)
    with pytest.raises(IndexError):
        next(batches)


def test_reading_a_split_needs_nothing_that_preparing_one_does() -> None:
    code = (
        "import sys, training.dataset; "
        "print(sorted({'imagehash', 'multiprocessing.pool', 'scipy'} & sys.modules.keys()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def rows(counts: dict[tuple[str, str, str], int]) -> list[Photo]:
    """Photos by label, split and source."""
    return [
        Photo(f"{label}/{source}__{n}.jpg", label, 1, 50, 50, "", 1, "", split, source)
        for (label, split, source), count in counts.items()
        for n in range(count)
    ]


def split_of(index: Path, photos: list[Photo], name: str) -> Split:
    index.mkdir(exist_ok=True)
    write_csv(index / INDEX, Photo, photos)
    with (index / PIXELS).open("wb") as file:
        file.truncate(len(photos) * BYTES)
    return Split(index, name)


def test_foreign_photos_of_each_class_are_repeated_equally_often(tmp_path: Path) -> None:
    counts = {
        (label, "validation", source): count
        for label in ("cat", "dog")
        for source, count in (("ours", 75), ("theirs", 50))
    }
    photos = rows(counts | {("cat", "train", "ours"): 5})
    split = split_of(tmp_path, photos, "validation")
    taken = Counter((split.labels[n], split.sources[n]) for n in split.half_and_half())
    assert set(taken.values()) == {75}
    assert len(taken) == 4


def test_a_photo_of_a_training_source_is_not_foreign(tmp_path: Path) -> None:
    """Not even one that is in validation because it looks like a photo there."""
    photos = rows(
        {("cat", "validation", "theirs"): 3, ("cat", "validation", "ours"): 1}
        | {("dog", "train", "ours"): 2}
    )
    assert split_of(tmp_path, photos, "validation").foreign.tolist() == [True] * 3 + [False]


@pytest.mark.parametrize(
    ("path", "is_listed"),
    [
        ("photos/cat/1.jpg", True),  # the folder's name is given
        ("other/cat/1.jpg", False),
        ("mine/dog/2.jpg", True),  # any folder
        ("mine/cat/2.jpg", False),
        ("mine/2.jpg", False),
    ],
)
def test_a_photo_is_excluded_by_its_path_with_or_without_the_data_folder(
    path: str, is_listed: bool
) -> None:
    assert listed(path, {"photos/cat/1.jpg", "dog/2.jpg"}) == is_listed


def test_excluded_photos_are_not_trained_on(index: Path, params: Params, tmp_path: Path) -> None:
    path = Split(index, "train").photos[0].path
    csv_file = tmp_path / "list.csv"
    csv_file.write_text(f"path,why\n{path},drawn\n")
    excluded = excluded_photos(dataclasses.replace(params.train, excluded=str(csv_file)))
    assert excluded == {path}
    split = Split(index, "train", excluded)
    assert path not in {photo.path for photo in split.photos}
    assert split.left_out == 1
    with pytest.raises(UsageError, match="not a CSV file with a column"):
        excluded_photos(dataclasses.replace(params.train, excluded=str(tmp_path / "none")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_a_list_of_excluded_photos_may_come_from_excel_or_have_names_that_are_not_utf_8(
    params: Params, tmp_path: Path, encoding: str
) -> None:
    csv_file = tmp_path / "list.csv"
    csv_file.write_bytes("path,why\ncat/m\u00fcde.jpg,drawn\n".encode(encoding))
    excluding = dataclasses.replace(params.train, excluded=str(csv_file))
    (path,) = excluded_photos(excluding)
    assert os.fsencode(path) == "cat/m\u00fcde.jpg".encode(encoding.removesuffix("-sig"))
    csv_file.write_bytes(b'path\r\n"cat/two\rlines.jpg"\r\n')
    assert excluded_photos(excluding) == {"cat/two\rlines.jpg"}
