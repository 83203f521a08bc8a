from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from handler.photo import decode_photo
from testing.repository import REPOSITORY
from testing.servers import wait_until
from tests.made_photos import made_photo
from training.dataset import Split, read_index
from training.files import UsageError
from training.folders import PhotoFile
from training.params import Params
from training.prepare import CHUNK, REJECTED, _read_photo, in_order, prepare, readers


@pytest.fixture(scope="module")
def index(photos: Path, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "index"
    prepare([photos], folder, params.prepare)
    return folder


def test_each_photo_is_indexed_with_what_its_file_holds(photos: Path, index: Path) -> None:
    rows = read_index(index)
    assert [row.path for row in rows] == sorted(
        f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(40)
    )
    for row in rows[:5]:
        assert row.bytes == (photos / row.path).stat().st_size
        assert (row.width, row.height) == (96, 96)
        assert row.label == Path(row.path).parts[0]


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_photo_on_its_side_is_indexed_with_its_size_as_sent(
    format_name: str, tmp_path: Path
) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (80, 40), "red").save(buffer, format_name, exif=exif)
    (tmp_path / "photo").write_bytes(buffer.getvalue())
    _, width, height, orientation, _, pixels = _read_photo(16, PhotoFile(tmp_path, "photo", "", ""))
    assert (width, height, orientation) == (80, 40, 6)
    assert pixels == decode_photo(buffer.getvalue()).tobytes()


def test_a_photo_is_decoded_once_for_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (80, 40)).save(tmp_path / "photo.png")  # no EXIF data
    decoders = []
    original = Image._getdecoder
    monkeypatch.setattr(
        Image, "_getdecoder", lambda *args: decoders.append(args[1]) or original(*args)
    )
    assert not isinstance(_read_photo(16, PhotoFile(tmp_path, "photo.png", "", "")), str)
    assert decoders.count("zip") == 1


def test_a_split_holds_the_pixels_that_the_handler_sees(photos: Path, index: Path) -> None:
    split = Split(index, "test")
    assert split.classes == ["cat", "dog"]
    pixels = torch.cat(list(split.batches(3)))
    assert pixels.shape == (len(split), 3, 224, 224)
    for number, photo in enumerate(split.photos):
        expected = decode_photo((photos / photo.path).read_bytes())
        assert np.array_equal(pixels[number].permute(1, 2, 0).numpy(), expected)
        assert split.classes[split.labels[number]] == photo.label


def test_splits_cover_all_photos_once_in_the_given_shares(index: Path) -> None:
    counts = Counter((row.split, row.label) for row in read_index(index))
    assert counts == {
        (split, label): number
        for split, number in (("train", 32), ("validation", 4), ("test", 4))
        for label in ("cat", "dog")
    }


def test_a_link_to_an_index_leads_to_the_new_one(
    photos: Path, params: Params, tmp_path: Path
) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "index").symlink_to(tmp_path / "large disk/index")
    for _ in range(2):
        prepare([photos], tmp_path / "index", params.prepare)
        assert len(read_index(tmp_path / "large disk/index")) == 80
    assert (tmp_path / "index").is_symlink()
    assert [path.name for path in (tmp_path / "large disk").iterdir()] == ["index"]


def test_what_is_wrong_with_a_photo_is_kept_without_the_advice_to_clients(tmp_path: Path) -> None:
    Image.new("RGB", (10, 40)).save(tmp_path / "thin.png")
    reason = _read_photo(16, PhotoFile(tmp_path, "thin.png", "cat", ""))
    assert reason == "unreadable: photo has 10x40 pixels; each side needs at least 16"


def test_a_film_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "film.mov").open("wb") as file:
        file.truncate(10**13)
    found = _read_photo(16, PhotoFile(tmp_path, "film.mov", "cat", ""))
    assert found == "over 256 MB"


def kill_itself(path: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return path


def test_a_reader_that_is_killed_ends_the_command() -> None:
    with pytest.raises(UsageError, match="was killed; is there enough memory"), readers() as pool:
        list(in_order(pool, kill_itself, ["a"]))


def test_ctrl_c_is_no_traceback_of_the_readers(photos: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    for label in ("cat", "dog"):
        (many / label).mkdir(parents=True)
        for number in range(5_000):  # more than are read before the signal
            (many / label / f"{number}.jpg").symlink_to(photos / label / f"{number % 40}.jpg")
    command = [sys.executable, "-m", "training", "prepare", "--index", tmp_path / "index"]
    with subprocess.Popen(
        [*command, "--data", many], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        pixels = tmp_path / "index.partial/photos.uint8"
        wait_until(lambda: pixels.exists() and pixels.stat().st_size > 0, 60)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert errors.rstrip().endswith("interrupted")
    assert list(tmp_path.iterdir()) == [many]


def test_photos_never_pile_up_where_the_disk_is_slow() -> None:
    begun: list[str] = []
    files = [str(number) for number in range(10_000)]
    with ThreadPoolExecutor(2) as pool:

        def read(path: str) -> str:
            begun.append(path)
            return path

        taken = []
        for path in in_order(pool, read, files):
            taken.append(path)
            assert len(begun) - len(taken) <= CHUNK * (4 * (os.cpu_count() or 1) + 2)
    assert taken == files


@pytest.fixture
def spoiled(photos: Path, tmp_path: Path) -> Path:
    """The generated photos, with a file of each kind that is left out."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "cat/text.jpg").write_text("not a photo")
    (folder / "cat/empty.jpg").touch()
    (folder / "cat/dangling.jpg").symlink_to("nowhere")
    whole = (folder / "dog/1.jpg").read_bytes()
    (folder / "dog/cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (20, 20), "red").save(folder / "dog/tiny.png")
    shutil.copy(folder / "cat/0.jpg", folder / "dog/same.jpg")
    (folder / "cat/.DS_Store").write_text("hidden files are nobody's photos")
    (folder / "notes.txt").write_text("nor are files beside the class folders")
    return folder


def test_doubtful_files_are_listed_with_a_reason_and_stop_nothing(
    spoiled: Path, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare([spoiled], tmp_path / "index", params.prepare)
    assert " 7 left out, see " in (said := capsys.readouterr().out)
    kinds = "unreadable (3), same file with several labels (2), tiny (1), a link to nothing (1)"
    assert f": {kinds}\n" in said
    with (tmp_path / "index" / REJECTED).open(newline="") as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {
        *("cat/0.jpg", "cat/dangling.jpg", "cat/empty.jpg", "cat/text.jpg"),
        *("dog/cut.jpg", "dog/same.jpg", "dog/tiny.png"),
    }
    assert reasons["dog/same.jpg"] == reasons["cat/0.jpg"] == "same file with several labels"
    assert reasons["cat/text.jpg"].startswith("unreadable: not a photo")
    assert "truncated" in reasons["dog/cut.jpg"]
    assert not [reason for reason in reasons.values() if "send" in reason]
    assert reasons["dog/tiny.png"] == "tiny: 20x20 pixels"
    indexed = {row.path for row in read_index(tmp_path / "index")}
    assert len(indexed) == 79
    assert not indexed & reasons.keys()


def test_other_folders_give_other_classes(params: Params, tmp_path: Path) -> None:
    for label in ("zebra", "ant", "moth"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(10):
            made_photo(label, number).save(tmp_path / "data" / label / f"{number}.png")
    prepare([tmp_path / "data"], tmp_path / "index", params.prepare)
    assert Split(tmp_path / "index", "train").classes == ["ant", "moth", "zebra"]
    prepare([tmp_path / "data"], tmp_path / "index", params.prepare, ["zebra", "ant"])
    assert Split(tmp_path / "index", "train").classes == ["ant", "zebra"]
    with pytest.raises(UsageError, match="no folder 'fox' .* ant, moth, zebra"):
        prepare([tmp_path / "data"], tmp_path / "index", params.prepare, ["fox", "ant"])


def test_bad_folders_are_named(params: Params, tmp_path: Path) -> None:
    index = tmp_path / "index"
    with pytest.raises(UsageError, match="no such folder"):
        prepare([tmp_path / "none"], index, params.prepare)
    data = tmp_path / "data"

    def refuse(message: str, folder: Path = data, classes: tuple[str, ...] = ()) -> None:
        with pytest.raises(UsageError, match=message):
            prepare([folder], index, params.prepare, classes)

    (data / "kitten").mkdir(parents=True)
    refuse("data: there is no photo in kitten; give a folder that contains one folder of photos")
    made_photo("cat", 1).save(data / "kitten/1.png")
    refuse("data: there is only kitten; give")
    refuse("kitten: contains photos like a class folder; give a folder that", data / "kitten")
    refuse("tmp: it contains no class folder", make(tmp_path / "tmp"))
    (tmp_path / "tmp").rmdir()
    (data / "puppy").mkdir()
    refuse("data: there is no photo in puppy")
    (data / "puppy/1.png").write_text("text")
    refuse("puppy: has no readable photo")
    (data / "cub").mkdir()
    refuse("data: there is no photo in cub", classes=("cub", "kitten", "puppy"))
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]
    with pytest.raises(UsageError, match="run `python -m training prepare"):
        read_index(index)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_class_with_too_few_photos_for_every_split_is_named(
    photos: Path, params: Params, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    for number in range(4, 40):
        (data / "dog" / f"{number}.jpg").unlink()
    with pytest.raises(UsageError, match="dog: has 4 usable photos, 0 .* give at least 5"):
        prepare([data], tmp_path / "index", params.prepare)
    for number in range(4, 40):
        shutil.copy(data / "dog/0.jpg", data / "dog" / f"{number}.jpg")
    with pytest.raises(UsageError, match="dog: has 40 usable photos, . of them .* look alike"):
        prepare([data], tmp_path / "index", params.prepare)
    assert not (tmp_path / "index").exists()


def test_prepare_replaces_nothing_but_an_earlier_index(
    photos: Path, params: Params, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/precious").write_text("weights")
    file = tmp_path / "file"
    file.write_text("text")
    for index in (tmp_path / "runs", file, photos, photos / "index"):
        with pytest.raises(UsageError, match="name a (new folder|folder outside it)"):
            prepare([photos], index, params.prepare)
    assert (tmp_path / "runs/precious").read_text() == "weights"
    assert file.read_text() == "text"
    assert sorted(path.name for path in photos.iterdir()) == ["cat", "dog"]


def test_a_file_name_that_is_not_utf8_is_indexed(
    photos: Path, params: Params, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    odd = b"\xff.jpg".decode(errors="surrogateescape")
    made_photo("cat", 99).save(data / "cat/odd.jpg")
    (data / "cat/odd.jpg").rename(data / "cat" / odd)
    prepare([data], tmp_path / "index", params.prepare)
    assert f"cat/{odd}" in {row.path for row in read_index(tmp_path / "index")}


def test_pixels_that_do_not_fit_the_index_are_refused(index: Path, tmp_path: Path) -> None:
    copy = tmp_path / "index"
    shutil.copytree(index, copy)
    with (copy / "photos.uint8").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UsageError, match="run `prepare` again"):
        Split(copy, "train")
