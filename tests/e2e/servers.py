"""Real servers on free ports, started by the commands of the README, for tests and benchmarks."""

from __future__ import annotations

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
import requests

from tests.conftest import REPOSITORY
from training.archive import archive

BIN = Path(sys.executable).parent
# What a launcher's environment may hold and no worker may see.
SECRETS = dict.fromkeys(
    ("AWS_SECRET_ACCESS_KEY", "SOME_API_KEY", "DATABASE_URL", "HF_TOKEN", "pgPassword"),
    "canary-secret",
)
# Below what kernels give to the clients' ends of connections, one of which would else take a port
# between its choice and its use.
PORTS = range(10_000, 32_768)


@dataclass
class Server:
    """A folder from which TorchServe and the gateway run, and where they listen."""

    folder: Path
    environment: dict[str, str]

    def address(self, name: str) -> str:
        """Of one of TorchServe's listeners, or of the "gateway" or "gateway_metrics"."""
        if name.startswith("gateway"):
            variable = name.upper().replace("GATEWAY", "CATSDOGS")
            return f"http://127.0.0.1:{self.environment[f'{variable}_PORT']}"
        return self.environment[f"TS_{name.upper()}_ADDRESS"]

    @property
    def predictions(self) -> str:
        return f"{self.address('gateway')}/predictions/catsdogs"

    @property
    def models(self) -> str:
        """Of the management API."""
        return f"{self.address('management')}/models"

    def register(self, archive: str, workers: int = 1) -> requests.Response:
        """Ask TorchServe to serve an archive of the model store."""
        options = {"url": archive, "initial_workers": str(workers)}
        return requests.post(self.models, params=options, timeout=200)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def serve(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, REPOSITORY / "tools/serve", *options)

    def start(self) -> str:
        """What is told once all is ready; RuntimeError with the reason when it doesn't start."""
        started = self.serve("--detach")
        if started.returncode:
            raise RuntimeError(started.stderr)
        return started.stdout

    def lines(self, log: str) -> list[dict[str, Any]]:
        """Of a log that is JSON throughout; without a last line that is still being written."""
        text = (self.folder / "logs" / log).read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def launcher(self) -> psutil.Process:
        state = json.loads((self.folder / "logs/serve.json").read_text())
        return psutil.Process(state["pid"])

    def processes(self) -> list[psutil.Process]:
        """The launcher, TorchServe's frontend and workers, and the gateway, as far as they run."""
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
        """Stop what was started here, and make sure that no process is left."""
        processes = self.processes()
        stopped = self.serve("--stop")
        _, alive = psutil.wait_procs(processes, timeout=20)
        for process in alive:
            process.kill()
        assert not alive, stopped.stderr


def new_server(folder: Path, archives: Path) -> Server:
    """A folder with the repository's configuration and a model store of its own."""
    for name in ("config.properties", "log4j2.xml", "handler"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "tmp").mkdir()
    shutil.copytree(archives, folder / "model_store")
    ports = iter(free_ports(10))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAVA_HOME", "LOG_LOCATION") and not name.startswith(("TS_", "CATSDOGS_"))
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
        # Archives that TorchServe extracts and the workers' sockets.
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        # An activated environment.
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return Server(folder, environment)


@contextmanager
def started(server: Server) -> Iterator[Server]:
    """`server` while it runs; RuntimeError with the reason when it doesn't start."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def temporary_server(**environment: str) -> Iterator[Server]:
    """Servers of the released weights, for a program that is no test."""
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
