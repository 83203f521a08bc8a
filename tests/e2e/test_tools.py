from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest

from benchmarks.peers.servers import free_ports
from tests.conftest import REPOSITORY
from tests.e2e.conftest import Server, new_server


@pytest.fixture
def own_server(archives: Path, tmp_path: Path) -> Iterator[Server]:
    server = new_server(tmp_path, archives)
    server.environment["TS_DEFAULT_WORKERS_PER_MODEL"] = "1"
    yield server
    server.stop()


PICTURE = str(REPOSITORY / "tests/pictures/cat.jpg")


def frontend(server: Server) -> psutil.Process:
    pid_file = Path(server.environment["TMPDIR"]) / ".model_server.pid"
    return psutil.Process(int(pid_file.read_text()))


def test_serve_starts_once_and_again_only_for_a_newer_archive(own_server: Server) -> None:
    result = own_server.serve()
    assert result.returncode == 0, result.stderr
    assert own_server.predictions in result.stdout
    demo = own_server.run(sys.executable, REPOSITORY / "tools/demo", PICTURE)
    assert demo.returncode == 0, demo.stderr
    assert f"$ curl -T {PICTURE} {own_server.predictions}" in demo.stdout
    assert '"label": "cat"' in demo.stdout
    without_curl = dict(own_server.environment, PATH="/nowhere")
    assert Server(own_server.folder, without_curl).run(
        sys.executable, REPOSITORY / "tools/demo", PICTURE
    ).stdout == demo.stdout  # fmt: skip
    first = frontend(own_server)
    assert own_server.serve().returncode == 0
    assert frontend(own_server) == first
    os.utime(own_server.folder / "model_store/catsdogs.mar")
    assert own_server.serve().returncode == 0
    assert frontend(own_server) != first
    assert not first.is_running()


def test_serve_refuses_an_archive_that_is_not_what_was_built(own_server: Server) -> None:
    (own_server.folder / "model_store/catsdogs.mar").write_text("half an archive")
    result = own_server.serve()
    assert result.returncode == 2
    assert result.stderr == (
        "error: model_store/catsdogs.mar is not what model_store/catsdogs.mar.sha256 tells; "
        "run `make -B model_store/catsdogs.mar`\n"
    )


def test_serve_says_why_a_server_does_not_start(own_server: Server) -> None:
    port = int(own_server.address("inference").rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        result = own_server.serve()
    assert result.returncode == 2
    assert result.stderr.startswith("error: TorchServe ended; last words in logs:")
    assert "Address already in use" in result.stderr


def test_serve_and_demo_name_what_is_missing(tmp_path: Path) -> None:
    server = Server(tmp_path, dict(os.environ))
    result = server.serve()
    assert result.returncode == 2
    assert result.stderr == "error: config.properties is missing here; run `make serve`\n"
    result = server.run(sys.executable, REPOSITORY / "tools/demo", "none.jpg")
    assert result.returncode == 2
    assert result.stderr == "error: none.jpg: no such photo\n"
    server.environment["TS_INFERENCE_ADDRESS"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    result = server.run(sys.executable, REPOSITORY / "tools/demo", PICTURE)
    assert result.returncode == 2
    assert "doesn't answer" in result.stderr
    assert "run `make serve`" in result.stderr


def test_serve_leaves_another_server_alone(own_server: Server) -> None:
    port = int(own_server.address("management").rpartition(":")[2])
    with ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler) as other:
        Thread(target=other.serve_forever).start()
        result = own_server.serve()
        other.shutdown()
    assert result.returncode == 2
    assert "a server without catsdogs listens at" in result.stderr
