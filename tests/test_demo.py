"""make demo looks at its photos first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testing.repository import REPOSITORY

CAT = REPOSITORY / "tests/pictures/cat.jpg"


def make(folder: Path, target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "tools", "gateway"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    command = ["make", target, f"PYTHON={sys.executable}", *variables]
    # As from a shell, also where `make test` runs this.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("photo", "why"),
    [
        ("none.jpg", "none.jpg: no such photo or folder"),
        ("gateway none.jpg", "none.jpg: no such photo or folder"),
        ("", "PHOTO is empty; name photos or folders"),
    ],
)
def test_a_photo_that_is_not_there_is_named_before_anything_is_installed(
    photo: str, why: str, tmp_path: Path
) -> None:
    done = make(tmp_path, "demo", f"PHOTO={photo}")
    assert done.returncode == 2
    assert f"error: {why}\n" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("name", ["my dog.jpg", "dog (1).jpg", "it's a dog.jpg", "a;b&c.jpg"])
def test_whatever_is_in_its_name_a_photo_is_found(name: str, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path / name)
    assert make(tmp_path, "photos-there", f"PHOTO={name}").stderr == ""


@pytest.mark.parametrize("photos", ["1.jpg 2.jpg", "*.jpg", "'1.jpg' \"2.jpg\""])
def test_several_photos_are_words_of_the_shell(photos: str, tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        shutil.copy(CAT, tmp_path / name)
    assert make(tmp_path, "photos-there", f"PHOTO={photos}").stderr == ""
    (tmp_path / "2.jpg").unlink()
    gone = make(tmp_path, "photos-there", f"PHOTO={photos}").stderr
    assert ("2.jpg: no such photo" in gone) == ("2" in photos)


def test_a_folder_of_photos_is_taken(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    assert make(tmp_path, "photos-there", "PHOTO=my photos").stderr == ""
