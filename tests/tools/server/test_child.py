"""What a server that has ended said, out of logs that hold more."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from testing.servers import wait_until
from tools.server import child

LINE = "2026-11-26T07:43:29,760 WARN  org.pytorch.serve.ModelServer - "
STACK = f"""{LINE}Model server started.
WARNING: sun.misc.Unsafe::objectFieldOffset will be removed in a future release
{LINE}Worker died.
{LINE}Worker died.
java.io.IOException: Failed to bind
\tat org.pytorch.serve.ModelServer.main(ModelServer.java:105)
"""


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOG", tmp_path)
    for name in ("own.log", "shared.log"):
        (tmp_path / name).write_text("an error of the day before\n" * 10)


def ended(script: str) -> object:
    class Ended(child.Child):
        name, option, logs = "it", "it", ("own.log", "shared.log")

    server = Ended(None)
    server.run(["sh", "-c", script], {"FOLDER": str(child.LOG), "STACK": STACK})
    server.process.wait()
    return server


def test_stacks_repetitions_and_other_starts_are_not_repeated() -> None:
    server = ended('printf "$STACK"; echo "   more" >> $FOLDER/shared.log')
    assert child.last_lines([server]) == (
        f"; the last lines in {child.LOG}:\nWorker died.\njava.io.IOException: Failed to bind"
    )


def test_of_each_log_the_last_lines_are_told() -> None:
    script = "for n in 1 2 3 4 5 6; do echo own $n; echo shared $n >> $FOLDER/shared.log; done"
    lines = ended(script).last_lines()
    assert lines == [f"{name} {number}" for name in ("own", "shared") for number in (3, 4, 5, 6)]


def test_a_log_that_was_started_anew_is_read_from_its_beginning() -> None:
    assert ended("echo new > $FOLDER/shared.log").last_lines() == ["new"]


def test_a_server_that_has_not_started_or_that_runs_has_no_word_about_another_end() -> None:
    class Other(child.Child):
        name, option, logs = "other", "other", ("other.log",)  # no two servers share their first

    server = ended("true")
    assert child.last_lines([Other(None), server]) == ""
    running = Other(None)
    running.run(["sh", "-c", "echo fine; exec sleep 60"], {})
    try:
        wait_until(lambda: running.last_lines() == ["fine"])
        assert child.last_lines([running, ended("echo bad >&2")]).endswith(":\nbad")
    finally:
        running.stop()


def test_what_outlives_a_killed_server_is_ended_with_it() -> None:
    class Parent(child.Child):
        name, option, logs = "parent", "parent", ("own.log",)

    server = Parent(None)
    server.run(["sh", "-c", "sleep 600 & sleep 600"], {})
    assert server.process
    leader = psutil.Process(server.process.pid)
    wait_until(lambda: len(leader.children()) == 2)
    orphans = leader.children()
    server.process.kill()
    server.process.wait()
    assert server.how_it_ended() == "killed by SIGKILL, as Linux does if memory is short"
    assert all(orphan.is_running() for orphan in orphans)
    server.stop(5)
    assert not psutil.wait_procs(orphans, timeout=5)[1]


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    with subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo deaf; exec sleep 600"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"deaf\n"
        child.end(process, 0.2)
        assert process.returncode == -signal.SIGKILL


def test_a_log_that_is_gone_or_cut_off_says_what_is_left() -> None:
    assert child.since(child.LOG / "none.log", 10) == []
    assert (
        child.message('{"time": "2026", "message": "disk f')
        == '{"time": "2026", "message": "disk f'
    )
    assert child.message('{"time": "2026", "message": "disk full"}') == "disk full"
