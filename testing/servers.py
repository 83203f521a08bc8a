"""Real servers on free ports, started by the commands of the README, for tests and benchmarks."""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from testing.repository import REPOSITORY
from tools.server.management import Management
from training.archive import archive

BIN = Path(sys.executable).parent
# Secrets in the launcher's environment that no worker may see.
SECRETS = dict.fromkeys(
    ("AWS_SECRET_ACCESS_KEY", "SOME_API_KEY", "DATABASE_URL", "HF_TOKEN", "pgPassword"),
    "canary-secret",
)
# Below the kernel's range for outgoing connections, one of which could otherwise take a port before
# it is used.
PORTS = range(10_000, 32_768)
SECONDS_TO_RUN = 1800  # limit for a program


@dataclass
class Server:
    """A folder from which TorchServe and the gateway run, and their addresses."""

    folder: Path
    environment: dict[str, str]

    def address(self, name: str) -> str:
        """URL of one of TorchServe's listeners, or of the "gateway" or "gateway_metrics"."""
        if name.startswith("gateway"):
            variable = name.upper().replace("GATEWAY", "CATSDOGS")
            host = "[::1]" if ":" in self.environment.get("CATSDOGS_HOST", "") else "127.0.0.1"
            return f"http://{host}:{self.environment[f'{variable}_PORT']}"
        return self.environment[f"TS_{name.upper()}_ADDRESS"]

    @property
    def predictions(self) -> str:
        return f"{self.address('gateway')}/predictions/catsdogs"

    @property
    def management(self) -> Management:
        return Management(self.address("management"))

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL, timeout=SECONDS_TO_RUN,
        )  # fmt: skip

    def serve(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, REPOSITORY / "tools/serve", *options)

    def start(self) -> str:
        """Start the servers and return their summary. Raises RuntimeError if they don't start."""
        started = self.serve("--detach")
        if started.returncode:
            raise RuntimeError(started.stderr)
        return started.stdout

    def lines(self, log: str) -> list[dict[str, Any]]:
        """The lines of a JSON log, without an incomplete last line; none before its first one."""
        file = self.folder / "logs" / log
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def state(self) -> dict[str, Any]:
        """The file that the launcher wrote when it was ready."""
        found: dict[str, Any] = json.loads((self.folder / "logs/serve.json").read_text())
        return found

    def launcher(self) -> psutil.Process:
        return psutil.Process(self.state()["pid"])

    def processes(self) -> list[psutil.Process]:
        """The running processes: launcher, TorchServe's frontend and workers, gateway."""
        try:
            return [self.launcher(), *self.launcher().children(recursive=True)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []

    def process(self, name: str) -> psutil.Process:
        """ "java", the frontend, or "nginx", the public gateway."""
        found = (child for child in self.launcher().children() if child.name() == name)
        return next(child for child in found if "metrics.conf" not in str(child.cmdline()))

    def workers(self) -> list[psutil.Process]:
        return self.process("java").children()

    def stop(self) -> None:
        """Stop the servers, and make sure that no process is left."""
        processes = self.processes()
        stopped = self.serve("--stop")
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        assert not alive, stopped.stderr


def listens(port: int) -> bool:
    """Whether a server on this machine accepts connections at `port`."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """Mount a file system of its own in `folder`, which takes root on Linux."""
    options = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, timeout=60)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=60)


def fill(folder: Path) -> None:
    """Write a file into `folder` until its disk is full."""
    with suppress(OSError), (folder / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))


def new_server(folder: Path, archives: Path) -> Server:
    """A folder with the repository's configuration and a separate model store."""
    for name in ("config.properties", "log4j2.xml", "handler"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "tmp").symlink_to(short_folder(), target_is_directory=True)
    shutil.copytree(archives, folder / "model_store")
    ports = iter(free_ports(10))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAVA_HOME", "LOG_LOCATION", "MFLAGS")
        and not name.startswith(("TS_", "CATSDOGS_", "MAKE"))  # MAKE: if make runs the tests
    }
    for name in ("INFERENCE", "MANAGEMENT", "METRICS"):
        environment[f"TS_{name}_ADDRESS"] = f"http://127.0.0.1:{next(ports)}"
    for name in (
        "TS_GRPC_INFERENCE", "TS_GRPC_MANAGEMENT", "CATSDOGS", "CATSDOGS_METRICS",
        "CATSDOGS_EXPORTER", "CATSDOGS_WATCHER", "CATSDOGS_HTTP",
    ):  # fmt: skip
        environment[f"{name}_PORT"] = str(next(ports))
    environment |= {
        **SECRETS,
        # For TorchServe's extracted archives and the workers' sockets.
        "TMPDIR": str((folder / "tmp").resolve()),
        "TEMP": str((folder / "tmp").resolve()),
        # As in an activated environment.
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return Server(folder, environment)


def short_folder() -> Path:
    """A short temporary folder for this process: sockets' paths are limited to some 100 bytes."""
    folder = tempfile.mkdtemp(prefix="cd-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextmanager
def started(server: Server) -> Iterator[Server]:
    """`server`, running. Raises RuntimeError with the reason if it doesn't start."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def temporary_server(**environment: str) -> Iterator[Server]:
    """Servers of the released weights, for programs other than tests."""
    with tempfile.TemporaryDirectory() as folder:
        archive(REPOSITORY / "models/catsdogs.pt", None, Path(folder, "store/catsdogs.mar"))
        Path(folder, "server").mkdir()
        server = new_server(Path(folder, "server"), Path(folder, "store"))
        server.environment |= environment
        with started(server):
            yield server


def free_ports(count: int) -> list[int]:
    free: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            free.append(port)
        if len(free) == count:
            break
    return free


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.1)
