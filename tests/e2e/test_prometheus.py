"""A real Prometheus with real servers: the dashboard's queries, and an alert."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.load import Load, is_whole
from testing.servers import Server, wait_until
from tests.conftest import needs
from tests.e2e.prometheus import Prometheus, started_prometheus
from tests.monitoring.test_dashboard import PANELS

pytestmark = [needs("prometheus"), pytest.mark.slow]


@pytest.fixture
def prometheus(server: Server, tmp_path: Path) -> Iterator[Prometheus]:
    with started_prometheus(server, tmp_path) as prometheus:
        yield prometheus


def test_no_panel_of_the_dashboard_is_empty_and_no_alert_fires(
    server: Server, prometheus: Prometheus
) -> None:
    with Load(server, clients=4) as load:
        load.wait_for(60)
        for panel in PANELS:
            for target in panel["targets"]:
                expression = re.sub(r"\$(namespace|service)", "", target["expr"])
                expression = expression.replace("$__rate_interval", "30s")
                wait_until(lambda expression=expression: prometheus.values(expression), 60)
    firing = {name for name, state in prometheus.alerts() if state == "firing"}
    assert not firing - {"PhotosDrifted", "ConfidenceDrifted", "ClassSharesShifted"}  # one cat


def test_the_alert_about_workers_is_pending_once_all_are_killed(
    server: Server, prometheus: Prometheus
) -> None:
    # Before the first scrape, it has no data.
    wait_until(lambda: "NoWorkerReady" not in {name for name, _ in prometheus.alerts()})
    for worker in server.workers():
        worker.kill()
    wait_until(lambda: ("NoWorkerReady", "pending") in prometheus.alerts(), 30)
    wait_until(lambda: is_whole(server), 120)
    wait_until(lambda: not {name for name, _ in prometheus.alerts()} & {"NoWorkerReady"}, 30)
