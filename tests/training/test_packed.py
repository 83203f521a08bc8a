"""An archive whose code TorchServe could not import is not built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from training.errors import UsageError
from training.packed import check_code

MEND = "mend that, since workers could not load such an archive"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the code, to be broken."""
    for name in ("handler", "training"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    return tmp_path


def begin_with(line: str, file: Path) -> None:
    text = file.read_text().replace("from __future__ import annotations\n", "")
    file.write_text(f"{line}\n{text}")


def test_an_import_error_is_told_in_a_line_and_nothing_is_written(repository: Path) -> None:
    begin_with("import no_such_package", repository / "handler/photo.py")
    result = subprocess.run(
        [sys.executable, "-m", "training", "archive", "--output", "store/catsdogs.mar"],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == (
        "error: handler/photo.py, line 1: ModuleNotFoundError: No module named 'no_such_package'; "
        f"{MEND}\n"
    )
    assert not (repository / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        (
            "handler/catsdogs_handler.py",
            "import handler.extra",
            "handler/catsdogs_handler.py, line 1: ModuleNotFoundError: No module named "
            "'handler.extra'; add handler/extra.py to MODULES in training/packed.py",
        ),
        (
            "handler/upload.py",
            "from handler import extra",
            "handler/upload.py, line 1: ImportError: cannot import name 'extra' from 'handler' "
            "(handler/__init__.py); add handler/extra.py to MODULES in training/packed.py",
        ),
        (
            "handler/upload.py",
            "import handler.foto",
            "handler/upload.py, line 1: ModuleNotFoundError: No module named 'handler.foto'; "
            f"{MEND}",
        ),
        (
            "training/model.py",
            "def half(",
            f"training/model.py, line 1: SyntaxError: '(' was never closed; {MEND}",
        ),
        (
            "handler/catsdogs_handler.py",
            "class Second: ...",
            f"handler/catsdogs_handler.py: TorchServe wants one class, not ['CatsDogsHandler', "
            f"'Second']; {MEND}",
        ),
    ],
)
def test_what_no_worker_could_load_is_named_with_its_line_and_what_to_do(
    repository: Path, monkeypatch: pytest.MonkeyPatch, file: str, line: str, told: str
) -> None:
    (repository / "handler/extra.py").touch()  # not in MODULES
    monkeypatch.setenv("PYTHONPATH", str(repository))  # which workers elsewhere don't have
    begin_with(line, repository / file)
    with pytest.raises(UsageError) as error:
        check_code(repository)
    assert str(error.value) == told
