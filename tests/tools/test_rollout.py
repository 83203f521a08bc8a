"""tools/rollout before a server that breaks in its midst, as TorchServe can't be made to.

tests/e2e/test_rollout.py has it before real ones.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.repository import REPOSITORY

PROGRAM = REPOSITORY / "tools/rollout"
CAT = REPOSITORY / "gateway/page/examples/cat.jpg"
GARBAGE = (502, b"<html>Bad Gateway</html>")


class Stub(http.server.ThreadingHTTPServer):
    """Management API and gateway in one; what a rule names is answered wrongly, once."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.versions, self.default = {"1.1"}, "1.1"
        self.classes = {"1.1": ["cat", "dog"], "3.0": ["cat", "dog"]}
        self.rules: list[tuple[str, tuple[int, bytes]]] = []

    def answer(self, asked: str) -> tuple[int, bytes]:
        for rule in self.rules:
            if re.fullmatch(rule[0], asked):
                self.rules.remove(rule)
                return rule[1]
        return 200, json.dumps(self.good(asked)).encode()

    def good(self, asked: str) -> Any:
        method, path, last = asked.split()[0], asked.split()[1], asked.rpartition("/")[2]
        if "/predictions/" in path:
            version = self.default if last == "catsdogs" else last
            shares = dict.fromkeys(self.classes[version], 0.5)
            return {"label": "cat", "model_version": version, "probabilities": shares}
        if last == "set-default":
            self.default = path.split("/")[-2]
        elif method == "POST":
            self.versions.add("3.0")
        elif method == "DELETE":
            self.versions.remove(last)
        versions = self.versions if last == "all" else [self.default]
        return [
            {
                "modelVersion": version, "workers": [{"id": "1", "pid": 1, "status": "READY"}],
                "jobQueueStatus": {"pendingRequests": 0},
            }
            for version in versions
        ]  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"
    is_used = False

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "/models" not in self.path:  # the gateway
            if self.is_used:  # as nginx does when it reloads
                self.close_connection = True
                return
            self.is_used = True
        status, body = self.server.answer(f"{self.command} {self.path}")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def write_archive(path: Path, manifest: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        file.writestr("weights", bytes(5000))
    with_checksum(path)


def with_checksum(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    Path(f"{path}.sha256").write_text(f"{digest}  {path.name}\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With versions 1.1 and 3.0, and a photo."""
    (tmp_path / "config.properties").symlink_to(REPOSITORY / "config.properties")
    (tmp_path / "model_store").mkdir()
    for name, version in (("catsdogs", "1.1"), ("catsdogs-3.0", "3.0")):
        manifest = {"model": {"modelName": "catsdogs", "modelVersion": version}}
        write_archive(tmp_path / f"model_store/{name}.mar", manifest)
    (tmp_path / "photos/cat").mkdir(parents=True)
    shutil.copy(CAT, tmp_path / "photos/cat")
    (tmp_path / "photos/cat/.DS_Store").write_text("no photo, and no reason to refuse a version")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/serve.json").write_text('{"started": 1, "workers": {"1.1": 2}}')
    return tmp_path


def start(folder: Path, stub: Stub, *words: str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {
        "TS_MANAGEMENT_ADDRESS": f"http://127.0.0.1:{stub.server_port}",
        "CATSDOGS_PORT": str(stub.server_port), "CATSDOGS_METRICS_PORT": str(stub.server_port),
    }  # fmt: skip
    command = [sys.executable, PROGRAM, "model_store/catsdogs-3.0.mar", "photos", "--watch", "1"]
    return subprocess.Popen(
        [*command, "--max-slowdown", "100", *words], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def is_new(folder: Path) -> bool:
    store = folder / "model_store"
    assert sorted(path.name for path in store.iterdir()) == [
        "catsdogs-3.0.mar", "catsdogs-3.0.mar.sha256", "catsdogs.mar", "catsdogs.mar.sha256"
    ]  # fmt: skip
    archive = (store / "catsdogs.mar").read_bytes()
    digest = hashlib.sha256(archive).hexdigest()
    assert (store / "catsdogs.mar.sha256").read_text() == f"{digest}  catsdogs.mar\n"
    return archive == (store / "catsdogs-3.0.mar").read_bytes()


@pytest.mark.parametrize(
    ("asked", "answer", "message"),
    [
        ("POST .*/3.0", GARBAGE, "without JSON"),
        ("POST .*/3.0", (200, b"\xff"), "without JSON"),
        ("POST .*/3.0", (200, b"[]"), "200 []"),
        ("POST .*/3.0", (200, b"{}"), "3.0 answers photos/cat/cat.jpg with 200 {}"),
        ("POST /predictions/catsdogs", GARBAGE, "without JSON"),
        ("GET /metrics/gateway", (200, b"\xff"), "can't decode"),
        ("PUT .*/3.0/set-default", GARBAGE, "502 <html>"),
        ("PUT .*/3.0/set-default", (200, b"<html>"), "without JSON"),
        ("GET .*/all", (200, b"[{}]"), "refused"),  # while it loads; see below
    ],
)
def test_whatever_is_answered_the_old_version_goes_on(
    folder: Path, stub: Stub, asked: str, answer: tuple[int, bytes], message: str
) -> None:
    if asked == "GET .*/all":  # the first is asked before anything is begun
        stub.rules.append((asked, (200, b"[]")))
    stub.rules.append((asked, answer))
    with start(folder, stub) as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert rollout.returncode == 1, errors
    assert message in output
    assert "1.1 stays\n" in output
    assert errors == ""
    assert (stub.default, stub.versions) == ("1.1", {"1.1"})
    assert not is_new(folder)


def test_what_goes_wrong_before_anything_is_begun_is_told_in_a_line(
    folder: Path, stub: Stub
) -> None:
    for asked, answer in (("GET .*", GARBAGE), ("GET .*/all", GARBAGE), ("GET .*", (200, b"[]"))):
        stub.rules.append((asked, answer))
        with start(folder, stub) as rollout:
            output, errors = rollout.communicate(timeout=60)
        assert (rollout.returncode, output, errors.count("\n")) == (2, "", 1), errors
    write_archive(folder / "model_store/catsdogs-3.0.mar", {"runtime": "python"})
    with start(folder, stub) as rollout:
        errors = rollout.communicate(timeout=60)[1]
    assert rollout.returncode == 2
    assert "its manifest lacks the model's name or version; build it with `python -m" in errors
    assert errors.count("\n") == 1


def test_what_can_not_be_tidied_up_is_told_and_the_new_version_answers(
    folder: Path, stub: Stub
) -> None:
    stub.rules.append(("DELETE .*/1.1", (500, b'{"code": 500}')))
    with start(folder, stub) as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, errors) == (1, "")
    assert "1.1 is still registered; look at http" in output
    assert output.endswith("3.0 serves\n")
    assert (stub.default, stub.versions) == ("3.0", {"1.1", "3.0"})
    assert is_new(folder)


def test_where_the_archive_has_no_room_the_next_start_serves_the_old_one(
    folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where coverage is measured, its file would have no room either.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    with start(folder, stub, preexec_fn=little_room) as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, errors) == (1, "")
    assert "the next start serves 1.1; look at model_store/catsdogs.mar ([Errno 27]" in output
    assert output.endswith("3.0 serves\n")
    assert (stub.default, stub.versions) == ("3.0", {"3.0"})
    assert not is_new(folder)


def test_it_goes_on_when_nobody_reads_its_words_any_more(folder: Path, stub: Stub) -> None:
    with start(folder, stub) as rollout:
        assert rollout.stdout
        rollout.stdout.readline()
        rollout.stdout.close()
        assert rollout.wait(60) == 0
        assert rollout.stderr
        assert rollout.stderr.read() == ""
    assert (stub.default, stub.versions) == ("3.0", {"3.0"})
    assert is_new(folder)


@pytest.fixture
def launcher(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serve.json names, and that takes the signal for a reload."""
    program = (
        "import signal, time; signal.signal(signal.SIGUSR1, lambda *_: None); print(flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{program}; time.sleep(600)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        (folder / "logs/serve.json").write_text(json.dumps({"pid": process.pid, "started": 1}))
        yield process
        process.kill()


def test_the_counters_of_a_busy_server_are_read(folder: Path, stub: Stub) -> None:
    """Prometheus' text has 1.23e+06 for a million."""
    counter = 'gateway_requests_total{code="%d",route="/predict"} %s\n'
    before = counter % (200, "1.234567e+06") + counter % (503, "1.000001e+06")
    after = counter % (200, "1.240567e+06") + counter % (503, "1.000002e+06")
    for text in (before, after, after):
        stub.rules.append(("GET /metrics/gateway", (200, text.encode())))
    with start(folder, stub) as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, errors) == (0, "")
    assert "6001 requests, 1 failed" in output


def test_what_can_not_be_read_is_named_and_left_out(folder: Path, stub: Stub) -> None:
    (folder / "photos/dog").mkdir()
    (folder / "photos/dog/cut.jpg").write_bytes(CAT.read_bytes()[:-500])
    refused = (400, b'{"code": 400, "message": "photo is truncated"}')
    answer = json.dumps(stub.good("POST /predictions/catsdogs/1.1")).encode()
    stub.rules += [("POST .*/1.1", (200, answer)), ("POST .*/1.1", refused)]
    with start(folder, stub) as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, errors) == (0, "")
    assert "left out: photos/dog/cut.jpg: photo is truncated" in output
    assert "3.0: 100.0% accuracy on 1 photos" in output


def test_a_new_version_that_lacks_a_class_of_the_photos_is_refused(
    folder: Path, stub: Stub
) -> None:
    stub.classes["3.0"] = ["circle", "star"]
    with start(folder, stub) as rollout:
        output, _ = rollout.communicate(timeout=60)
    assert rollout.returncode == 1
    assert "refused: photos are in the folders cat, but 3.0 has the classes circle, star" in output


@pytest.mark.parametrize("least", ["1.0", "1.1"])
def test_an_old_version_without_a_class_of_the_photos_is_no_measure(
    folder: Path, stub: Stub, least: str
) -> None:
    stub.classes["1.1"] = ["circle", "star"]
    with start(folder, stub, "--min-accuracy", least) as rollout:
        output, _ = rollout.communicate(timeout=60)
    assert "but 1.1 has the classes circle, star, so accuracies are not compared" in output
    assert "1.1: 100.0% accuracy" not in output
    assert rollout.returncode == (0 if least == "1.0" else 1)
    assert ("refused: its accuracy is only 100.0%, less than 110.0%" in output) == (least == "1.1")


@pytest.mark.parametrize("released", ["as in the archive", "other"])
def test_only_weights_that_are_not_released_are_to_be_released(
    folder: Path, stub: Stub, released: str
) -> None:
    archive = folder / "model_store/catsdogs-3.0.mar"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("catsdogs.json", '{"sha256": "as in the archive"}')
    with_checksum(archive)
    (folder / "models").mkdir()
    (folder / "models/catsdogs.json").write_text(json.dumps({"sha256": released}))
    with start(folder, stub) as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, errors) == (0, "")
    assert ("release the weights of 3.0, too" in output) == (released == "other")


def test_a_photo_that_only_the_new_version_refuses_is_named(folder: Path, stub: Stub) -> None:
    stub.rules.append(("POST .*/3.0", (400, b'{"code": 400}')))
    with start(folder, stub) as rollout:
        output, _ = rollout.communicate(timeout=60)
    assert rollout.returncode == 1
    assert "refused: 3.0 answers photos/cat/cat.jpg with 400" in output


def test_a_step_back_that_fails_prevents_no_other(
    folder: Path, stub: Stub, launcher: subprocess.Popen[bytes]
) -> None:
    stub.rules += [
        ("POST /predictions/catsdogs", (200, b'{"label": "cat", "model_version": "3.0"}')),
        ("GET /metrics/gateway", (200, b"\xff")),  # and so the new version is refused
        ("PUT .*/1.1/set-default", GARBAGE),
    ]
    with start(folder, stub, "--canary", "10") as rollout:
        output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, errors) == (1, "")
    assert "can't make 1.1 the default; look at http" in output
    assert not (folder / "logs/rollout.json").exists()
    assert stub.versions == {"1.1"}
    assert launcher.poll() is None


def test_one_rollout_at_a_time(folder: Path, stub: Stub) -> None:
    with (folder / "logs/rollout.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with start(folder, stub) as rollout:
            output, errors = rollout.communicate(timeout=60)
    assert (rollout.returncode, output) == (2, "")
    assert errors == "error: process 4711 is rolling out a version; wait for its end\n"
    assert stub.versions == {"1.1"}


def test_make_serve_need_not_restart_what_was_rolled_out(folder: Path, stub: Stub) -> None:
    with start(folder, stub) as rollout:
        assert rollout.wait(60) == 0
    state = json.loads((folder / "logs/serve.json").read_text())
    assert state["workers"] == {"3.0": 1}
    assert state["started"] > (folder / "model_store/catsdogs.mar").stat().st_mtime
