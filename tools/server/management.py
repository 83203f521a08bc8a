"""TorchServe's management API: the versions of catsdogs, and which of them is the default."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any
from urllib.parse import urlencode

import urllib3

from tools.server.settings import LOG, NotServed, address

SECONDS_TO_LOAD = 180


class Refused(Exception):
    """TorchServe refused a request (`status`), or a new version must not serve (`status` 0)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Management:
    """A client of the API at `url`, by default that of a server started from this folder.

    Each call raises Refused for a status of 400 or more and for an answer that is not JSON, and
    urllib3's HTTPError if there is no answer. An empty `version` means the default one.
    """

    def __init__(self, url: str = "", seconds: float = 60) -> None:
        self.models = f"{url or address('management')}/models"
        self.pool = urllib3.PoolManager(maxsize=4, retries=False, timeout=seconds)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = self.pool.request(method, f"{self.models}{path}", **options)
        if answer.status >= 400:
            text = answer.data.decode(errors="replace")[:300]
            raise Refused(f"{method} {path}: {answer.status} {text}", answer.status)
        return content(answer, f"{method} {path}")

    def version(self, version: str = "") -> dict[str, Any]:
        described: dict[str, Any] = self.ask("GET", path_of(version))[0]
        return described

    def versions(self) -> dict[str, dict[str, Any]]:
        return {found["modelVersion"]: found for found in self.ask("GET", "/catsdogs/all")}

    def pending(self, version: str = "") -> int:
        """Number of photos in the queue of a version."""
        return int(self.version(version)["jobQueueStatus"]["pendingRequests"])

    def default(self) -> str:
        """The default version. Raises NotServed if catsdogs is not served."""
        try:
            return str(self.version()["modelVersion"])
        except Refused as error:
            raise NotServed(f"catsdogs is not served here: {error}") from error

    def register(self, archive: str, workers: int = 1, **settings: object) -> None:
        """Register an archive of the model store, and wait until its workers have started."""
        query = urlencode({"url": archive, "initial_workers": workers, **settings})
        self.ask("POST", f"?{query}", timeout=SECONDS_TO_LOAD)

    def load(self, archive: str, version: str) -> None:
        """Register `version` next to the default one, and wait until as many workers are READY."""
        # Asynchronously, since a synchronous call occupies one of TorchServe's two threads.
        self.register(archive, len(self.version()["workers"]), synchronous="false")
        deadline = time.monotonic() + SECONDS_TO_LOAD
        pids: dict[str, set[int]] = defaultdict(set)
        while time.monotonic() < deadline:
            workers = self.versions().get(version, {"workers": []})["workers"]
            if workers and all(worker["status"] == "READY" for worker in workers):
                return
            for worker in workers:
                pids[worker["id"]].add(worker["pid"])
            if any(len(seen - {-1}) > 2 for seen in pids.values()):
                raise Refused(f"its workers die while they load it; {LOG}/model.log says why")
            time.sleep(0.3)
        raise Refused(f"its workers were not ready within {SECONDS_TO_LOAD} s")

    def make_default(self, version: str) -> None:
        self.ask("PUT", f"{path_of(version)}/set-default")

    def unregister(self, version: str = "") -> None:
        self.ask("DELETE", path_of(version))

    def retire(self, version: str) -> None:
        """Unregister a version once its queue is empty and its last batch is answered."""
        for _ in range(120):
            found = self.versions().get(version)
            if found is None:
                return
            if not found["jobQueueStatus"]["pendingRequests"]:
                break
            time.sleep(0.5)
        time.sleep(2)
        self.unregister(version)


def path_of(version: str) -> str:
    return f"/catsdogs/{version}".rstrip("/")


def content(answer: urllib3.BaseHTTPResponse, asked: str) -> Any:
    """The JSON of an answer. Raises Refused if it has none, as a failing or other server may."""
    try:
        return answer.json()
    except ValueError as error:
        raise Refused(f"{asked}: {answer.status} without JSON: {answer.data[:100]!r}") from error
