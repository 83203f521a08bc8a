from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from testing.repository import REPOSITORY
from testing.servers import Server, free_ports, wait_until

PICTURE = str(REPOSITORY / "tests/pictures/cat.jpg")


@pytest.mark.slow
def test_serve_starts_once_and_again_only_for_a_newer_archive(own_server: Server) -> None:
    output = own_server.start()
    predict = f"{own_server.address('gateway')}/predict"
    assert predict in output
    asked = own_server.run(sys.executable, REPOSITORY / "tools/classify", PICTURE)
    assert asked.returncode == 0, asked.stderr
    assert PICTURE in asked.stdout
    first = own_server.launcher()
    own_server.start()
    assert own_server.launcher() == first
    second = own_server.serve()
    assert second.returncode == 2
    assert f"error: process {first.pid} already serves from this folder" in second.stderr
    os.utime(own_server.folder / "model_store/catsdogs.mar")
    own_server.start()
    assert own_server.launcher() != first
    assert not first.is_running()
    own_server.stop()
    assert list(Path(own_server.environment["TMPDIR"]).iterdir()) == []
    assert own_server.serve("--stop").stdout == "catsdogs is not running in this folder\n"


@pytest.mark.slow
def test_settings_reach_torchserve_and_others_are_noticed(own_server: Server) -> None:
    own_server.environment["TS_JOB_QUEUE_SIZE"] = "3000"
    own_server.start()
    queue = own_server.management.version()["jobQueueStatus"]
    assert queue["remainingCapacity"] + queue["pendingRequests"] == 3000
    for name, other in {"TS_JOB_QUEUE_SIZE": "2999", "CATSDOGS_LOGS": "stdout"}.items():
        kept = dict(own_server.environment)
        own_server.environment[name] = other
        asked = own_server.serve("--detach")
        own_server.environment = kept
        assert asked.returncode == 2
        assert f"serves from this folder with another {name};" in asked.stderr


def test_a_refused_photo_is_shown_and_told_by_the_exit_code(server: Server, tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not a photo")
    shown = server.run(sys.executable, REPOSITORY / "tools/classify", text, PICTURE)
    assert shown.returncode == 1
    _, refused, answered = shown.stdout.splitlines()
    assert refused.startswith("refused ")
    assert f" {text}: " in refused
    assert answered.endswith(PICTURE)


def start(server: Server, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "tools/serve", *options], cwd=server.folder,
        env=server.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def is_held(server: Server, name: str) -> bool:
    try:
        with (server.folder / "logs" / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@pytest.mark.slow
def test_of_two_launchers_at_once_the_second_is_refused_and_the_first_can_be_stopped(
    own_server: Server,
) -> None:
    log = own_server.folder / "logs/torchserve.log"
    with start(own_server, "--detach") as first:
        wait_until(log.exists)
        began = log.stat()
        for options in ([], ["--detach"]):
            second = own_server.serve(*options)
            assert second.returncode == 2
            assert " already serves from this folder; stop it first (make stop)" in second.stderr
            assert second.stderr.count("\n") == 1
        assert first.wait(120) == 0, first.stderr
    assert f"error: process {own_server.launcher().pid} already" in second.stderr
    assert (log.stat().st_ino, log.stat().st_size >= began.st_size) == (began.st_ino, True)
    processes = own_server.processes()
    assert own_server.serve("--stop").stdout == "catsdogs is stopped\n"
    assert not any(process.is_running() for process in processes)


def test_what_is_still_starting_can_be_stopped(own_server: Server) -> None:
    with start(own_server, "--detach") as launcher:
        wait_until(lambda: is_held(own_server, "torchserve.lock"))
        wait_until((own_server.folder / "logs/torchserve.log").exists)
        assert own_server.serve("--stop").stdout == "catsdogs is stopped\n"
        assert launcher.wait(30) == 2
        assert launcher.stderr
        assert launcher.stderr.read() == "error: it was stopped\n"
    assert not is_held(own_server, "torchserve.lock")
    assert list(Path(own_server.environment["TMPDIR"]).iterdir()) == []


def test_one_of_the_two_each_share_a_folder_but_not_with_both(own_server: Server) -> None:
    with start(own_server, "--only", "gateway") as gateway:
        wait_until(lambda: is_held(own_server, "gateway.lock"))
        assert "already serves from this folder" in own_server.serve().stderr
        with start(own_server, "--only", "torchserve") as torchserve:
            wait_until(lambda: is_held(own_server, "torchserve.lock"))
            with start(own_server, "--stop") as stop:
                assert torchserve.wait(60) == gateway.wait(60) == 0  # or they stay zombies
                assert stop.communicate(timeout=60) == ("catsdogs is stopped\n", "")


def test_a_program_that_is_missing_and_a_log_that_can_not_be_written_are_told_in_a_line(
    own_server: Server,
) -> None:
    own_server.environment |= {"CATSDOGS_NGINX": "/nowhere/nginx", "CATSDOGS_LOGS": "stdout"}
    done = own_server.serve("--only", "gateway")
    assert done.returncode == 2
    assert done.stderr == (
        "error: can't start the gateway: /nowhere/nginx: No such file or directory\n"
    )
    assert list(Path(own_server.environment["TMPDIR"]).iterdir()) == []
    own_server.environment["LOG_LOCATION"] = "/proc/nowhere"  # as on a file system to be read only
    for options in (["--only", "gateway"], ["--detach"]):
        done = own_server.serve(*options)
        assert done.returncode == 2
        assert done.stderr.startswith(
            "error: /proc/nowhere: No such file or directory; set LOG_LOC"
        )


def test_what_torchserve_unpacks_goes_even_where_it_could_not_be_started(
    own_server: Server,
) -> None:
    (own_server.folder / "logs/torchserve.log").mkdir(parents=True)
    done = own_server.serve()
    assert done.returncode == 2
    assert done.stderr.startswith("error: logs/torchserve.log: Is a directory; set LOG_LOCATION")
    assert list(Path(own_server.environment["TMPDIR"]).iterdir()) == []


def test_serve_refuses_an_archive_that_is_not_what_was_built(own_server: Server) -> None:
    (own_server.folder / "model_store/catsdogs.mar").write_text("half an archive")
    result = own_server.serve()
    assert result.returncode == 2
    assert result.stderr == (
        "error: model_store/catsdogs.mar does not match model_store/catsdogs.mar.sha256; "
        "run `make -B model_store/catsdogs.mar`\n"
    )


def test_a_port_that_another_program_has_is_named_before_anything_starts(
    own_server: Server,
) -> None:
    for name, purpose, moved in (
        ("management", "management", "TS_MANAGEMENT_ADDRESS=http://127.0.0.1:"),
        ("gateway", "the gateway", "CATSDOGS_PORT="),
    ):
        port = int(own_server.address(name).rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            result = own_server.serve("--detach")
        assert result.returncode == 2
        assert result.stderr == (
            f"error: port {port} ({purpose}) is in use by another program, process {os.getpid()} "
            f"({psutil.Process().name()}); stop it, or set {moved}{port + 10_000}\n"
        )
        assert not (own_server.folder / "logs/torchserve.log").exists()


def test_a_temporary_folder_with_too_long_a_path_is_named_before_anything_starts(
    own_server: Server, tmp_path: Path
) -> None:
    long = tmp_path / ("t" * 80)
    long.mkdir()
    own_server.environment["TMPDIR"] = str(long)
    result = own_server.serve("--detach")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: the temporary folder {long} has a path of ")
    assert result.stderr.endswith("Set TMPDIR to a shorter path, such as /tmp\n")
    assert not (own_server.folder / "logs/torchserve.log").exists()


@pytest.mark.slow
def test_paths_may_hold_any_letter_whatever_the_locale(own_server: Server) -> None:
    folder = Path(own_server.environment["TMPDIR"]) / "ü b"
    folder.mkdir()
    own_server.environment |= {"TMPDIR": str(folder), "LANG": "C", "LC_ALL": "C"}
    own_server.start()


@pytest.mark.slow
def test_serve_says_in_the_words_of_this_start_why_a_server_ends(own_server: Server) -> None:
    logs = own_server.folder / "logs"
    logs.mkdir()
    for name in ("torchserve.log", "server.log", "model.log", "gateway-errors.log"):
        (logs / name).write_text("an error of the day before\n")
    config = own_server.folder / "config.properties"
    text = config.read_text().replace("number_of_netty_threads=2", "number_of_netty_threads=many")
    config.unlink()
    config.write_text(text)
    result = own_server.serve("--detach")
    assert result.returncode == 2
    assert result.stderr == (
        "error: TorchServe ended; the last lines in logs:\n"
        'Invalid configuration: For input string: "many"\n'
    )
    assert own_server.processes() == []


def test_serve_and_classify_name_what_is_missing(tmp_path: Path) -> None:
    server = Server(tmp_path, dict(os.environ))
    result = server.serve("--detach")
    assert result.returncode == 2
    assert result.stderr == (
        "error: config.properties is missing in this folder; run `make serve` in the repository\n"
    )
    server.environment |= {"CATSDOGS_HOST": "127.0.0.1", "CATSDOGS_PORT": str(free_ports(1)[0])}
    result = server.run(sys.executable, REPOSITORY / "tools/classify", "none.jpg")
    assert result.returncode == 2
    assert result.stderr == "error: none.jpg: no such photo or folder\n"
    result = server.run(sys.executable, REPOSITORY / "tools/classify", PICTURE)
    assert result.returncode == 2
    assert "doesn't answer" in result.stderr
    assert "`make serve` starts one here" in result.stderr
