"""A real Prometheus beside real servers: the dashboard's queries, and an alert."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import needs
from tests.e2e.load import Load, is_whole
from tests.e2e.servers import Server, free_ports, wait_until
from tests.monitoring.test_dashboard import MONITORING, PANELS

pytestmark = [needs("prometheus"), pytest.mark.slow]


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
        """Of each series that has one."""
        found = self.get("query", query=expression)["result"]
        return [v for v in (float(row["value"][1]) for row in found) if not math.isnan(v)]

    def alerts(self) -> set[tuple[str, str]]:
        """Name and state of those that are pending or firing."""
        alerts = self.get("alerts")["alerts"]
        return {(alert["labels"]["alertname"], alert["state"]) for alert in alerts}


def configuration(server: Server, folder: Path) -> Path:
    """That of the repository, for this server, and quick."""
    shutil.copytree(MONITORING, folder)
    for file in folder.glob("*_rules.yml"):
        rules = yaml.safe_load(file.read_text())
        for group in rules["groups"]:
            group.pop("interval", None)
        file.write_text(yaml.safe_dump(rules))
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    target = server.address("gateway_metrics").removeprefix("http://")
    for job in config["scrape_configs"]:
        assert job["static_configs"] == [{"targets": ["127.0.0.1:8002"]}]
        job["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[Prometheus]:
    (port,) = free_ports(1)
    command = [
        "prometheus", f"--config.file={configuration(server, tmp_path / 'monitoring')}",
        f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_until(prometheus.is_ready, 60)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def test_no_panel_of_the_dashboard_is_empty_and_no_alert_fires(
    server: Server, prometheus: Prometheus
) -> None:
    jobs = ("cats-dogs-classifier", "cats-dogs-gateway", "cats-dogs-workers")
    for job in jobs:
        wait_until(lambda job=job: prometheus.values(f'up{{job="{job}"}}') == [1])
    with Load(server, clients=4) as load:
        load.wait_for(60)
        for panel in PANELS:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "30s")
                wait_until(lambda expression=expression: prometheus.values(expression), 60)
    firing = {name for name, state in prometheus.alerts() if state == "firing"}
    assert not firing - {"PhotosDrifted", "ConfidenceDrifted", "ClassSharesShifted"}  # one cat


def test_the_alert_about_workers_is_pending_once_all_are_killed(
    server: Server, prometheus: Prometheus
) -> None:
    # Until the first scrape it can't know.
    wait_until(lambda: "NoWorkerReady" not in {name for name, _ in prometheus.alerts()})
    for worker in server.workers():
        worker.kill()
    wait_until(lambda: ("NoWorkerReady", "pending") in prometheus.alerts(), 30)
    wait_until(lambda: is_whole(server), 120)
    wait_until(lambda: not {name for name, _ in prometheus.alerts()} & {"NoWorkerReady"}, 30)
