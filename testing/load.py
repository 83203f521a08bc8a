"""Clients that keep a server busy, and the results of their requests."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from testing.repository import REPOSITORY
from testing.servers import Server, wait_until
from tools.server.management import Management, Refused

CAT = (REPOSITORY / "tests/pictures/cat.jpg").read_bytes()
# The gateway waits 5 s for a connection and 20 s for an answer (gateway/photo.conf).
DEADLINE = 25
# Errors of a client whose connection was not accepted.
REFUSED = (
    "ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected", "BrokenPipeError",
)  # fmt: skip
LATE = DEADLINE + 3  # margin for a busy machine


@dataclass(frozen=True)
class Answer:
    """`status` is 0 without an answer, and `error` is the reason."""

    number: int
    status: int
    started: float
    ended: float
    is_json: bool = False
    error: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def is_fair(self) -> bool:
        """Whether the answer was in time and JSON, or the connection refused."""
        return self.seconds < LATE and (self.is_json or self.error in REFUSED)


class Load:
    """Clients that each send a photo as soon as the last is answered, and wait as Retry-After says.

    A connection a request, so that one which is refused has surely not been read.
    """

    def __init__(self, server: Server, clients: int = 16) -> None:
        self.where = urlsplit(server.address("gateway"))
        self.answers: list[Answer] = []
        self.numbers = itertools.count()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.client) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for outstanding answers."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(LATE + 10)

    def client(self) -> None:
        while not self.stopping.is_set():
            answer = ask(self.where.hostname or "", self.where.port or 80, next(self.numbers))
            self.answers.append(answer)
            if answer.status not in (200, 400):
                self.stopping.wait(1)

    def wait_for(self, photos: int, since: float = 0) -> None:
        """Wait until so many photos sent after `since` are answered."""
        wait_until(lambda: self.good(since) >= photos, 60)

    def wait_for_status(self, status: int, answers: int) -> None:
        wait_until(lambda: sum(a.status == status for a in list(self.answers)) >= answers, 60)

    def good(self, since: float = 0) -> int:
        return sum(a.status == 200 and a.started > since for a in list(self.answers))

    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def summary(self) -> dict[str, Any]:
        """The clients' results. Refused connections were not accepted by the server."""
        answered = [answer for answer in self.answers if answer.status]
        return {
            "requests": len(self.answers),
            "statuses": dict(sorted(Counter(str(answer.status) for answer in answered).items())),
            "refused": sum(answer.error in REFUSED for answer in self.answers),
            "longest": round(max(answer.seconds for answer in self.answers), 1),
            "silence": round(self.silence(), 1),
            "late or not JSON": sum(not answer.is_fair() for answer in self.answers),
        }

    def silence(self) -> float:
        """The longest time in which no photo was answered, in seconds."""
        ends = sorted(answer.ended for answer in self.answers if answer.status == 200)
        return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)


def ask(host: str, port: int, number: int) -> Answer:
    """Send the cat; `number` identifies the request in the gateway's log."""
    started = time.monotonic()
    connection = http.client.HTTPConnection(host, port, timeout=LATE)
    try:
        headers = {"Connection": "close", "X-Request-Id": str(number)}
        connection.request("PUT", "/predict", CAT, headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        return Answer(number, 0, started, time.monotonic(), error=type(error).__name__)
    finally:
        connection.close()
    return Answer(number, response.status, started, time.monotonic(), is_json(body))


def is_whole(server: Server) -> bool:
    """Whether a picture is classified and each worker is READY."""
    try:
        if requests.get(f"{server.address('gateway')}/ready", timeout=LATE).status_code != 200:
            return False
        workers = Management(server.address("management"), seconds=5).version()["workers"]
        return all(worker["status"] == "READY" for worker in workers)
    except (requests.RequestException, urllib3.exceptions.HTTPError, Refused):
        return False


def is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False
