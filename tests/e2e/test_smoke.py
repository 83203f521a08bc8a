from __future__ import annotations

import http.server
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from testing.repository import REPOSITORY
from testing.servers import Server, free_ports


def test_a_good_server_passes_every_check(server: Server) -> None:
    done = server.run(sys.executable, REPOSITORY / "tools/smoke")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    assert all(line.startswith("ok      ") for line in lines)
    away = server.run(sys.executable, REPOSITORY / "tools/smoke", server.address("gateway"))
    assert away.returncode == 0
    assert len(away.stdout.splitlines()) == 8  # metrics are not reached from elsewhere


@contextmanager
def somebody_else(answers: dict[str, Any]) -> Iterator[str]:
    """The address of a server that answers paths so, and all others with a status."""

    class SomebodyElse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answers.get(self.path, {"status": "what?"})).encode())

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), SomebodyElse) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{other.server_port}"
        other.shutdown()


@pytest.mark.parametrize(
    ("classes", "label", "line"),
    [
        (["cat", "dog"], "cat", "ok      prediction: cat, 90.0%, by version 3.0"),
        (["cat", "dog"], "dog", "FAILED  prediction: cat.jpg is classified as dog, not cat"),
        (["kitten", "puppy"], "kitten", "ok      prediction: kitten, 90.0%, by version 3.0"),
        (
            ["fox", "wolf"],
            "cat",
            "FAILED  prediction: cat.jpg is classified as cat, not fox or wolf",
        ),
    ],
)
def test_a_cat_is_asked_for_where_the_model_knows_cats(
    server: Server, classes: list[str], label: str, line: str
) -> None:
    model = {"modelVersion": "3.0", "workers": [{"status": "READY"}]}
    with somebody_else({
        "/model/info": [model | {"customizedMetadata": {"classes": classes}}],
        "/predict": {"label": label, "confidence": 0.9, "model_version": "3.0"},
    }) as url:  # fmt: skip
        lines = server.run(sys.executable, REPOSITORY / "tools/smoke", url).stdout.splitlines()
    assert "FAILED  page: GET / is application/json, not text/html" in lines
    assert "ok      model information: version 3.0, 1 workers" in lines
    assert line in lines


def test_nobody_or_somebody_else_fails_in_time_and_in_a_line(server: Server) -> None:
    with somebody_else({}) as other:
        for url, lines in ((f"http://127.0.0.1:{free_ports(1)[0]}", 1), (other, 8)):
            done = server.run(sys.executable, REPOSITORY / "tools/smoke", url, "--wait", "1")
            assert done.returncode == 1
            assert len(done.stdout.splitlines()) == lines, done.stdout
            assert "FAILED" in done.stdout.splitlines()[-1]
            assert done.stderr == ""
