"""tools/serve --detach before a launcher that hangs."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.tools import program as programs


def test_a_launcher_that_neither_ends_nor_is_ready_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs.load("serve")
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
