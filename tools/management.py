"""TorchServe's management API: the versions of catsdogs, and which of them is the default."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import urllib3
from settings import LOG, NotServed, address

SECONDS_TO_LOAD = 180


class Refused(Exception):
    """Why the new version must not answer."""


class Management:
    """Each call raises Refused for a status of 400 and more, and for what is no JSON."""

    def __init__(self) -> None:
        self.models = f"{address('management')}/models"
        self.pool = urllib3.PoolManager(retries=False, timeout=60)

    def ask(self, method: str, path: str) -> Any:
        answer = self.pool.request(method, f"{self.models}{path}")
        if answer.status >= 400:
            text = answer.data.decode(errors="replace")[:300]
            raise Refused(f"{method} {path}: {answer.status} {text}")
        return content(answer, f"{method} {path}")

    def versions(self) -> dict[str, dict[str, Any]]:
        return {told["modelVersion"]: told for told in self.ask("GET", "/catsdogs/all")}

    def default(self) -> str:
        """Raises NotServed where catsdogs isn't served."""
        try:
            return str(self.ask("GET", "/catsdogs")[0]["modelVersion"])
        except Refused as error:
            raise NotServed(f"catsdogs is not served here: {error}") from error

    def register(self, name: str, version: str) -> None:
        """With as many workers as the default has, and until they are READY."""
        workers = str(len(self.ask("GET", "/catsdogs")[0]["workers"]))
        # Not synchronously: that would hold one of TorchServe's two threads.
        query = f"?url={name}&initial_workers={workers}&synchronous=false"
        self.ask("POST", query)
        deadline = time.monotonic() + SECONDS_TO_LOAD
        pids: dict[str, set[int]] = defaultdict(set)
        while time.monotonic() < deadline:
            told = self.versions().get(version, {"workers": []})["workers"]
            if told and all(worker["status"] == "READY" for worker in told):
                return
            for worker in told:
                pids[worker["id"]].add(worker["pid"])
            if any(len(seen - {-1}) > 2 for seen in pids.values()):
                raise Refused(f"its workers die while they load it; {LOG}/model.log tells why")
            time.sleep(0.3)
        raise Refused(f"its workers were not ready within {SECONDS_TO_LOAD} s")

    def make_default(self, version: str) -> None:
        self.ask("PUT", f"/catsdogs/{version}/set-default")

    def unregister(self, version: str) -> None:
        """Once nothing waits for it, and its last batch is answered."""
        for _ in range(120):
            told = self.versions().get(version)
            if told is None:
                return
            if not told["jobQueueStatus"]["pendingRequests"]:
                break
            time.sleep(0.5)
        time.sleep(2)
        self.ask("DELETE", f"/catsdogs/{version}")


def content(answer: urllib3.BaseHTTPResponse, asked: str) -> Any:
    """Its JSON. Raises Refused where it is none, as from a server in trouble, or from another."""
    try:
        return answer.json()
    except ValueError as error:
        raise Refused(f"{asked}: {answer.status} and no JSON: {answer.data[:100]!r}") from error
