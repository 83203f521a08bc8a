"""The folder for unpacked archives and the workers' sockets."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools.test_sizes import tool


@pytest.fixture
def torchserve() -> ModuleType:
    return tool("torchserve")


@pytest.fixture
def short() -> Iterator[Path]:
    """Shorter than tmp_path, which has the test's name in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


@pytest.mark.parametrize("letter", ["t", "ü"])
def test_the_longest_path_that_is_taken_has_room_for_a_socket_and_the_next_has_not(
    torchserve: ModuleType, short: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    room = torchserve.LONGEST_PATH - len(f"{short}//catsdogs-12345678/.ts.sock.65535")
    name = letter * (room // len(letter.encode())) + "t" * (room % len(letter.encode()))
    use(monkeypatch, short / name)
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind(f"{torchserve.temporary_folder()}/.ts.sock.65535")
    use(monkeypatch, short / f"{name}t")
    with pytest.raises(torchserve.NotServed, match="at most .* Set TMPDIR to a shorter path"):
        torchserve.temporary_folder()
    assert list((short / f"{name}t").iterdir()) == []
    with (
        socket.socket(socket.AF_UNIX) as worker,
        pytest.raises(OSError, match="AF_UNIX path too long"),
    ):
        worker.bind(f"{short}/{name}t/catsdogs-12345678/.ts.sock.65535")


def test_a_folder_in_which_none_can_be_made_is_named(
    torchserve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(torchserve.NotServed, match=r"^/proc/none/catsdogs-.*; set TMPDIR to ano"):
        torchserve.temporary_folder()
