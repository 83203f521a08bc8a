"""A real Prometheus for real servers."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from testing.repository import REPOSITORY
from testing.servers import Server, free_ports, wait_until

MONITORING = REPOSITORY / "monitoring"


class Prometheus:
    """Answers questions about what it has scraped."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get(self, path: str, **parameters: str) -> Any:
        url = f"{self.address}/api/v1/{path}"
        answer = requests.get(url, params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.address}/-/ready", timeout=5).ok
        except requests.RequestException:
            return False

    def values(self, expression: str) -> list[float]:
        """The value of each series."""
        found = self.get("query", query=expression)["result"]
        return [v for v in (float(row["value"][1]) for row in found) if not math.isnan(v)]

    def alerts(self) -> set[tuple[str, str]]:
        """Name and state of pending and firing alerts."""
        alerts = self.get("alerts")["alerts"]
        return {(alert["labels"]["alertname"], alert["state"]) for alert in alerts}


@contextmanager
def started_prometheus(server: Server, folder: Path, seconds: int = 1) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `server` every few seconds, after its first scrape."""
    (port,) = free_ports(1)
    command = [
        "prometheus", f"--config.file={configuration(server, folder / 'monitoring', seconds)}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(prometheus.is_ready, 60)
        wait_until(lambda: prometheus.values('up{job=~"cats-dogs-.*"}') == [1, 1, 1], 60)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def configuration(server: Server, folder: Path, seconds: int) -> Path:
    """The repository's configuration for this server, with short intervals."""
    shutil.copytree(MONITORING, folder)
    for file in folder.glob("*_rules.yml"):
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        file.write_text(yaml.safe_dump(rules))
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{seconds}s", "evaluation_interval": f"{seconds}s"}
    target = server.address("gateway_metrics").removeprefix("http://")
    for job in config["scrape_configs"]:
        assert job["static_configs"] == [{"targets": ["127.0.0.1:8002"]}]
        job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"
