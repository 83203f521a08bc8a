"""The folder for unpacked archives and the workers' sockets."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tools.server import torchserve
from tools.server.management import Refused


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
    short: Path, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    room = torchserve.LONGEST_PATH - len(f"{short}//catsdogs-12345678/.ts.sock.65535")
    name = letter * (room // len(letter.encode())) + "t" * (room % len(letter.encode()))
    use(monkeypatch, short / name)
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind(f"{torchserve.temporary_folder(short / 'note')}/.ts.sock.65535")
    use(monkeypatch, short / f"{name}t")
    with pytest.raises(torchserve.NotServed, match="at most .* Set TMPDIR to a shorter path"):
        torchserve.temporary_folder(short / "note")
    assert list((short / f"{name}t").iterdir()) == []
    with (
        socket.socket(socket.AF_UNIX) as worker,
        pytest.raises(OSError, match="AF_UNIX path too long"),
    ):
        worker.bind(f"{short}/{name}t/catsdogs-12345678/.ts.sock.65535")


def test_a_folder_in_which_none_can_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(torchserve.NotServed, match=r"^/proc/none/catsdogs-.*; set TMPDIR to ano"):
        torchserve.temporary_folder(tmp_path / "note")


def test_what_a_killed_start_has_left_is_deleted_by_the_next(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, short / "t")
    for _ in range(3):
        folder = Path(torchserve.temporary_folder(short / "note"))
        (folder / "models").mkdir()
    assert list((short / "t").iterdir()) == [folder]


def test_a_note_that_names_another_folder_deletes_nothing(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, short / "t")
    (short / "photos").mkdir()
    (short / "note").write_text(str(short / "photos"))
    torchserve.temporary_folder(short / "note")
    assert (short / "photos").exists()


def test_where_the_note_cannot_be_written_the_folder_of_logs_is_named(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, short / "t")
    with pytest.raises(torchserve.NotServed, match="set LOG_LOCATION to another folder"):
        torchserve.temporary_folder(short / "gone/note")
    assert list((short / "t").iterdir()) == []


def test_the_folder_in_memory_goes_with_the_one_that_has_it(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, short / "t")
    (short / "memory").mkdir()
    monkeypatch.setattr(torchserve, "SHARED_MEMORY", short / "memory")
    for _ in range(2):  # the first is left by a server that was killed
        folder = Path(torchserve.temporary_folder(short / "note"))
        torchserve.add_memory(folder)
        (folder / "memory/answer").write_text("ready")
        (kept,) = (short / "memory").iterdir()
        assert [path.name for path in kept.iterdir()] == ["answer"]
    torchserve.delete(folder)
    assert list((short / "memory").iterdir()) == list((short / "t").iterdir()) == []


def test_without_shared_memory_a_folder_on_the_disk_has_its_place(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, short / "t")
    monkeypatch.setattr(torchserve, "SHARED_MEMORY", short / "none")
    folder = Path(torchserve.temporary_folder(short / "note"))
    torchserve.add_memory(folder)
    assert (folder / "memory").is_dir()
    torchserve.delete(folder)
    assert not folder.exists()


def test_a_worker_keeps_its_number_when_another_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = [100, 101, 102]
    frontend = SimpleNamespace(children=lambda: [SimpleNamespace(pid=pid) for pid in alive])
    monkeypatch.setattr(torchserve.psutil, "Process", lambda pid: frontend)
    server = torchserve.TorchServe(None)
    server.process = SimpleNamespace(pid=1, poll=lambda: None)  # type: ignore[assignment]

    def numbered() -> dict[str, int]:
        return {
            name: process.pid for name, process in server.processes().items() if name != "frontend"
        }

    assert numbered() == {"worker 1": 100, "worker 2": 101, "worker 3": 102}
    alive.remove(100)
    assert numbered() == {"worker 2": 101, "worker 3": 102}
    alive.append(103)
    assert numbered() == {"worker 1": 103, "worker 2": 101, "worker 3": 102}


@pytest.mark.parametrize(
    ("statuses", "is_down"), [(["READY", "READY"], False), (["READY", "UNLOADING"], True)]
)
def test_a_worker_that_is_not_ready_is_down(statuses: list[str], is_down: bool) -> None:
    server = served({"workers": [{"status": status} for status in statuses]})
    assert server.any_worker_down() == is_down


def test_a_model_that_somebody_has_unregistered_has_no_workers_and_no_queue() -> None:
    server = served(Refused("not found", 404))
    assert not server.any_worker_down()
    assert server.pending() == 0
    assert server.versions() == []
    server = served({"workers": [{}], "jobQueueStatus": {"pendingRequests": 3}})
    assert server.pending() == 3


def served(answer: dict[str, Any] | Refused) -> torchserve.TorchServe:
    """A TorchServe whose management API describes the model like this."""

    def described() -> dict[str, Any]:
        if isinstance(answer, Refused):
            raise answer
        return answer

    server = torchserve.TorchServe(None)
    management = SimpleNamespace(version=described, versions=described)
    server.management = management  # type: ignore[assignment]
    return server


@pytest.mark.skipif(sys.platform != "linux", reason="macOS shows connections only to root")
def test_a_gateway_in_another_container_is_waited_for_until_its_last_client_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        monkeypatch.setenv("CATSDOGS_PORT", str(gateway.getsockname()[1]))
        waiting = threading.Thread(target=torchserve.TorchServe("torchserve").wait_for_gateway)
        with socket.create_connection(gateway.getsockname()), gateway.accept()[0]:
            waiting.start()
            waiting.join(1.5)
            assert waiting.is_alive()
        waiting.join(20)
        assert not waiting.is_alive()
