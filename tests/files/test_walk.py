"""Which files of a folder are seen, whatever else lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from files.walk import SUFFIXES, may_be_photo, walk
from handler.photo import FORMATS
from testing.hostile import good_pictures


def walked(root: Path, start: str = "") -> tuple[list[str], dict[str, str]]:
    left_out: dict[str, str] = {}
    return list(walk(str(root), start, left_out.__setitem__)), left_out


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_the_suffixes_are_those_of_all_formats_that_are_opened() -> None:
    opened = Image.registered_extensions().items()
    assert {suffix for suffix, name in opened if name in {*FORMATS, "MPO"}} == SUFFIXES


@pytest.mark.parametrize("name", FORMATS.values())
def test_a_photo_without_a_suffix_is_recognised_by_its_first_bytes(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "photo").write_bytes(good_pictures()[name])
    # Raw photos begin like TIFF, and the two bytes of BMP begin many other files.
    assert may_be_photo(str(tmp_path / "photo")) == (name not in ("TIFF", "BMP"))


def test_all_files_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    make(tmp_path, "b/2.jpg", "b/1.jpg", "a.jpg", "b/c/d/3", "b.jpg", "c/1.jpg")
    assert walked(tmp_path)[0] == ["a.jpg", "b/1.jpg", "b/2.jpg", "b/c/d/3", "b.jpg", "c/1.jpg"]
    assert walked(tmp_path, "b") == (["b/1.jpg", "b/2.jpg", "b/c/d/3"], {})


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints/", ".thumbnails/", ".Trash-1000/files/", ".git/", "@eaDir/",
        "__MACOSX/cat/", "lost+found/", "$RECYCLE.BIN/", "#recycle/", "._", ".", "Thumbs.db",
    ],
)  # fmt: skip
def test_hidden_things_and_those_of_systems_are_left_out_as_one(name: str, tmp_path: Path) -> None:
    odd = f"cat/{name}" if name == "Thumbs.db" else f"cat/{name}x.jpg"
    make(tmp_path, "cat/1.jpg", odd, odd.replace("x.jpg", "y.jpg"))
    files, left_out = walked(tmp_path)
    assert files == ["cat/1.jpg"]
    assert set(left_out.values()) == {"hidden"}
    assert len(left_out) == 1 + name.startswith(".") * (not name.endswith("/"))


def test_links_are_followed_and_loops_noticed(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "elsewhere/2.jpg", "elsewhere/deep/3.jpg")
    (tmp_path / "cat/linked").symlink_to("../elsewhere")
    (tmp_path / "cat/again").symlink_to("../elsewhere/deep")
    (tmp_path / "cat/one.jpg").symlink_to("1.jpg")
    (tmp_path / "elsewhere/deep/up").symlink_to("../../cat")
    (tmp_path / "cat/self").symlink_to("self")
    (tmp_path / "cat/nothing.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    files, left_out = walked(tmp_path, "cat")
    assert files == ["cat/1.jpg", "cat/again/3.jpg", "cat/linked/2.jpg", "cat/one.jpg"]
    assert left_out == {
        "cat/again/up": "the same folder as another one",
        "cat/linked/deep": "the same folder as another one",
        "cat/nothing.jpg": "a link to nothing",
        "cat/pipe.jpg": "no regular file",
        "cat/self": "can't be read: Too many levels of symbolic links",
    }


def test_a_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "cat/1.jpg", "cat/closed/2.jpg", "cat/z.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who reads it
    files, left_out = walked(tmp_path)
    assert files == ["cat/1.jpg", "cat/z.jpg"]
    assert left_out == {"cat/closed": "can't be read: Permission denied"}
    monkeypatch.setattr(os, "scandir", lambda path: refuse("closed"))
    assert walked(tmp_path, "cat") == ([], {"cat": "can't be read: Permission denied"})
