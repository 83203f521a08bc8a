"""What answers behind the gateway's listener for metrics: its counters, and whether it is ready.

nginx sends a line for each request, by UDP, and passes `/metrics/gateway` and `/ready` on, by TCP.
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
from settings import NotServed, address, given, properties

# Route, status, seconds, and whether a canary failed before; gateway/answers.conf writes them.
LINE = re.compile(rb" (/[a-z/]*|other) (\d{1,3}) (\d+\.\d+) ([01])$")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)  # seconds
PHOTOS = ("/predict", "/predictions", "/explain")  # routes
# Prometheus can't see the increase with which a counter appears, so these start at 0.
CODES = (200, 400, 408, 413, 415, 499, 502, 503, 504)
RECEIVED = 2**22  # bytes of lines that may wait; systems may allow less
SECONDS_TO_PROBE = 1.5  # longest that `/ready` waits for the picture
SECONDS_BETWEEN = 1  # two pictures
NO_ROOM = 503, b'{"status": "no room for uploads"}\n'
SECONDS_BUSY = 20  # how long a photo's answer shows that photos are answered
# 16 x 16 grey pixels.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAEUlEQVR42mNs"
    "YEAFTAwjWgAAmZAAoFDIQrAAAAAASUVORK5CYII="
)


disable_created_metrics()


class Watcher:
    """Threads of tools/serve: one counts, one answers."""

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
        """Raises NotServed when the port is taken."""
        port = int(given("CATSDOGS_WATCHER_PORT"))
        # Linux queues 10 datagrams for a Unix socket: 3 of 4 lines of a burst were lost.
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
        """`<190>Nov 26 21:00:00 nginx: /predict 200 0.012 0`, for each request."""
        while True:
            found = LINE.search(self.lines.recv(4096))
            if not found:  # not nginx's
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
            def do_GET(self) -> None:
                if self.path == "/ready":
                    is_full = free_bytes(folder) < largest
                    status, body = NO_ROOM if is_full else probe.ready()
                    self.answer(status, "application/json", body)
                else:
                    self.answer(200, "text/plain; version=0.0.4", generate_latest(registry))

            def answer(self, status: int, kind: str, body: bytes) -> None:
                with suppress(ConnectionError):  # the client has left
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        return Handler


class Probe:
    """Whether photos are answered, by a picture at most once a second.

    With a queue of the slowest photos the picture comes too late; then an answer to one of the
    photos, which nginx has logged, counts as well.
    """

    def __init__(self) -> None:
        self.pool = urllib3.PoolManager(retries=False)
        self.url = f"{address('inference')}/predictions/catsdogs"
        self.condition = threading.Condition()
        self.last_answer = -float("inf")  # of a photo or a picture
        self.asked = -float("inf")
        self.is_asking = False
        self.result: tuple[int, bytes] | None = None  # the last picture's, unless it came too late

    def ready(self) -> tuple[int, bytes]:
        """A status, 200 or 503, and the last answer to a picture, unless that is late."""
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
                "POST", self.url, body=json.dumps({"data": PICTURE}), timeout=SECONDS_BUSY,
                # Neither counted nor logged as a photo.
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
    """How many uploads lie in their folder, their bytes, and what its disk has room for."""

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
        except FileNotFoundError:  # it has just been answered
            continue
