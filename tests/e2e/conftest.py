"""A real TorchServe on free ports, started by the commands of the README."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from benchmarks.peers.servers import free_ports
from tests.conftest import REPOSITORY
from training.archive import archive

BIN = Path(sys.executable).parent


@dataclass
class Server:
    """A folder from which TorchServe runs, and where it listens."""

    folder: Path
    environment: dict[str, str]

    def address(self, name: str) -> str:
        return self.environment[f"TS_{name.upper()}_ADDRESS"]

    @property
    def predictions(self) -> str:
        return f"{self.address('inference')}/predictions/catsdogs"

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def serve(self) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, REPOSITORY / "tools/serve")

    def stop(self) -> None:
        """Stop what was started here, and make sure that no process is left."""
        pid_file = Path(self.environment["TMPDIR"]) / ".model_server.pid"
        if not pid_file.exists():
            return
        try:
            frontend = psutil.Process(int(pid_file.read_text()))
            processes = [frontend, *frontend.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        self.run(BIN / "torchserve", "--stop", "--foreground")
        _, alive = psutil.wait_procs(processes, timeout=30)
        for process in alive:
            process.kill()
        assert not alive


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
    ports = iter(free_ports(5))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("JAVA_HOME", "LOG_LOCATION") and not name.startswith("TS_")
    }
    for name in ("INFERENCE", "MANAGEMENT", "METRICS"):
        environment[f"TS_{name}_ADDRESS"] = f"http://127.0.0.1:{next(ports)}"
    environment |= {
        "TS_GRPC_INFERENCE_PORT": str(next(ports)),
        "TS_GRPC_MANAGEMENT_PORT": str(next(ports)),
        # The launcher's pid file and the workers' sockets.
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        # An activated environment.
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return Server(folder, environment)


@pytest.fixture(scope="session")
def server(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that don't stop it, started as the README says."""
    server = new_server(tmp_path_factory.mktemp("server"), archives)
    with (server.folder / "launcher.log").open("w") as log:
        subprocess.run(
            ["torchserve", "--start", "--ncs", "--ts-config", "config.properties"],
            cwd=server.folder, env=server.environment, stdout=log, stderr=log, check=True,
        )  # fmt: skip
    try:
        waited = server.serve()
        assert waited.returncode == 0, waited.stderr
        yield server
    finally:
        server.stop()
