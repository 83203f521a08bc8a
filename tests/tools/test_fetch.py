from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from tests.tools import program as programs

CONTENT = b"an archive" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/two.mar").write_bytes(CONTENT)
    with served_by(functools.partial(Quiet, directory=tmp_path / "served")) as address:
        yield address


def fetch(url: str, sha256: str, folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, REPOSITORY / "tools/fetch", url, sha256, folder]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_archive_comes_with_its_checksum_beside_it(address: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert fetch(f"{address}/two.mar", SHA256.upper(), store).returncode == 0
    assert (store / "catsdogs.mar").read_bytes() == CONTENT
    assert (store / "catsdogs.mar.sha256").read_text() == f"{SHA256}  catsdogs.mar\n"


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("two.mar", "0" * 64, f"its sha256 is {SHA256}"),
        ("none.mar", SHA256, "answers 404"),
    ],
)
def test_of_another_nothing_is_kept_and_what_was_there_stays(
    address: str, tmp_path: Path, path: str, sha256: str, message: str
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "catsdogs.mar").write_bytes(b"the old one")
    done = fetch(f"{address}/{path}", sha256, store)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [file.read_bytes() for file in store.iterdir()] == [b"the old one"]


class Chunked(Quiet):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(CONTENT), 999):
            piece = CONTENT[start : start + 999]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


class Trickling(Quiet):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        with suppress(OSError):  # the client has left
            for byte in CONTENT:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)


@contextmanager
def served_by(handler: type[Quiet]) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_archive_comes_in_chunks_too(tmp_path: Path) -> None:
    with served_by(Chunked) as url:
        assert fetch(url, SHA256, tmp_path / "store").returncode == 0
    assert (tmp_path / "store/catsdogs.mar").read_bytes() == CONTENT


def test_one_that_comes_a_byte_at_a_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = programs.load("fetch")
    monkeypatch.setattr(program, "SECONDS", 2)
    with served_by(Trickling) as url, pytest.raises(program.Refused, match="takes more than"):
        program.fetch(url, SHA256, tmp_path / "catsdogs.mar")
    assert list(tmp_path.iterdir()) == []
