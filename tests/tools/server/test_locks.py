"""Locks that tell who holds them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tools.server.locks import Held, hold, holder


def test_a_lock_names_its_process_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    path.write_text("a longer note of the last start")
    file = hold(path)
    assert path.read_text() == str(os.getpid())
    assert holder(path) == os.getpid()
    with pytest.raises(Held, match=f"^{os.getpid()}$"):
        hold(path)
    file.close()
    assert holder(path) is None
    hold(path).close()


def test_a_lock_whose_process_has_not_yet_written_its_name_names_none(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(tmp_path / "lock") is None
