"""tools/serve --detach before a launcher that hangs."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.tools import program as programs

program = programs.load("serve")


def test_a_launcher_that_neither_ends_nor_is_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(600)\n")
    for name, value in {
        "__file__": str(tmp_path / "hangs.py"), "SECONDS_TO_START": 1, "SECONDS_TO_STOP": 1,
        "LOG": tmp_path, "CONSOLE": tmp_path / "console.log", "STATE": tmp_path / "serve.json",
    }.items():  # fmt: skip
        monkeypatch.setattr(program, name, value)
    known = psutil.Process().children()
    with pytest.raises(program.NotServed, match=r"process \d+ did not start in time"):
        program.start_in_background()
    assert psutil.Process().children() == known


class Full:
    """A server whose settings can't be written again."""

    name = "the gateway"

    def __init__(self) -> None:
        self.asked = 0

    def ended(self) -> bool:
        return self.asked > 1

    def how_it_ended(self) -> str:
        return "exit status 0"

    def tend(self) -> None:
        pass

    def reload(self) -> None:
        self.asked += 1
        if self.asked == 1:
            program.reloads.append(1)  # another signal meanwhile, which counts
            raise OSError(28, "No space left on device")

    def trouble(self) -> str:
        return ""

    process = None

    def last_lines(self) -> list[str]:
        return []


def test_a_reload_that_fails_stops_nothing_and_the_next_is_heeded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program.time, "sleep", lambda seconds: None)
    server = Full()
    program.reloads.append(1)
    program.watch([server])
    assert server.asked == 2
    assert "No space left on device; the gateway goes on as before" in capsys.readouterr().err


def test_a_server_of_another_user_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(program, "running_state", lambda: {"pid": 1})
    monkeypatch.setattr(program, "holder", lambda path: None)
    monkeypatch.setattr(psutil.Process, "terminate", refuse)
    with pytest.raises(program.NotServed, match="process 1 is another user's; stop it as that"):
        program.stop()
