"""Which Python creates the environment, and how make's variables reach commands."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testing.repository import REPOSITORY, VERSION

# Programs with the name of a Python on PATH.
ABLE = f'exec {sys.executable} "$@"'
NO_ENSUREPIP = "echo \"ModuleNotFoundError: No module named 'ensurepip'\" >&2; exit 1"  # Debian
NOT_ACTIVATED = 'echo "pyenv: python3.13: command not found" >&2; exit 127'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "constraints.txt"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def dry_run(
    folder: Path, *variables: str, target: str = ".venv/.serving"
) -> subprocess.CompletedProcess[str]:
    """The commands of `make`, by default to install the server, with only the programs in bin/."""
    make = shutil.which("make")
    assert make
    return subprocess.run(
        [make, "--dry-run", target, *variables],
        cwd=folder, env={"PATH": str(folder / "bin")}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        ({"python3.11": ABLE}, "python3.11"),
        ({"python3.11": ABLE, "python3.12": ABLE}, "python3.12"),
        ({"python3.11": ABLE, "python3.12": ABLE, "python3.13": NOT_ACTIVATED}, "python3.12"),
        ({"python3.11": ABLE, "python3.13": NO_ENSUREPIP}, "python3.11"),
        ({"python3": ABLE, "python3.12": NO_ENSUREPIP}, "python3"),
    ],
)
def test_the_newest_python_is_taken_that_can_make_an_environment(
    found: dict[str, str], taken: str, folder: Path
) -> None:
    for name, script in found.items():
        program(folder / "bin" / name, script)
    done = dry_run(folder)
    assert f"\n{taken} -m venv --clear .venv\n" in done.stdout
    assert done.stderr == ""


def test_where_there_is_none_one_line_says_what_to_install(folder: Path) -> None:
    program(folder / "bin/python3.11", NO_ENSUREPIP)
    done = dry_run(folder)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "No Python 3.11, 3.12 or 3.13 can create a virtual environment." in line
    assert all(f'"{how}' in line for how in ("uv python install", "pyenv install", "apt install"))


def test_another_python_than_that_of_the_environment_is_refused(folder: Path) -> None:
    program(folder / ".venv/bin/python", "echo 3.12")
    program(folder / "bin/python3.13", "echo 3.13")
    program(folder / "bin/python3.12", "echo 3.12")
    for target in (".venv/.serving", "demo"):
        done = dry_run(folder, "PYTHON=python3.13", target=target)
        assert done.returncode == 2
        assert ".venv has Python 3.12, not 3.13 as PYTHON=python3.13; remove it" in done.stderr
    assert dry_run(folder, "PYTHON=python3.12", target="stop").returncode == 0
    assert dry_run(folder, target="stop").returncode == 0


@pytest.mark.parametrize("has_environment", [True, False])
@pytest.mark.parametrize("named", ["python3.10", ""])
def test_a_python_that_can_not_be_run_is_named(
    folder: Path, named: str, has_environment: bool
) -> None:
    if has_environment:
        program(folder / ".venv/bin/python", "echo 3.12")
    done = dry_run(folder, f"PYTHON={named}")
    assert done.returncode == 2
    assert f"PYTHON={named} can't be run; name an installed Python" in done.stderr
    assert "rm -r" not in done.stderr


@pytest.mark.parametrize("named", ["python3.13", "python3.10", ""])
def test_a_python_that_the_environment_names_for_other_programs_stops_nothing(
    folder: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHON", named)
    program(folder / ".venv/bin/python", ABLE)
    program(folder / "bin/python3.13", "echo 3.13")
    for target in ("help", "stop", ".venv/.serving"):
        assert dry_run(folder, target=target).returncode == 0


def test_a_python_that_is_named_decides(folder: Path) -> None:
    program(folder / "bin/python3.13", ABLE)
    program(folder / "bin/mine", "echo 3.12")
    assert "\nmine -m venv --clear .venv\n" in dry_run(folder, "PYTHON=mine").stdout


def test_an_environment_is_kept_whatever_python_made_it(folder: Path) -> None:
    program(folder / ".venv/bin/python", ABLE)
    done = dry_run(folder)  # without any other Python
    assert done.returncode == 0
    assert "-m venv" not in done.stdout


def test_an_environment_whose_python_is_gone_is_made_anew(folder: Path) -> None:
    program(folder / "bin/python3.12", ABLE)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to("/nonexistent/python3.11")
    assert "\npython3.12 -m venv --clear .venv\n" in dry_run(folder).stdout


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        ("photos", "photos"),
        ("photos more", "photos more"),
        ("my photos", "'my photos'"),
        ("'my photos' more", "'my photos' more"),
        ("it's mine", "'it'\\''s mine'"),
    ],
)
def test_one_data_folder_or_several_are_prepared_whatever_their_names(
    data: str, taken: str, folder: Path
) -> None:
    program(folder / "bin/python3.13", ABLE)
    (folder / "requirements-dev.txt").touch()
    for name in ("my photos", "it's mine"):
        (folder / name).mkdir()
    done = dry_run(folder, f"DATA={data}", target="train")
    assert done.stderr == ""
    (line,) = [line for line in done.stdout.splitlines() if " prepare " in line]
    assert line.rstrip().endswith(f"-m training prepare --data {taken}")


@pytest.mark.parametrize(
    ("variables", "command"),
    [
        ([], "tools/deploy catsdogs --timeout 10m"),
        (
            ["RELEASE=pets", "NAMESPACE=photos", "TIMEOUT=5m", "VALUES=--set image.tag=3.0"],
            "tools/deploy pets --namespace photos --timeout 5m --set image.tag=3.0",
        ),
    ],
)
def test_a_release_is_deployed_as_its_variables_say(
    variables: list[str], command: str, folder: Path
) -> None:
    done = dry_run(folder, *variables, target="deploy")
    assert done.stdout.split()[1:] == command.split()  # the first names .venv/bin, which has helm
    assert (REPOSITORY / "tools/deploy").stat().st_mode & 0o111


@pytest.mark.parametrize("run", ["runs/mine", "cats & dogs (2)/ü", "it's mine", 'a "b"; c', "a$$b"])
def test_a_run_may_have_any_name(run: str, folder: Path) -> None:
    program(folder / "bin/python3.13", ABLE)
    (folder / "requirements-dev.txt").touch()
    name = run.replace("$$", "$")
    for begun in ("RESUME=", "RESUME=1"):  # then it continues the first
        done = dry_run(folder, f"RUN={run}", begun, target="train")
        assert done.stderr == ""
        given = [shlex.split(line) for line in done.stdout.splitlines() if "-m training" in line]
        first, second, evaluate = [words[3:] for words in given[-3:]]
        assert first[:3] == ["train", "--run", name]
        assert second[:5] == ["train", "--run", f"{name}-finetuned", "--finetune", name]
        assert evaluate == ["evaluate", f"{name}-finetuned"]
        assert ("--resume" in first) == (begun == "RESUME=1")
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "checkpoint.pt").touch()
    refused = dry_run(folder, f"RUN={run}", target="train").stdout
    (line,) = [line for line in refused.splitlines() if line.startswith("echo error: ")]
    assert shlex.split(line)[2] == name


def test_mlflow_has_one_worker_no_jobs_and_no_telemetry(folder: Path) -> None:
    program(folder / "bin/python3.13", ABLE)
    (folder / "requirements-dev.txt").touch()
    words = dry_run(folder, target="mlflow").stdout
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true " in words
    assert " --workers 1 " in words


def test_the_version_is_the_models_and_not_that_of_the_weights_it_started_from() -> None:
    done = subprocess.run(
        ["make", "--silent", "version"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{VERSION}\n"
