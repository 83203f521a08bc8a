"""Counts the gateway's requests and answers its readiness probe.

nginx sends one UDP datagram per request, and forwards `/metrics/gateway` and `/ready` over HTTP.
"""

from __future__ import annotations

import http.server
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import urllib3
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tools.server.settings import NotServed, address, given, properties

# Route, status, seconds, and 1 if a canary failed first; the format is in gateway/answers.conf.
LINE = re.compile(rb" (/[a-z/]*|other) (\d{1,3}) (\d+\.\d+) ([01])$")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)  # seconds
PHOTOS = ("/predict", "/predictions", "/explain")  # routes
# Start at 0, since Prometheus doesn't see the first increase of a counter that appears with it.
CODES = (200, 400, 408, 413, 415, 499, 502, 503, 504)
RECEIVED = 2**22  # bytes of the socket's buffer; systems may allow less
SECONDS_TO_PROBE = 1.5  # longest wait of `/ready` for the probe picture
SECONDS_BETWEEN = 1  # two probe pictures
NO_ROOM = 503, b'{"status": "no room for uploads"}\n'
SECONDS_BUSY = 20  # how long an answered photo counts as a sign of readiness
# 16 x 16 grey pixels.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVR42mNs"
    "YEAFTAwjWgAAmZAAoFDIQrAAAAAASUVORK5CYII="
)


disable_created_metrics()  # type: ignore[no-untyped-call]


class Watcher:
    """Two threads of tools/serve: one counts requests, one serves HTTP."""

    def __init__(self, uploads: Path) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gateway_requests", "Requests answered.", ["route", "code"], registry=self.registry
        )
        self.seconds = Histogram(
            "gateway_request_duration_seconds", "From the first byte of a request to the last of "
            "its answer.", ["route", "code"], buckets=BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.fallbacks = Counter(
            "gateway_canary_failures", "Requests that the canary failed and the default answered.",
            registry=self.registry,
        )  # fmt: skip
        for route in PHOTOS:
            for code in CODES:
                self.requests.labels(route, code)
        self.folder = uploads
        self.registry.register(UploadFolder(uploads))
        self.probe = Probe()

    def start(self) -> None:
        """Raises NotServed if the port is in use."""
        port = int(given("CATSDOGS_WATCHER_PORT"))
        # Not a Unix socket: Linux queues 10 datagrams there, and a burst lost 3 of 4 lines.
        self.lines = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.lines.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVED)
        try:
            self.lines.bind(("127.0.0.1", port))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), self.handler())
        except OSError as error:
            self.lines.close()
            raise NotServed(
                f"port {port} is not free ({error.strerror}); set CATSDOGS_WATCHER_PORT"
            ) from error
        threading.Thread(target=self.count, daemon=True).start()
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def count(self) -> None:
        """Count lines such as `<190>Nov 26 21:00:00 nginx: /predict 200 0.012 0`."""
        while True:
            found = LINE.search(self.lines.recv(4096))
            if not found:  # not from nginx
                continue
            route, status, seconds, fell_back = (word.decode() for word in found.groups())
            self.fallbacks.inc(int(fell_back))
            self.requests.labels(route, status).inc()
            self.seconds.labels(route, status).observe(float(seconds))
            if route in PHOTOS and status == "200":
                self.probe.last_answer = time.monotonic()

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        registry, probe, folder = self.registry, self.probe, self.folder
        largest = int(properties()["max_request_size"])

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 10  # s without data

            def do_GET(self) -> None:
                if self.path == "/ready":
                    is_full = free_bytes(folder) < largest
                    status, body = NO_ROOM if is_full else probe.ready()
                    self.answer(status, "application/json", body)
                elif self.path == "/metrics":
                    self.answer(200, "text/plain; version=0.0.4", generate_latest(registry))
                else:
                    self.answer(404, "text/plain", b"")

            def answer(self, status: int, kind: str, body: bytes) -> None:
                with suppress(ConnectionError):  # the client disconnected
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        return Handler


class Probe:
    """Checks that photos are answered by sending a picture, at most once a second.

    Behind a queue of slow photos the picture's answer is late; then a photo that nginx logged as
    answered counts, too.
    """

    def __init__(self) -> None:
        self.pool = urllib3.PoolManager(retries=False, timeout=SECONDS_BUSY)
        self.url = f"{address('inference')}/predictions/catsdogs"
        self.condition = threading.Condition()
        self.last_answer = -float("inf")  # to a photo or a picture
        self.asked = -float("inf")
        self.is_asking = False
        self.result: tuple[int, bytes] | None = None  # of the last picture; None if it was late

    def ready(self) -> tuple[int, bytes]:
        """Status (200 or 503) and body: the answer to the last picture, unless it is late."""
        with self.condition:
            if not self.is_asking and time.monotonic() - self.asked >= SECONDS_BETWEEN:
                self.is_asking = True
                threading.Thread(target=self.ask, daemon=True).start()
            in_time = self.condition.wait_for(lambda: not self.is_asking, SECONDS_TO_PROBE)
            if in_time and self.result:
                return self.result
            is_busy = time.monotonic() - self.last_answer < SECONDS_BUSY
            return (200 if is_busy else 503), b'{"status": "busy"}\n'

    def ask(self) -> None:
        result: tuple[int, bytes] | None
        try:
            answer = self.pool.request(
                "POST", self.url, body=json.dumps({"data": PICTURE}),
                # The handler neither counts nor logs it.
                headers={"Content-Type": "application/json", "X-Probe": "true"},
            )  # fmt: skip
            result = (200 if answer.status == 200 else 503), answer.data
        except urllib3.exceptions.ReadTimeoutError:
            result = None
        except urllib3.exceptions.HTTPError:
            result = 503, b'{"status": "unreachable"}\n'
        with self.condition:
            self.result, self.asked, self.is_asking = result, time.monotonic(), False
            if result and result[0] == 200:
                self.last_answer = self.asked
            self.condition.notify_all()


class UploadFolder(Collector):
    """Metrics of the upload folder: number of files, their size, and free disk space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def collect(self) -> Iterator[Metric]:
        sizes = list(file_sizes(self.folder))
        yield GaugeMetricFamily("gateway_uploads", "Photos in progress.", len(sizes))
        yield GaugeMetricFamily("gateway_upload_bytes", "Their size.", sum(sizes))
        free = free_bytes(self.folder)
        yield GaugeMetricFamily("gateway_upload_free_bytes", "Room for more on their disk.", free)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.exists() else 0


def file_sizes(folder: Path) -> Iterator[int]:
    for path in folder.glob("*"):
        try:
            yield path.stat().st_size
        except FileNotFoundError:  # answered meanwhile
            continue
