from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from testing.repository import REPOSITORY
from training.metrics import calibration_error


def line(request: str, label: str, confidence: float, day: int = 1, photo: int = 1) -> str:
    answer = {
        "time": f"2026-11-0{day}T12:00:00.000+00:00", "request_id": request, "photo": photo,
        "status": 200, "label": label, "confidence": confidence,
    }  # fmt: skip
    return json.dumps(answer) + "\n"


REFUSED = json.dumps({"time": "2026-11-01T12:00:00.000+00:00", "request_id": "a", "photo": 2,
                      "status": 400, "type": "InvalidPhotoException"}) + "\n"  # fmt: skip


LABELS = "request_id,label\na,cat\n"
LINES = "".join(line(str(n), "cat", 0.9) for n in range(100))
WHOLE = gzip.compress(LINES.encode(), mtime=0)  # the same bytes, by which a test is named


def join(folder: Path, labels: str | bytes, *logs: str) -> subprocess.CompletedProcess[str]:
    content = labels.encode() if isinstance(labels, str) else labels
    (folder / "labels.csv").write_bytes(content)
    command = [sys.executable, REPOSITORY / "tools/join_feedback", "labels.csv", *logs]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_answers_meet_their_labels_by_day(tmp_path: Path) -> None:
    log = [line("a", "cat", 0.9), REFUSED, line("b", "dog", 0.7), line("c", "dog", 0.8, day=2)]
    (tmp_path / "photos.log").write_text("".join(log))
    done = join(tmp_path, "request_id,label\na,cat\nb,cat\nc,dog\nz,dog\n", "photos.log")
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["2026-11-01", "2", "50.0%", "80.0%", "40.0%"] in words
    assert ["2026-11-02", "1", "100.0%", "80.0%", "20.0%"] in words
    assert ["all", "3", "66.7%", "80.0%", "33.3%"] in words
    assert ["cat", "1", "1"] in words  # one cat was called a dog
    assert ["dog", "0", "1"] in words
    assert "4 labels; left out: 1 without an answer, 0 with several" in done.stdout


def test_the_calibration_error_is_the_one_of_the_model_card(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 300).round(4)
    right = random.random(300) < confidence**2
    labels = [f"{number},{'cat' if hit else 'dog'}\n" for number, hit in enumerate(right)]
    log = [line(str(number), "cat", float(sure)) for number, sure in enumerate(confidence)]
    (tmp_path / "photos.log").write_text("".join(log))
    done = join(tmp_path, "request_id,label\n" + "".join(labels), "photos.log")
    (total,) = (row.split() for row in done.stdout.splitlines() if row.startswith("all"))
    assert total[-1] == f"{calibration_error(confidence, right):.1%}"


def test_several_photos_of_a_request_are_told_apart(tmp_path: Path) -> None:
    log = [line("a", "cat", 0.9, photo=1), line("a", "dog", 0.9, photo=2)]
    (tmp_path / "photos.log").write_text("".join(log))
    done = join(tmp_path, "request_id,label,photo\na,cat,1\na,dog,2\n", "photos.log")
    assert "100.0%" in done.stdout


def test_an_id_that_a_client_used_twice_is_left_out(tmp_path: Path) -> None:
    log = [line("a", "cat", 0.9), line("a", "dog", 0.9), line("b", "cat", 0.9)]
    (tmp_path / "photos.log").write_text("".join(log))
    done = join(tmp_path, "request_id,label\na,cat\nb,cat\n", "photos.log")
    assert "all                1" in done.stdout
    assert "0 without an answer, 1 with several" in done.stdout


def test_compressed_logs_and_a_line_that_is_being_written_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "photos.1.log.gz", "wt") as file:
        file.write(line("a", "cat", 0.9))
    (tmp_path / "photos.log").write_text(line("b", "cat", 0.9) + line("c", "cat", 0.9)[:30])
    done = join(tmp_path, "request_id,label\na,cat\nb,cat\n", "photos.1.log.gz", "photos.log")
    assert done.returncode == 0, done.stderr
    assert "all                2" in done.stdout


def test_labels_that_excel_has_saved_are_read(tmp_path: Path) -> None:
    (tmp_path / "photos.log").write_text(line("a", "cat", 0.9))
    done = join(tmp_path, "\N{BOM}request_id,label\r\na,cat\r\n", "photos.log")
    assert done.returncode == 0, done.stderr
    assert "1 labels; left out: 0 without an answer" in done.stdout


@pytest.mark.parametrize(
    ("labels", "log", "message"),
    [
        ("id,label\na,cat\n", "", "the first line needs the columns request_id and label"),
        ("request_id,label,photo\na,cat,first\n", "", "must be a positive number"),
        ("request_id,label,photo\na,cat,0\n", "", "must be a positive number"),
        ("request_id,label\na,cat\na,dog\n", "", "line 3: photo 1 of a already has the label cat"),
        ("request_id,label\na,cat\n", "no JSON\n", "photos.log, line 1: not a line of photos.log"),
        ("", "", "needs the columns"),
        (
            "request_id,label\na,cat\nb\n", "",
            "labels.csv, line 3: request_id or label is missing",
        ),
        ("request_id,label\na,\n", "", "line 2: request_id or label is missing"),
        ("request_id,label\na,K\xe4tzchen\n".encode("latin-1"), "", "is not CSV in UTF-8"),
        ("request_id,label\na,cat\n".encode("utf-16"), "", "is not CSV in UTF-8"),
        ("request_id,label\na," + "c" * 200_000 + "\n", "", "is not CSV in UTF-8"),
        (LABELS, line("a", "cat", 0.9).replace("time", "date"), "line 1: not a line of photos.log"),
        (LABELS, line("a", "cat", 0.9).replace("conf", "diff"), "line 1: not a line of photos.log"),
        (LABELS, line("b", "cat", 0.9) + line("a", "cat", float("nan")), "line 2: not a line of"),
        (LABELS, line("a", "cat", 90), "line 1: not a line of photos.log"),
        (LABELS, b"\xff\n", "photos.log is truncated or damaged"),
        (LABELS, WHOLE[:40], "photos.log.gz is truncated or damaged"),
        (LABELS, WHOLE[:20] + b"\xff" * 9 + WHOLE[29:], "photos.log.gz is truncated or damaged"),
        (LABELS, WHOLE[:2] + b"\xff" + WHOLE[3:], "photos.log.gz is truncated or damaged"),
    ],
)  # fmt: skip
def test_what_is_no_label_or_log_is_named_in_a_line(
    tmp_path: Path, labels: str | bytes, log: str | bytes, message: str
) -> None:
    content = log.encode() if isinstance(log, str) else log
    name = "photos.log.gz" if content[:1] == WHOLE[:1] else "photos.log"
    (tmp_path / name).write_bytes(content)
    done = join(tmp_path, labels, name)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_labels_without_any_answer_are_no_success(tmp_path: Path) -> None:
    (tmp_path / "photos.log").write_text("")
    done = join(tmp_path, "request_id,label\na,cat\n", "photos.log")
    assert done.returncode == 1
    assert "1 without an answer" in done.stdout
