"""No archive is built if TorchServe could not import its code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from training.archive import check_code
from training.files import UsageError

PACK = "is not in the archive; move what workers need to handler or training/model.py"
FIX = "fix this, since workers could not load the archive"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the code, to be broken."""
    for name in ("files", "handler", "training"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    return tmp_path


def begin_with(line: str, file: Path) -> None:
    text = file.read_text().replace("from __future__ import annotations\n", "")
    file.write_text(f"{line}\n{text}")


def test_an_import_error_is_reported_in_one_line_and_nothing_is_written(repository: Path) -> None:
    begin_with("import no_such_package", repository / "handler/photo.py")
    result = subprocess.run(
        [sys.executable, "-m", "training", "archive", "--output", "store/catsdogs.mar"],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr == (
        "error: handler/photo.py, line 1: ModuleNotFoundError: No module named 'no_such_package'; "
        f"{FIX}\n"
    )
    assert not (repository / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "handler/catsdogs_handler.py",
            "import training.files",
            "handler/catsdogs_handler.py, line 1: ModuleNotFoundError: No module named "
            f"'training.files'; training/files.py {PACK}",
        ),
        (
            "handler/upload.py",
            "from training import files",
            "handler/upload.py, line 1: ImportError: cannot import name 'files' from 'training' "
            f"(training/__init__.py); training/files.py {PACK}",
        ),
        (
            "handler/upload.py",
            "import handler.foto",
            "handler/upload.py, line 1: ModuleNotFoundError: No module named 'handler.foto'; "
            f"{FIX}",
        ),
        (
            "training/model.py",
            "def half(",
            f"training/model.py, line 1: SyntaxError: '(' was never closed; {FIX}",
        ),
        (
            "handler/catsdogs_handler.py",
            "class Second: ...",
            "handler/catsdogs_handler.py: TorchServe needs exactly one class, not "
            f"['CatsDogsHandler', 'Second']; {FIX}",
        ),
    ],
)
def test_what_no_worker_could_load_is_named_with_its_line_and_what_to_do(
    repository: Path, monkeypatch: pytest.MonkeyPatch, file: str, line: str, message: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))  # which workers elsewhere don't have
    begin_with(line, repository / file)
    with pytest.raises(UsageError) as error:
        check_code(repository)
    assert str(error.value) == message
