"""Common layouts of photo sets: accepted, or refused with helpful options."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from tests.made_photos import made_photo
from training.__main__ import parser
from training.dataset import Split
from training.files import UsageError
from training.folders import class_of, find_files, is_split
from training.params import Params
from training.prepare import REJECTED, prepare

# Files of well-known sets, with {} for numbers.
KAGGLE = ["train/cat.{}.jpg", "train/dog.{}.jpg", "test1/{}.jpg"]
SETS = [
    f"{name}/{c}/{c[:3]}.{{}}.jpg"
    for name in ("training_set", "test_set")
    for c in ("cats", "dogs")
]
TWICE = [f"{name.split('/')[0]}/{name}" for name in SETS]
MICROSOFT = ["PetImages/Cat/{}.jpg", "PetImages/Dog/{}.jpg", "readme[{}].txt"]
GOOGLE = [f"{name}/{c}/{c}.{{}}.jpg" for name in ("train", "validation") for c in ("cats", "dogs")]
INNER = [f"{name}/images/{c}/{{}}.jpg" for name in ("test", "train") for c in ("cat", "dog")]
OXFORD = ["images/Abyssinian_{}.jpg", "images/american_bulldog_{}.jpg", "annotations/xmls/{}.xml"]


def lay_out(folder: Path, names: list[str]) -> None:
    for name in names:
        for number in range(1, 4):
            path = folder / name.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def refusal(data: list[Path], classes: list[str] | None = None) -> str:
    with pytest.raises(UsageError) as raised:
        find_files(data, classes or [])
    return str(raised.value)


def helped(message: str) -> Counter[str]:
    """The number of files per class with the options that a refusal suggests."""
    (options,) = re.findall(r"give `(--data .*?)` \(with make: `DATA=", message)
    given = parser().parse_args(["prepare", *shlex.split(options)])
    return Counter(file.label for file in find_files(given.data, given.classes or ()).files)


@pytest.mark.parametrize(
    ("names", "data", "classes", "said"),
    [
        (KAGGLE, ".", {"cat": 3, "dog": 3}, "test1 and train are names of splits"),
        (KAGGLE, "train", {"cat": 3, "dog": 3}, "train: contains photos itself; give"),
        (SETS, ".", {"cats": 6, "dogs": 6}, "test_set and training_set are names of splits"),
        (TWICE, ".", {"cats": 6, "dogs": 6}, "names of splits"),
        (TWICE, "training_set", {"cats": 3, "dogs": 3}, "training_set is the name of a split"),
        (MICROSOFT, ".", {"Cat": 3, "Dog": 3}, "there is only PetImages; give"),
        (GOOGLE, ".", {"cats": 6, "dogs": 6}, "train and validation are names of splits"),
        (INNER, ".", {"cat": 3, "dog": 3}, "test and train are names of splits"),
        (["cat/{}.jpg", "dog/{}.jpg", "test/{}.jpg"], ".", {"cat": 3, "dog": 3}, "test is the"),
        (OXFORD, "images", {"Abyssinian": 3, "american_bulldog": 3}, "contains photos itself"),
        (["all pets/cat ({}).jpg", "all pets/dog ({}).jpg"], ".", {"cat": 3, "dog": 3}, "only all"),
    ],
)
def test_the_options_that_a_refusal_names_take_the_classes(
    names: list[str], data: str, classes: dict[str, int], said: str, tmp_path: Path
) -> None:
    lay_out(tmp_path / "my set", names)
    message = refusal([tmp_path / "my set" / data])
    assert said in message
    assert "\n" not in message
    assert helped(message) == classes


def test_named_classes_are_taken_though_they_be_called_as_splits_are(tmp_path: Path) -> None:
    lay_out(tmp_path, ["train/{}.jpg", "plane/{}.jpg", "test/{}.jpg"])
    files = find_files([tmp_path], ["train", "plane"]).files
    assert {file.label for file in files} == {"train", "plane"}


def test_named_classes_that_are_no_folders_come_with_the_folder_that_has_them(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path, KAGGLE)
    message = refusal([tmp_path], ["cat", "dog"])
    assert "has no folder 'cat' for that class; it has test1, train; give" in message
    assert helped(message) == {"cat": 3, "dog": 3}


def test_a_folder_of_one_class_is_distinguished_from_one_of_all(tmp_path: Path) -> None:
    lay_out(tmp_path, ["cat/cat.{}.jpg", "cat/kitten.{}.jpg", "dog/dog.{}.jpg"])
    assert "cat: contains photos like a class folder; give a folder that" in refusal(
        [tmp_path / "cat"]
    )
    lay_out(tmp_path / "camera", ["IMG_2024_{}.jpg", "DSC0{}.jpg"])
    assert "perhaps its parent folder" in refusal([tmp_path / "camera"])
    lay_out(tmp_path / "more", ["test/{}.jpg"])
    assert "test: contains photos itself; give a folder that" in refusal([tmp_path / "more/test"])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat.0.jpg", "cat"), ("dog.12499.jpg", "dog"), ("Cat553.jpeg", "Cat"), ("cat.jpg", "cat"),
        ("american_bulldog_10.jpg", "american_bulldog"), ("cat (12).jpg", "cat"), ("7.jpg", ""),
        ("ads__cat_1.jpg", "cat"), ("cat-1", "cat"), ("catalogue.1.jpg", "catalogue"),
    ],
)  # fmt: skip
def test_the_class_in_a_files_name(name: str, label: str) -> None:
    assert class_of(name) == label


def test_the_names_of_splits() -> None:
    splits = (
        "train test1 training_set test_set validation valid val dev Testing eval TRAIN train-data"
    )
    assert all(map(is_split, splits.split()))
    assert not any(map(is_split, ("trains", "tester", "cat", "valley", "trainer", "")))


def test_photos_are_prepared_by_their_names_and_left_out_files_are_reported(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat, data = tmp_path / "flat", tmp_path / "data"
    for label in ("cat", "dog"):
        for folder, name in ((flat, f"{label}."), (data / label, "")):
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(20):
                made_photo(label, number).save(folder / f"{name}{number}.png")
    (flat / "cattle.1.png").touch()
    prepare([flat], tmp_path / "index", params.prepare, ["cat", "dog"])
    assert Counter(Split(tmp_path / "index", "train").labels) == {0: 16, 1: 16}
    listed = (tmp_path / "index" / REJECTED).read_text().splitlines()
    assert listed[1:] == ["cattle.1.png,,its name doesn't begin with a class"]

    for photo in flat.glob("dog.1*"):
        photo.unlink()
    for photo in flat.glob("dog.[5-9]*"):
        photo.write_text("no photo")
    with pytest.raises(UsageError, match=r"^dog: has 4 usable photos, 0 of them for"):
        prepare([flat], tmp_path / "index", params.prepare, ["cat", "dog"])

    (tmp_path / "index/.DS_Store").touch()  # as file managers create it
    lay_out(data, ["wolf/.git/{}.jpg", "cat/.thumbnails/{}.jpg", "__MACOSX/cat/{}.jpg", "{}.jpg"])
    (data / "dog/loop").symlink_to(".")
    capsys.readouterr()
    prepare([data], tmp_path / "index", params.prepare)
    said = capsys.readouterr().out
    assert re.search(r" 3 left out, hidden or .*: cat/.thumbnails, wolf/.git, .*/__MACOSX\n", said)
    assert f" 1 left out, class folders without a file: {data}/wolf\n" in said
    assert f" 3 left out, photos outside the class folders: {data}/1.jpg, " in said
    listed = (tmp_path / "index" / REJECTED).read_text().splitlines()
    assert listed[1:] == ["dog/loop,dog,the same folder as another one"]
