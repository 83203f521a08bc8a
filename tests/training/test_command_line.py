"""Each command, run as a user runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from training.__main__ import main


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["prepare", "train", "evaluate", "release", "archive", "predict"]
)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"python -m training {command}" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    bad_params = tmp_path / "params.yaml"
    bad_params.write_text("train: 3")
    for arguments in (
        ["prepare", "--data", nowhere, "--index", tmp_path / "index"],
        ["prepare", "--data", nowhere, "--params", bad_params],
        ["train", "--index", nowhere, "--run", tmp_path / "run"],
        ["train", "--index", nowhere, "--run", tmp_path / "run", "--resume"],
        ["evaluate", nowhere],
        ["release", nowhere, "--weights", tmp_path / "models/catsdogs.pt"],
        ["archive", "--weights", nowhere, "--output", tmp_path / "store/catsdogs.mar"],
        ["predict", nowhere],
        ["predict", "tests/pictures/cat.jpg", "--weights", nowhere],
    ):
        status = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert status == 2, arguments
        assert output.out == ""
        assert output.err.startswith("error: "), arguments
        assert output.err.count("\n") == 1, output.err
        assert list(tmp_path.iterdir()) == [bad_params], arguments


def test_predict_answers_each_file_and_fails_when_one_is_no_photo(
    weights: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    result = run("predict", "--weights", weights, "tests/pictures/cat.jpg", text)
    assert result.returncode == 2
    assert result.stdout.startswith("tests/pictures/cat.jpg: ")
    assert result.stderr.startswith(f"{text}: not a photo")
    result = run("predict", "--weights", weights, "tests/pictures/cat.jpg")
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.slow
def test_photos_become_an_archive_by_the_documented_commands(photos: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (REPOSITORY / "params.yaml").read_text()
    params.write_text(text.replace("epochs: 24", "epochs: 1"))
    index, run_folder, weights = (tmp_path / n for n in ("index", "runs/one", "models/catsdogs.pt"))
    where = ["--index", index, "--params", params]
    for arguments in (
        ["prepare", "--data", photos, *where],
        ["train", "--run", run_folder, *where],
        ["evaluate", run_folder, *where],
        ["release", run_folder, "--weights", weights],
        ["archive", "--weights", weights, "--output", tmp_path / "store/catsdogs.mar"],
        ["predict", "--weights", weights, photos / "cat/1.jpg"],
    ):
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "store/catsdogs.mar").exists()
    assert (run_folder / "loss.png").exists()
    shutil.rmtree(run_folder)
