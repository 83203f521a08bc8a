"""What the watcher makes of nginx's lines, of uploads and of TorchServe's answers to a picture."""

from __future__ import annotations

import http.server
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import urllib3

from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.servers import free_ports, wait_until
from tools.server import settings, watcher
from tools.server.watcher import Watcher

HEADER = b"<190>Nov 26 21:00:00 nginx: "


class StandIn(http.server.ThreadingHTTPServer):
    """TorchServe, which answers with `status` once `is_quick` is set."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Picture)
        self.status, self.pictures, self.is_quick = 200, 0, threading.Event()
        self.is_quick.set()


class Picture(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/predictions/catsdogs"
        assert self.headers["X-Probe"] == "true"
        self.server.pictures += 1
        self.server.is_quick.wait(60)
        self.send_response(self.server.status)
        self.end_headers()
        with suppress(ConnectionError):  # the watcher waits only so long
            self.wfile.write(b'{"label": "cat"}')

    def log_message(self, *words: object) -> None:
        pass


class Watched:
    """A running watcher, and what its uploads and TorchServe are."""

    def __init__(self, port: int, uploads: Path, torchserve: StandIn) -> None:
        self.uploads, self.torchserve = uploads, torchserve
        self.address, self.url = ("127.0.0.1", port), f"http://127.0.0.1:{port}"
        self.watcher = Watcher(uploads)
        self.watcher.start()

    def write(self, *lines: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nginx:
            for line in lines:
                nginx.sendto(line, self.address)

    def metrics(self) -> dict[str, float]:
        text = requests.get(f"{self.url}/metrics", timeout=10).text
        found = re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def count(self, route: str, code: int) -> float:
        return self.metrics().get(f'gateway_requests_total{{code="{code}",route="{route}"}}', 0)

    def ready(self) -> int:
        return requests.get(f"{self.url}/ready", timeout=10).status_code


@pytest.fixture
def torchserve() -> Iterator[StandIn]:
    with StandIn() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.is_quick.set()
        server.shutdown()


@pytest.fixture
def watched(torchserve: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    (port,) = free_ports(1)
    monkeypatch.setenv("CATSDOGS_WATCHER_PORT", str(port))
    monkeypatch.setenv("TS_INFERENCE_ADDRESS", f"http://127.0.0.1:{torchserve.server_port}")
    monkeypatch.setattr(watcher, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(watcher, "SECONDS_TO_PROBE", 0.2)
    (tmp_path / "uploads").mkdir()
    return Watched(port, tmp_path / "uploads", torchserve)


def test_requests_are_counted_with_their_seconds(watched: Watched) -> None:
    watched.write(
        HEADER + b"/predict 200 0.012 0",
        HEADER + b"/predict 200 3.000 0",
        HEADER + b"/predictions 499 21.500 0",
        HEADER + b"/model/info 200 0.001 0",
        HEADER + b"/ 200 0.000 0",
        HEADER + b"other 404 0.000 0",
    )
    wait_until(lambda: watched.count("other", 404))
    metrics = watched.metrics()
    counted = {name: n for name, n in metrics.items() if n and "_requests_" in name}
    assert counted == {
        'gateway_requests_total{code="200",route="/predict"}': 2,
        'gateway_requests_total{code="499",route="/predictions"}': 1,
        'gateway_requests_total{code="200",route="/model/info"}': 1,
        'gateway_requests_total{code="200",route="/"}': 1,
        'gateway_requests_total{code="404",route="other"}': 1,
    }
    seconds = "gateway_request_duration_seconds"
    for limit, number in (("0.005", 0), ("0.025", 1), ("2.5", 1), ("5.0", 2), ("+Inf", 2)):
        assert metrics[f'{seconds}_bucket{{code="200",le="{limit}",route="/predict"}}'] == number
    assert metrics[f'{seconds}_sum{{code="200",route="/predict"}}'] == 3.012


def test_a_canarys_failure_is_counted_once_more(watched: Watched) -> None:
    watched.write(HEADER + b"/predict 200 0.012 1", HEADER + b"/predict 200 0.012 0")
    wait_until(lambda: watched.count("/predict", 200) == 2)
    assert watched.metrics()["gateway_canary_failures_total"] == 1


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\xff\xfe", b"a", b"/predict 200 0.012 0", HEADER + b"/predict 200 0.012",
        HEADER + b"/predict 200 - 0", HEADER + b"/predict 200 nan 0", HEADER + b"/predict - 0.1 0",
        HEADER + b"/predict 2000 0.1 0", HEADER + b"/predict 200 0.012 2",
        HEADER + b"/predict{} 200 0.012 0", HEADER + b"/" + b"x" * 5000 + b" 200 0.012 0",
    ],
)  # fmt: skip
def test_a_malformed_line_is_passed_over(watched: Watched, line: bytes) -> None:
    watched.write(line, HEADER + b"/explain 503 0.001 0")
    wait_until(lambda: watched.count("/explain", 503) == 1)
    assert sum(n for name, n in watched.metrics().items() if "_requests_total" in name) == 1


def test_a_burst_is_counted_whole(watched: Watched) -> None:
    watched.write(*[HEADER + b"/predict 503 0.001 0"] * 500)
    wait_until(lambda: watched.count("/predict", 503) == 500)


def test_counters_of_photos_are_there_before_the_first(watched: Watched) -> None:
    metrics = watched.metrics()
    for route in watcher.PHOTOS:
        for code in (200, 408, 413, 499, 502, 503, 504):
            assert metrics[f'gateway_requests_total{{code="{code}",route="{route}"}}'] == 0


def test_uploads_are_measured_and_the_room_for_more(watched: Watched) -> None:
    for name, size in (("0000000001", 1000), ("0000000002", 500)):
        (watched.uploads / name).write_bytes(bytes(size))
    metrics = watched.metrics()
    assert (metrics["gateway_uploads"], metrics["gateway_upload_bytes"]) == (2, 1500)
    free = shutil.disk_usage(watched.uploads).free
    assert metrics["gateway_upload_free_bytes"] == pytest.approx(free, abs=2**30)


def test_a_lost_folder_has_no_room(watched: Watched) -> None:
    watched.uploads.rmdir()
    assert watched.metrics()["gateway_upload_free_bytes"] == 0


def test_it_is_ready_while_torchserve_classifies_a_picture(watched: Watched) -> None:
    assert watched.ready() == 200
    watched.torchserve.status = 503
    assert watched.ready() == 503
    watched.torchserve.status = 200
    assert watched.ready() == 200


def test_it_is_not_ready_without_room_for_the_largest_upload(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, status in ((MAX_UPLOAD_BYTES - 1, 503), (MAX_UPLOAD_BYTES, 200)):
        monkeypatch.setattr(watcher, "free_bytes", lambda folder, free=free: free)
        assert requests.get(f"{watched.url}/ready", timeout=30).status_code == status


def test_it_is_not_ready_without_torchserve(watched: Watched) -> None:
    watched.torchserve.shutdown()
    watched.torchserve.server_close()
    watched.write(HEADER + b"/predict 200 0.012 0")
    wait_until(lambda: watched.count("/predict", 200))
    assert watched.ready() == 503


def test_it_is_ready_while_photos_are_answered_before_the_picture(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "SECONDS_BUSY", 2)
    watched.torchserve.is_quick.clear()
    assert watched.ready() == 503
    watched.write(HEADER + b"/predict 503 0.012 0", HEADER + b"/health 200 0.012 0")
    wait_until(lambda: watched.count("/health", 200))
    assert watched.ready() == 503
    answered = time.monotonic()
    watched.write(HEADER + b"/predict 200 0.012 0")
    wait_until(lambda: watched.count("/predict", 200))
    assert watched.ready() == 200
    wait_until(lambda: watched.ready() == 503)
    assert time.monotonic() - answered >= 2


def test_a_picture_that_came_too_late_says_nothing_about_photos(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.torchserve.is_quick.clear()
    watched.watcher.probe.pool = urllib3.PoolManager(retries=False, timeout=0.1)
    watched.watcher.probe.ask()
    monkeypatch.setattr(watcher, "SECONDS_BETWEEN", 60)
    assert watched.ready() == 503
    watched.write(HEADER + b"/predict 200 0.012 0")
    wait_until(lambda: watched.ready() == 200)


def test_an_old_answer_hides_no_silent_torchserve(watched: Watched) -> None:
    assert watched.ready() == 200
    watched.torchserve.is_quick.clear()
    watched.watcher.probe.last_answer = time.monotonic() - watcher.SECONDS_BUSY
    assert watched.ready() == 503


def test_one_picture_a_second_is_sent_however_many_ask(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "SECONDS_BETWEEN", 1)
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        while (seconds := time.monotonic() - began) < 2.5:
            assert set(pool.map(lambda _: watched.ready(), range(16))) == {200}
    assert 2 <= watched.torchserve.pictures <= seconds + 1


def test_a_client_that_leaves_is_no_error(
    watched: Watched, capfd: pytest.CaptureFixture[str]
) -> None:
    watched.torchserve.is_quick.clear()
    with socket.create_connection(watched.address) as client:
        client.sendall(b"GET /ready HTTP/1.1\r\nHost: watcher\r\n\r\n")
    wait_until(lambda: watched.torchserve.pictures)
    assert watched.ready() == 503  # after the answer to the one that left
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_named(watched: Watched, tmp_path: Path) -> None:
    with pytest.raises(settings.NotServed, match=f"port {watched.address[1]} is not free"):
        Watcher(tmp_path).start()


def test_an_upload_that_is_answered_meanwhile_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "2").write_bytes(b"two")
    found = [tmp_path / "1", tmp_path / "2"]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(found))
    assert list(watcher.file_sizes(tmp_path)) == [3]
