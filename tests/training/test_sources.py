"""Several data folders, sources in file names, and photos without a label."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from handler.photo import decode_photo
from tests.made_photos import made_photo
from training.checkpoint import CHECKPOINT
from training.dataset import INDEX, UNKNOWN, Split, read_index
from training.epoch import changed_batch
from training.evaluate import evaluate
from training.files import UsageError, load_torch
from training.folders import find_files
from training.model_card import summary, write_model_card
from training.params import Params, PrepareParams
from training.prepare import REJECTED, prepare
from training.teach import teach
from training.train import train


def save(folder: Path, label: str, names: dict[str, int]) -> None:
    """Generated photos: file names and their numbers."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    for name, number in names.items():
        made_photo(label, number).save(folder / label / name, quality=90)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Three sources with cats and dogs, and ten photos without a label."""
    folder = tmp_path / "foreign"
    for label in ("cat", "dog"):
        for start, source in ((100, "ads__"), (110, "voc__"), (120, "")):
            save(folder, label, {f"{source}{n}.jpg": start + n for n in range(6)})
    save(folder, "unlabelled", {f"{n}.jpg": 200 + n for n in range(10)})
    return folder


def validating(params: Params, *sources: str) -> PrepareParams:
    return dataclasses.replace(params.prepare, validation_sources=list(sources))


def test_several_folders_are_one_index_with_a_column_for_the_source(
    photos: Path, foreign: Path, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "cat/0.jpg", foreign / "unlabelled/copy.jpg")
    prepare([photos, foreign], tmp_path / "index", validating(params, "ads"))
    rows = read_index(tmp_path / "index")
    own = photos.name
    counts = Counter((row.source, row.label) for row in rows)
    assert counts[own, "cat"] == counts[own, "dog"] == 40
    assert counts["ads", "cat"] == counts["voc", "dog"] == counts["foreign", "cat"] == 6
    assert {row.split for row in rows if row.source == "ads"} == {"validation"}
    assert {row.split for row in rows if row.source == "voc"} == {"train"}
    assert "foreign/cat/ads__3.jpg" in {row.path for row in rows}

    for name in ("train", "validation", "test"):
        split = Split(tmp_path / "index", name)
        assert split.classes == ["cat", "dog"]
        assert split.sources == [photo.source for photo in split.photos]
        assert (UNKNOWN in split.labels) == (name == "train")
        for number, photo in enumerate(split.photos):  # though rows were taken out
            place = (foreign if photo.path.startswith("foreign/") else photos).parent / photo.path
            pixels = split.pixel_batch([number])[0].permute(1, 2, 0).numpy()
            assert np.array_equal(pixels, decode_photo(place.read_bytes())), photo
    report = capsys.readouterr().out.splitlines()
    assert "0 train     12 validation      0 test from ads" in {line.strip() for line in report}


def test_what_is_left_out_without_a_label_is_listed(
    photos: Path, params: Params, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    prepare([data], tmp_path / "before", params.prepare)
    held_out = Split(tmp_path / "before", "test").photos[0]
    (data / "unlabelled").mkdir()
    shutil.copy(data / held_out.path, data / "unlabelled/copy.jpg")
    save(data, "unlabelled", {"other.jpg": 300})
    prepare([data], tmp_path / "index", params.prepare)
    with (tmp_path / "index" / REJECTED).open(newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["unlabelled/copy.jpg", "", "looks like a photo of another split"]
        ]
    assert {row.path: row.split for row in read_index(tmp_path / "index")} == {
        "unlabelled/other.jpg": "train"
    } | {row.path: row.split for row in read_index(tmp_path / "before")}


def test_a_reviewed_list_holds_for_one_folder_and_for_several(
    photos: Path, foreign: Path, params: Params, tmp_path: Path
) -> None:
    prepare([photos], tmp_path / "one", params.prepare)
    prepare([photos, foreign], tmp_path / "several", params.prepare)
    listed = {photo.path for photo in Split(tmp_path / "one", "train").photos[:3]}
    for name in ("one", "several"):
        assert Split(tmp_path / name, "train", listed).left_out >= 1
    assert Split(tmp_path / "one", "train", listed).left_out == 3


def test_folders_and_sources_that_do_not_fit_are_named(
    photos: Path, foreign: Path, params: Params, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    with pytest.raises(UsageError, match="no photo of 'olx'; choose from ads, foreign, .*voc"):
        prepare([photos, foreign], index, validating(params, "olx"))
    with pytest.raises(UsageError, match="two folders are called foreign; rename"):
        find_files([foreign, tmp_path / "other/foreign"])
    save(tmp_path / "more", "cats", {"0.jpg": 1})
    with pytest.raises(
        UsageError, match="foreign has cat, dog; .*more has cats; name .* --classes"
    ):
        find_files([foreign, tmp_path / "more"])
    with pytest.raises(UsageError, match="no folder 'unlabelled' for that class"):
        find_files([foreign], ["cat", "dog", "unlabelled"])
    save(tmp_path / "only", "unlabelled", {"0.jpg": 1})
    with pytest.raises(UsageError, match="only: it contains no class folder"):
        find_files([tmp_path / "only"])
    assert len(find_files([foreign, tmp_path / "only"]).files) == 47
    for label in ("cat", "dog"):
        save(tmp_path / "named", label, {f"IMG__{n}.jpg": n for n in range(20)})
    with pytest.raises(UsageError, match="20 usable photos, 0 .*alike and are not named SOURCE__"):
        prepare([tmp_path / "named"], index, params.prepare)


def test_an_index_without_sources_is_made_anew(
    photos: Path, params: Params, tmp_path: Path
) -> None:
    prepare([photos], tmp_path / "index", params.prepare)
    path, text = tmp_path / "index" / INDEX, io.StringIO()
    rows = [row[:-1] for row in csv.reader(path.read_text().splitlines())]
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue())
    with pytest.raises(UsageError, match="'source'.*run `prepare` again"):
        read_index(tmp_path / "index")


def test_foreign_photos_weigh_as_much_as_all_others(
    photos: Path, foreign: Path, params: Params, tmp_path: Path
) -> None:
    held_out = dataclasses.replace(params.prepare, validation_sources=["ads"])
    prepare([photos, foreign], tmp_path / "index", held_out)
    split = Split(tmp_path / "index", "validation")
    assert split.foreign.sum() == 12
    rows = split.half_and_half()
    assert set(rows.tolist()) == set(range(len(split)))
    assert split.foreign[rows].mean() == 0.5
    whole = dataclasses.replace(params.prepare, validation_sources=["foreign"])
    prepare([photos, foreign], tmp_path / "index", whole)
    assert Split(tmp_path / "index", "validation").foreign.sum() >= 12  # named by its folder
    test = Split(tmp_path / "index", "test")
    assert not test.foreign.any()
    assert test.half_and_half().tolist() == list(range(len(test)))


def test_a_photo_without_a_label_is_learned_from_the_teacher_alone(params: Params) -> None:
    torch.manual_seed(0)
    pixels = torch.zeros(4, 3, 224, 224, dtype=torch.uint8)
    plain = dataclasses.replace(params.train, mixup=0.0)
    labels = torch.tensor([0, UNKNOWN, 1, UNKNOWN])
    _, targets = changed_batch(pixels, labels, 2, plain, 1.0)
    assert targets[[0, 2]].tolist() == [[1, 0], [0, 1]]
    assert targets[[1, 3]].isnan().all()
    _, mixed = changed_batch(pixels, labels, 2, dataclasses.replace(plain, mixup=1.0), 1.0)
    assert mixed.isnan().any(1).sum() >= 2  # photos blended with it have no target of their own


@pytest.mark.slow
def test_unlabelled_photos_train_and_foreign_ones_have_figures_of_their_own(
    photos: Path, foreign: Path, teacher_params: Params, tmp_path: Path
) -> None:
    held_out = dataclasses.replace(teacher_params.prepare, validation_sources=["ads"])
    params = dataclasses.replace(teacher_params, prepare=held_out)
    index, run = tmp_path / "index", tmp_path / "run"
    prepare([photos, foreign], index, params.prepare)
    assert UNKNOWN in Split(index, "train").labels
    go = {"teacher_stats": tmp_path / "teacher", "tracker": nullcontext(lambda row: None)}
    untaught = dataclasses.replace(
        params.train, teacher_labels=0.0, teacher_maps=0.0, teacher_features=0.0
    )
    with pytest.raises(UsageError, match="photos without a label"):
        train(index, run, untaught, **go)
    teach(index, tmp_path / "teacher", params.teach)
    train(index, run, params.train, **go)
    (row,) = load_torch(run / CHECKPOINT)["history"]
    assert np.isfinite([row["loss"], row["total_loss"]]).all()
    assert 0 <= row["foreign_accuracy"] <= 1
    card = evaluate(index, run, params)
    known = card["metrics"]["foreign_validation"]
    assert known["photos"] == known["sources"]["ads"]["photos"] == 12
    assert known["served"]["photos"] == 12
    assert known["served"]["largest_difference"] < 0.1  # int8
    held = Split(index, "validation")
    assert card["metrics"]["validation"]["photos"] == len(held) - 12
    assert card["reference"]["photos"] == len(held)
    text = " ".join(summary(card).split())
    assert "on 12 validation photos by other people with other cameras" in text
    own = Counter(photo.source for photo in Split(index, "train").photos)
    assert card["training"]["sources"] == own
    assert set(own) == {photos.name, "voc", "foreign"}
    write_model_card(card, tmp_path / "card.md")
    written = (tmp_path / "card.md").read_text()
    assert "| ads | 12 |" in written
    assert "On photos by other people it is" in " ".join(written.split())
    listed = ", ".join(f"{name} ({count})" for name, count in own.most_common())
    assert f"came from 3 sources: {listed}." in " ".join(written.split())
