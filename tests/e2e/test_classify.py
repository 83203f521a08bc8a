"""tools/classify before real servers."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.repository import CLASSES, REPOSITORY
from testing.servers import Server, free_ports, wait_until

PROGRAM = REPOSITORY / "tools/classify"
CAT = REPOSITORY / "tests/pictures/cat.jpg"


def classify(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return server.run(sys.executable, PROGRAM, *arguments)


def cats(folder: Path, number: int) -> list[str]:
    """The paths of photos in a new folder, in order."""
    folder.mkdir()
    for n in range(number):
        shutil.copy(CAT, folder / f"{n:04}.jpg")
    return [str(folder / f"{n:04}.jpg") for n in range(number)]


def has_rows(output: Path, number: int) -> bool:
    return output.exists() and output.read_bytes().count(b"\n") > number


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_and_files_become_a_table_json_or_csv(server: Server, tmp_path: Path) -> None:
    photos = cats(tmp_path / "photos", 3)
    (tmp_path / "photos/notes.txt").write_text("no photo, and not asked about")
    heic = REPOSITORY / "tests/pictures/cat.heic"
    table = classify(server, tmp_path / "photos", heic, photos[0])
    assert table.returncode == 0, table.stderr
    head, *rows = table.stdout.splitlines()
    assert head.split() == ["answer", "confidence", "file"]
    assert {row.split()[0] for row in rows} <= set(CLASSES)
    assert [row.split()[-1] for row in rows] == [*photos, str(heic)]

    as_json = classify(server, "--format", "json", *photos)
    answers = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == photos
    assert answers[0]["probabilities"].keys() == set(CLASSES)

    assert classify(server, "--output", tmp_path / "a.csv", *photos).returncode == 0
    assert [(row["file"], row["label"]) for row in read_csv(tmp_path / "a.csv")] == [
        (answer["file"], answer["label"]) for answer in answers
    ]


def test_what_is_refused_gets_a_row_and_the_others_their_answers(
    server: Server, tmp_path: Path
) -> None:
    photos = cats(tmp_path / "photos", 4)
    Path(photos[1]).write_bytes(CAT.read_bytes()[:-500])
    Path(photos[2]).write_bytes(bytes(MAX_UPLOAD_BYTES + 1))
    for _ in range(2):  # the second time all of it is there
        done = classify(server, "--output", tmp_path / "a.jsonl", tmp_path / "photos")
        assert done.returncode == 1, done.stderr
        answers = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
        assert [answer["file"] for answer in answers] == photos
        assert ["error" in answer for answer in answers] == [False, True, True, False]
        assert "truncated" in answers[1]["error"]
        assert f"over {MAX_UPLOAD_BYTES // 2**20} MiB" in answers[2]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_killed_and_started_again_no_row_is_lost_or_doubled(
    server: Server, tmp_path: Path, suffix: str
) -> None:
    photos = cats(tmp_path / "photos", 150)
    output = tmp_path / f"answers.{suffix}"
    command = [sys.executable, str(PROGRAM), "--output", str(output), str(tmp_path / "photos")]
    for rows in (10, 40):
        with subprocess.Popen(command, cwd=server.folder, env=server.environment) as running:
            wait_until(partial(has_rows, output, rows))
            running.kill()
    with output.open("ab") as file:
        file.write(b'"half a r' if suffix == "csv" else b'{"file": "half a r')
    assert server.run(*command).returncode == 0
    if suffix == "csv":
        files = [row["file"] for row in read_csv(output)]
    else:
        files = [json.loads(line)["file"] for line in output.read_text().splitlines()]
    assert files == photos


@pytest.mark.slow
def test_it_waits_for_a_server_that_comes_back(own_server: Server, tmp_path: Path) -> None:
    own_server.start()
    photos = cats(tmp_path / "photos", 1500)
    command = [sys.executable, PROGRAM, "--output", "answers.csv", tmp_path / "photos"]
    output = own_server.folder / "answers.csv"
    with subprocess.Popen(
        command, cwd=own_server.folder, env=own_server.environment, stderr=subprocess.PIPE
    ) as running:
        wait_until(partial(has_rows, output, 20))
        assert own_server.serve("--stop").returncode == 0
        assert len(read_csv(output)) < len(photos)
        own_server.start()
        _, complaint = running.communicate(timeout=300)
    assert running.returncode == 0, complaint
    assert [row["file"] for row in read_csv(output)] == photos
    assert {row["label"] for row in read_csv(output)} <= set(CLASSES)


def test_when_nobody_reads_any_more_it_ends_quietly_and_asks_no_more(
    server: Server, tmp_path: Path
) -> None:
    photos = cats(tmp_path / "photos", 400)
    log = server.folder / "logs/gateway.log"
    before = log.read_text().count("/predict")
    with subprocess.Popen(
        [sys.executable, PROGRAM, "--format", "json", *photos], cwd=server.folder,
        env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout
        assert running.stderr
        assert json.loads(running.stdout.readline())["file"] == photos[0]
        running.stdout.close()
        assert running.wait(60) == 141
        assert running.stderr.read() == ""
    assert log.read_text().count("/predict") - before < 200


def test_a_full_disk_is_reported_in_one_line(server: Server, tmp_path: Path) -> None:
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    photos = cats(tmp_path / "photos", 3)
    output = tmp_path / "a.csv"
    # Where coverage is measured, its file would have no room either.
    environment = {k: v for k, v in server.environment.items() if k != "COVERAGE_PROCESS_CONFIG"}
    for arguments, message in (
        (photos, "error: standard output: No space left on device\n"),
        (["--output", str(output), *photos], f"error: {output}: File too large\n"),
    ):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, PROGRAM, *arguments], cwd=server.folder, env=environment,
                stdout=full, stderr=subprocess.PIPE, text=True, preexec_fn=little_room,
            )  # fmt: skip
        assert (done.returncode, done.stderr) == (2, message)
    assert classify(server, "--output", output, *photos).returncode == 0
    assert [row["file"] for row in read_csv(output)] == photos


def test_errors_are_reported_in_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").mkdir()
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    for arguments, message in (
        (["none.jpg"], "none.jpg: no such photo or folder"),
        ([tmp_path / "empty"], "no photos in this folder"),
        (
            [CAT, "--output", tmp_path / "mine.csv"],
            "was not written by this program; name another file",
        ),
        ([CAT, "--output", tmp_path / "mine.txt"], "can't be resumed; name it .csv or .jsonl"),
        ([CAT, "--output", tmp_path / "no/mine.csv"], "No such file or directory"),
        ([""], "the path is empty"),
        ([CAT, "--output", ""], "the path is empty"),
        ([CAT, "--output", tmp_path / "empty"], "is not a regular file"),
        ([CAT, "--output", "/dev/full", "--format", "csv"], "/dev/full is not a regular file"),
        (
            [CAT, "--output", "/dev/stdout"],
            "is not a regular file; name another, or none for standard",
        ),
        ([CAT, "--url", nobody], "Connection refused); is it"),
        ([CAT, "--url", server.address("management")], "answers 40"),
        ([CAT, "--url", "nonsense"], "nonsense/predict"),
        ([CAT, "--concurrency", "0"], "not a positive number"),
    ):
        done = classify(server, *arguments)
        assert done.returncode == 2, done
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "mine.csv").read_text() == "a,b\n1,2\n"
