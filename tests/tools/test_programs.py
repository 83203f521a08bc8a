"""Each program starts wherever it is unpacked, from any folder, and in the image."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from tests.tools.program import NAMES


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the last stage of the Dockerfile copies out of the repository."""
    folder = tmp_path_factory.mktemp("image")
    last = (REPOSITORY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    for words in re.findall(r"^COPY ([^-].*)$", last, re.MULTILINE):
        *sources, target = words.split()
        for source in sources:
            path = folder / target / ("" if (REPOSITORY / source).is_dir() else Path(source).name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, path)
            else:
                shutil.copy(REPOSITORY / source, path)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_program_starts_with_what_the_image_has_of_the_repository(
    name: str, image: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-I", image / "tools" / name, "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


DEVELOPMENT = (
    "requests", "pytest", "mlflow", "dvc", "sklearn", "matplotlib", "imagehash", "scipy", "tests",
)  # fmt: skip
WITHOUT = f"""
import runpy, sys
for name in {DEVELOPMENT}:
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_program_needs_nothing_that_only_developers_have(name: str, image: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT, image / "tools" / name, "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_help_explains_exit_codes(image: Path) -> None:
    for name in NAMES:
        command = [sys.executable, image / "tools" / name, "--help"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.search(r"[Ee]xit\s+code", output), name
