from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CONTENT = b"an archive" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/two.mar").write_bytes(CONTENT)
    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
