"""Each command, run as a user runs it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from handler.integrity import sha256_of
from testing.repository import REPOSITORY
from training.__main__ import how_to_go_on, main, parser
from training.checkpoint import BEST, CARD, CHECKPOINT, RUN_FILE
from training.dataset import Split
from training.params import Params


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["prepare", "teach", "train", "evaluate", "release", "archive", "predict"]
)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert f"python -m training {command}" in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.archive.check_code", lambda: None)  # it takes seconds each time
    nowhere = tmp_path / "nowhere"
    bad_params = tmp_path / "params.yaml"
    bad_params.write_text("train: 3")
    for arguments in (
        ["prepare", "--data", nowhere, "--index", tmp_path / "index"],
        ["prepare", "--data", nowhere, "--params", bad_params],
        ["train", "--index", nowhere, "--run", tmp_path / "run"],
        ["train", "--index", nowhere, "--run", tmp_path / "run", "--resume"],
        ["teach", "--index", nowhere, "--teacher-stats", tmp_path / "teacher"],
        ["evaluate", nowhere],
        ["train", "--device", "cuda:99", "--run", tmp_path / "run"],
        ["teach", "--device", "gpu", "--teacher-stats", tmp_path / "teacher"],
        ["evaluate", nowhere, "--device", "cuda:"],
        ["release", nowhere, "--weights", tmp_path / "models/catsdogs.pt"],
        ["archive", "--weights", nowhere, "--output", tmp_path / "store/catsdogs.mar"],
        ["predict", "tests/pictures/cat.jpg", "--weights", nowhere],
        ["archive", "--output", "/dev/null/catsdogs.mar"],
        ["archive", "--output", bad_params / "catsdogs.mar"],
    ):
        status = main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert status == 2, arguments
        assert output.out == ""
        assert output.err.startswith("error: "), arguments
        assert output.err.count("\n") == 1, output.err
        assert list(tmp_path.iterdir()) == [bad_params], arguments


def test_what_is_to_be_copied_has_the_words_that_were_given_quoted_for_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my run"
    options = parser().parse_args(["train", "--run", str(folder)])
    options.words = ["train", "--run", str(folder), "--resume"]
    assert how_to_go_on(options) == "no epoch is finished; run the same command again"
    folder.mkdir()
    (folder / CHECKPOINT).touch()
    given = f"-m training train --run '{folder}' --resume`, or add RESUME=1"
    assert given in how_to_go_on(options)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert how_to_go_on(options) == "run the same command with --resume to continue"


def test_a_run_that_diverged_is_one_line_and_exit_code_2(
    index: Path, weights: Path, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"params": asdict(params.train), "classes": ["cat", "dog"], "best": {}}
    about["photos_sha256"] = Split(index, "test").photos_sha256
    (tmp_path / RUN_FILE).write_text(json.dumps(about))
    state = torch.load(weights, weights_only=True)
    state["fc3.weight"] = torch.full_like(state["fc3.weight"], float("nan"))
    torch.save(state, tmp_path / BEST)
    card = json.loads(weights.with_suffix(".json").read_text())
    card["sha256"] = sha256_of(tmp_path / BEST)
    (tmp_path / CARD).write_text(json.dumps(card))
    for arguments in (
        ["evaluate", tmp_path, "--index", index],
        ["predict", "tests/pictures/cat.jpg", "--weights", tmp_path / BEST],
    ):
        assert main([str(argument) for argument in arguments]) == 2
        message = capsys.readouterr().err
        assert "best.pt: contains NaN or infinity: the training diverged" in message
        assert message.count("\n") == 1


def test_weights_that_the_predictor_refuses_are_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = json.loads(weights.with_suffix(".json").read_text()) | {"temperature": 0.0}
    (tmp_path / CARD).write_text(json.dumps(card))
    (tmp_path / BEST).symlink_to(weights)
    assert main(["predict", "tests/pictures/cat.jpg", "--weights", str(tmp_path / BEST)]) == 2
    message = capsys.readouterr().err
    assert "best.pt: can't be served: best.pt: probabilities are NaN" in message
    assert message.count("\n") == 1


@pytest.mark.slow
def test_predict_answers_each_file_and_fails_when_one_is_no_photo(
    weights: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    renamed = tmp_path / "renamed.pt"
    for path in (weights, weights.with_suffix(".json")):
        renamed.with_suffix(path.suffix).symlink_to(path)
    files = [tmp_path / "none.jpg", tmp_path, text, "tests/pictures/cat.jpg"]
    result = run("predict", "--weights", renamed, *files)
    assert result.returncode == 2
    assert result.stdout.startswith("tests/pictures/cat.jpg: ")
    problems = ["none.jpg: can't be read", ": can't be read: Is a dir", "text.jpg: not a photo"]
    for problem, line in zip(problems, result.stderr.splitlines(), strict=True):
        assert problem in line
    result = run("predict", "--weights", renamed, "tests/pictures/cat.jpg")
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.slow
def test_archive_and_predict_need_only_what_serves(weights: Path, tmp_path: Path) -> None:
    lines = (REPOSITORY / "requirements-dev.txt").read_text().splitlines()
    names = [line.split("==")[0] for line in lines if "==" in line]
    modules = {
        "scikit-learn": "sklearn",
        "scikit-image": "skimage",
        "ImageHash": "imagehash",
        "efficientnet-lite-pytorch": "efficientnet_lite_pytorch",
    }
    blocked = {modules.get(name, name): None for name in names}
    program = f"import sys; sys.modules |= {blocked}; import training.__main__ as m; "
    program += "sys.exit(m.main(sys.argv[1:]))"
    for arguments in (
        ["archive", "--weights", weights, "--output", tmp_path / "catsdogs.mar"],
        ["predict", "--weights", weights, "tests/pictures/cat.jpg"],
    ):
        result = subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=REPOSITORY, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_epochs_and_resume_goes_on(photos: Path, tmp_path: Path) -> None:
    index, run_folder = tmp_path / "index", tmp_path / "runs/one"
    params = tmp_path / "params.yaml"
    numbers = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    numbers["train"] |= {"epochs": 3, "small_epochs": 3, "batch_size": 8, "teacher_labels": 0}
    numbers["train"] |= {"teacher_maps": 0, "teacher_features": 0}
    params.write_text(yaml.safe_dump(numbers))
    where = ["--index", str(index), "--params", str(params)]
    assert run("prepare", "--data", photos, *where).returncode == 0
    train = [sys.executable, "-m", "training", "train", "--run", str(run_folder), *where]
    process = subprocess.Popen(train, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "epoch 2/3" not in (line := process.stderr.readline(200)):
        assert line, "training ended before its second epoch"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in rest
    command = rest.split(f"{run_folder}: continue with `")[1].split("`")[0]
    assert command.endswith(" --resume")
    resumed = subprocess.run(
        shlex.split(command), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 1/3" not in resumed.stderr
    epochs = (run_folder / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in epochs] == ["1", "2", "3"]
