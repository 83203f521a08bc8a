"""A Docker engine, the image built on it, and containers of it.

`make image-test` runs these; elsewhere they are left out. They need a running engine, or root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from testing.repository import REPOSITORY
from testing.servers import wait_until

collect_ignore_glob = [] if "CATSDOGS_IMAGE_TEST" in os.environ else ["test_*.py"]

DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = os.environ.get("CATSDOGS_IMAGE", "catsdogs")
SECONDS_TO_START = 180  # it takes 15 if nothing else runs
HARDENED = [
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
    "--pids-limit", "500",
]  # fmt: skip


def docker(*arguments: str | Path, check: bool = True) -> str:
    """The standard output of `docker`. Fails the test if it fails."""
    done = subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def engine_runs() -> bool:
    found = shutil.which(DOCKER)
    return bool(found) and subprocess.run([DOCKER, "info"], capture_output=True).returncode == 0


@pytest.fixture(scope="session", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The running engine, or one started for these tests."""
    if engine_runs():
        yield
        return
    assert os.geteuid() == 0, "no Docker engine runs here, and only root can start one"
    if not shutil.which("dockerd"):
        subprocess.run(["apt-get", "install", "-y", "docker.io"], check=True)
    log = tmp_path_factory.mktemp("engine") / "dockerd.log"
    with log.open("w") as output:
        process = subprocess.Popen(["dockerd"], stdout=output, stderr=output)
    try:
        wait_until(lambda: engine_runs() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(60)
        subprocess.run(["ip", "link", "delete", "docker0"], check=False)


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """CATSDOGS_IMAGE, or an image that is built now."""
    if "CATSDOGS_IMAGE" not in os.environ:
        subprocess.run(["make", "image"], cwd=REPOSITORY, check=True)
    return IMAGE


@dataclass
class Container:
    name: str

    def inspect(self) -> dict[str, Any]:
        inspected: list[dict[str, Any]] = json.loads(docker("inspect", self.name))
        return inspected[0]

    def address(self, name: str = "gateway") -> str:
        """URL of the gateway on the engine's own network, without a proxy in between."""
        networks = self.inspect()["NetworkSettings"]["Networks"].values()
        (ip,) = [network["IPAddress"] for network in networks if network["IPAddress"]]
        return f"http://{ip}:{8002 if name == 'metrics' else 8000}"

    def run(self, *command: str) -> str:
        return docker("exec", self.name, *command)

    def logs(self) -> str:
        done = subprocess.run([DOCKER, "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect()["State"]
        return state

    def memory(self) -> float:
        """Megabytes that the kernel can't take back: with what lies in a /tmp in memory, without
        other files, whose pages count for whichever container was the first to read them.

        By the container's cgroup of version 2 or 1.
        """
        folder = "/sys/fs/cgroup/memory"
        program = (
            f"cat {folder}/memory.usage_in_bytes {folder}.current;"
            f"cat {folder}/memory.stat {folder}.stat"
        )
        used, *lines = self.run("sh", "-c", f"({program}) 2>/dev/null; true").splitlines()
        counters = dict(line.split() for line in lines)
        kinds = ("active_file", "inactive_file")
        files = sum(int(counters.get(f"total_{kind}", counters[kind])) for kind in kinds)
        return (int(used) - files) / 1e6

    def ready(self) -> bool:
        if not self.state()["Running"]:
            raise AssertionError(self.logs())
        try:
            return requests.get(f"{self.address()}/ready", timeout=10).status_code == 200
        except requests.RequestException:
            return False


@pytest.fixture
def start(image: str) -> Iterator[Callable[..., Container]]:
    """Start a container with options of `docker run`; all are removed at the end."""
    started: list[Container] = []

    def run(*options: str | Path, command: tuple[str, ...] = ()) -> Container:
        name = docker("run", "--detach", *options, image, *command).strip()
        started.append(Container(name))
        return started[-1]

    yield run
    for container in started:
        docker("rm", "--force", "--volumes", container.name)
