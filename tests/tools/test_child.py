"""What a server that has ended said, out of logs that hold more."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e.servers import wait_until
from tests.tools.test_sizes import tool

LINE = "2026-11-26T07:43:29,760 WARN  org.pytorch.serve.ModelServer - "
STACK = f"""{LINE}Model server started.
WARNING: sun.misc.Unsafe::objectFieldOffset will be removed in a future release
{LINE}Worker died.
{LINE}Worker died.
java.io.IOException: Failed to bind
\tat org.pytorch.serve.ModelServer.main(ModelServer.java:105)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(tool("child"), "LOG", tmp_path)
    for name in ("own.log", "shared.log"):
        (tmp_path / name).write_text("an error of the day before\n" * 10)
    return tool("child")


def ended(child: ModuleType, script: str) -> object:
    class Ended(child.Child):
        name, option, logs = "it", "it", ("own.log", "shared.log")

    server = Ended(None)
    server.run(["sh", "-c", script], {"FOLDER": str(child.LOG), "STACK": STACK})
    server.process.wait()
    return server


def test_stacks_repetitions_and_other_starts_are_no_last_words(child: ModuleType) -> None:
    server = ended(child, 'printf "$STACK"; echo "   more" >> $FOLDER/shared.log')
    assert child.last_words([server]) == (
        f"; last words in {child.LOG}:\nWorker died.\njava.io.IOException: Failed to bind"
    )


def test_of_each_log_the_last_lines_are_told(child: ModuleType) -> None:
    script = "for n in 1 2 3 4 5 6; do echo own $n; echo shared $n >> $FOLDER/shared.log; done"
    lines = ended(child, script).last_words()
    assert lines == [f"{name} {number}" for name in ("own", "shared") for number in (3, 4, 5, 6)]


def test_a_log_that_was_started_anew_is_read_from_its_beginning(child: ModuleType) -> None:
    assert ended(child, "echo new > $FOLDER/shared.log").last_words() == ["new"]


def test_a_server_that_has_not_started_or_that_runs_has_no_word_about_another_end(
    child: ModuleType,
) -> None:
    class Other(child.Child):
        name, option, logs = "other", "other", ("other.log",)  # no two servers share their first

    server = ended(child, "true")
    assert child.last_words([Other(None), server]) == ""
    running = Other(None)
    running.run(["sh", "-c", "echo fine; exec sleep 60"], {})
    try:
        wait_until(lambda: running.last_words() == ["fine"])
        assert child.last_words([running, ended(child, "echo bad >&2")]).endswith(":\nbad")
    finally:
        running.stop()
