"""Real servers on free ports, started by the commands of the README."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.peers.servers import free_ports
from tests.conftest import REPOSITORY
from training.archive import archive

BIN = Path(sys.executable).parent
# What a launcher's environment may hold and no worker may see.
SECRETS = dict.fromkeys(
    ("AWS_SECRET_ACCESS_KEY", "SOME_API_KEY", "DATABASE_URL", "HF_TOKEN", "pgPassword"),
    "canary-secret",
)


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

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def serve(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, REPOSITORY / "tools/serve", *options)

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
        """ "java", the frontend, or "caddy", the gateway."""
        return next(process for process in self.processes() if process.name() == name)

    def workers(self) -> list[psutil.Process]:
        return self.process("java").children()

    def stop(self) -> None:
        """Stop what was started here, and make sure that no process is left."""
        processes = self.processes()
        stopped = self.serve("--stop")
        _, alive = psutil.wait_procs(processes, timeout=5)
        for process in alive:
            process.kill()
        assert not alive, stopped.stderr


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the released weights as catsdogs.mar and, as version 2.0, catsdogs-2.0.mar."""
    folder = tmp_path_factory.mktemp("archives")
    for version, name in ((None, "catsdogs.mar"), ("2.0", "catsdogs-2.0.mar")):
        archive(REPOSITORY / "models/catsdogs.pt", version, folder / name)
    return folder


def new_server(folder: Path, archives: Path) -> Server:
    """A folder with the repository's configuration and a model store of its own."""
    for name in ("config.properties", "log4j2.xml", "handler"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "tmp").mkdir()
    shutil.copytree(archives, folder / "model_store")
    ports = iter(free_ports(11))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAVA_HOME", "LOG_LOCATION") and not name.startswith(("TS_", "CATSDOGS_"))
    }
    for name in ("INFERENCE", "MANAGEMENT", "METRICS"):
        environment[f"TS_{name}_ADDRESS"] = f"http://127.0.0.1:{next(ports)}"
    environment |= {
        "TS_GRPC_INFERENCE_PORT": str(next(ports)),
        "TS_GRPC_MANAGEMENT_PORT": str(next(ports)),
        "CATSDOGS_PORT": str(next(ports)),
        "CATSDOGS_METRICS_PORT": str(next(ports)),
        "CATSDOGS_EXPORTER_PORT": str(next(ports)),
        "CATSDOGS_CURRENT_PORT": str(next(ports)),
        "CATSDOGS_CANARY_PORT": str(next(ports)),
        "CATSDOGS_HTTP_PORT": str(next(ports)),
        **SECRETS,
        # Archives that TorchServe extracts and the workers' sockets.
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        # An activated environment.
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return Server(folder, environment)


@contextmanager
def temporary_server() -> Iterator[Server]:
    """Servers of the released weights, for a program that is no test; RuntimeError if they fail."""
    with tempfile.TemporaryDirectory() as folder:
        archive(REPOSITORY / "models/catsdogs.pt", None, Path(folder, "store/catsdogs.mar"))
        Path(folder, "server").mkdir()
        server = new_server(Path(folder, "server"), Path(folder, "store"))
        try:
            started = server.serve("--detach")
            if started.returncode:
                raise RuntimeError(started.stderr)
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def server(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Servers for all tests that don't stop them."""
    server = new_server(tmp_path_factory.mktemp("server"), archives)
    try:
        started = server.serve("--detach")
        assert started.returncode == 0, started.stderr
        yield server
    finally:
        server.stop()


@pytest.fixture
def own_server(archives: Path, tmp_path: Path) -> Iterator[Server]:
    """One, not yet started, to stop and to break; with one worker, it starts sooner."""
    server = new_server(tmp_path, archives)
    server.environment["TS_DEFAULT_WORKERS_PER_MODEL"] = "1"
    yield server
    server.stop()


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.1)
