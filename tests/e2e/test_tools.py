from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.e2e.servers import Server, free_ports

PICTURE = str(REPOSITORY / "tests/pictures/cat.jpg")


@pytest.mark.slow
def test_serve_starts_once_and_again_only_for_a_newer_archive(own_server: Server) -> None:
    told = own_server.start()
    predict = f"{own_server.address('gateway')}/predict"
    assert predict in told
    demo = own_server.run(sys.executable, REPOSITORY / "tools/demo", PICTURE)
    assert demo.returncode == 0, demo.stderr
    assert f"$ curl -T {PICTURE} {predict}" in demo.stdout
    assert '"label": "' in demo.stdout
    without_curl = dict(own_server.environment, PATH="/nowhere")
    assert Server(own_server.folder, without_curl).run(
        sys.executable, REPOSITORY / "tools/demo", PICTURE
    ).stdout == demo.stdout  # fmt: skip
    first = own_server.launcher()
    own_server.start()
    assert own_server.launcher() == first
    second = own_server.serve()
    assert second.returncode == 2
    assert f"already, by process {first.pid}" in second.stderr
    os.utime(own_server.folder / "model_store/catsdogs.mar")
    own_server.start()
    assert own_server.launcher() != first
    assert not first.is_running()
    own_server.stop()
    assert list(Path(own_server.environment["TMPDIR"]).iterdir()) == []
    assert own_server.serve("--stop").stdout == "catsdogs is not served here\n"


def test_serve_refuses_an_archive_that_is_not_what_was_built(own_server: Server) -> None:
    (own_server.folder / "model_store/catsdogs.mar").write_text("half an archive")
    result = own_server.serve()
    assert result.returncode == 2
    assert result.stderr == (
        "error: model_store/catsdogs.mar is not what model_store/catsdogs.mar.sha256 tells; "
        "run `make -B model_store/catsdogs.mar`\n"
    )


@pytest.mark.slow
def test_serve_says_why_a_server_does_not_start(own_server: Server) -> None:
    for name, culprit in (("inference", "TorchServe"), ("gateway", "the gateway")):
        port = int(own_server.address(name).rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            result = own_server.serve("--detach")
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {culprit} ended; last words in logs:")
        assert "address already in use" in result.stderr.lower()
        assert own_server.processes() == []


def test_serve_and_demo_name_what_is_missing(tmp_path: Path) -> None:
    server = Server(tmp_path, dict(os.environ))
    result = server.serve("--detach")
    assert result.returncode == 2
    assert result.stderr == "error: config.properties is missing here; run `make serve`\n"
    server.environment |= {"CATSDOGS_HOST": "127.0.0.1", "CATSDOGS_PORT": str(free_ports(1)[0])}
    result = server.run(sys.executable, REPOSITORY / "tools/demo", "none.jpg")
    assert result.returncode == 2
    assert result.stderr == "error: none.jpg: no such photo\n"
    result = server.run(sys.executable, REPOSITORY / "tools/demo", PICTURE)
    assert result.returncode == 2
    assert "doesn't answer" in result.stderr
    assert "run `make serve`" in result.stderr
