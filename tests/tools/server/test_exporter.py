"""What the exporter makes of two scrapes; tests/e2e/test_metrics.py has it beside TorchServe."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import requests
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from testing.servers import free_ports
from tools.server import exporter
from tools.server.settings import NotServed

# Two versions, one of which has lost a worker; and a process that ended before it was measured.
SCRAPE = """\
# HELP torchserve_queue_pending Requests in the queue.
# TYPE torchserve_queue_pending gauge
torchserve_queue_pending{model_version="1.1"} 2.0
torchserve_queue_pending{model_version="3.0"} 2.0
# HELP torchserve_queue_capacity Requests the queue can hold.
# TYPE torchserve_queue_capacity gauge
torchserve_queue_capacity{model_version="1.1"} 2000.0
torchserve_queue_capacity{model_version="3.0"} 2000.0
# HELP torchserve_workers_ready Workers that are ready.
# TYPE torchserve_workers_ready gauge
torchserve_workers_ready{model_version="1.1"} 1.0
torchserve_workers_ready{model_version="3.0"} 0.0
# HELP torchserve_workers Configured workers.
# TYPE torchserve_workers gauge
torchserve_workers{model_version="1.1"} 1.0
torchserve_workers{model_version="3.0"} 1.0
# HELP torchserve_worker_restarts_total Workers restarted after they died.
# TYPE torchserve_worker_restarts_total counter
torchserve_worker_restarts_total{model_version="1.1"} 0.0
torchserve_worker_restarts_total{model_version="3.0"} 0.0
# HELP torchserve_process_resident_memory_bytes Resident memory.
# TYPE torchserve_process_resident_memory_bytes gauge
torchserve_process_resident_memory_bytes{process="frontend"} 5e+06
# HELP torchserve_process_cpu_seconds_total CPU time used.
# TYPE torchserve_process_cpu_seconds_total counter
torchserve_process_cpu_seconds_total{process="frontend"} 3.5
"""


class StandIn:
    """A process, which may have ended."""

    def __init__(self, has_ended: bool) -> None:
        self.has_ended = has_ended

    def cpu_times(self) -> Any:
        if self.has_ended:
            raise psutil.NoSuchProcess(1)
        return SimpleNamespace(user=2.5, system=1.0)

    def memory_info(self) -> Any:
        return SimpleNamespace(rss=5_000_000)


def version(pid: int, name: str = "1.1") -> list[dict[str, Any]]:
    worker = {"id": "9000", "pid": pid, "status": "READY" if pid > 0 else "UNLOADING"}
    queue = {"pendingRequests": 2, "remainingCapacity": 1998}
    return [{"modelVersion": name, "workers": [worker], "jobQueueStatus": queue}]


def scrape(collector: exporter.TorchServeCollector) -> str:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry).decode()


def test_a_worker_that_is_gone_for_a_scrape_and_back_is_one_restart() -> None:
    pids = iter((10, -1, 11, 11))
    collector = exporter.TorchServeCollector(lambda: version(next(pids)), dict)
    for expected in (0, 0, 1, 1):
        collector.asked = float("-inf")
        restarts = f'torchserve_worker_restarts_total{{model_version="1.1"}} {expected}.0'
        assert restarts in scrape(collector)


def test_a_scrape_has_each_version_and_the_processes_that_run() -> None:
    processes: dict[str, Any] = {"worker 1": StandIn(True), "frontend": StandIn(False)}
    collector = exporter.TorchServeCollector(
        lambda: version(10) + version(-1, "3.0"), lambda: processes
    )
    assert scrape(collector) == SCRAPE


def test_torchserve_is_asked_at_most_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    asked: list[float] = []

    def versions() -> list[dict[str, Any]]:
        asked.append(clock.now)
        return version(10)

    monkeypatch.setattr(exporter, "time", SimpleNamespace(monotonic=lambda: clock.now))
    collector = exporter.TorchServeCollector(versions, dict)
    for clock.now in (0.5, 2.4, 2.5, 4.4, 4.6):
        list(collector.collect())
    assert asked == [0.5, 2.5, 4.6]


def test_scrapes_are_answered_on_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(
        exporter, "start_http_server", lambda *given: started.append(start_http_server(*given))
    )
    (port,) = free_ports(1)
    monkeypatch.setenv("CATSDOGS_EXPORTER_PORT", str(port))
    exporter.start_exporter(lambda: version(10), lambda: {"frontend": StandIn(False)})
    ((server, thread),) = started
    try:
        assert server.server_address == ("127.0.0.1", port)
        text = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        assert 'torchserve_workers_ready{model_version="1.1"} 1.0' in text
        assert 'torchserve_process_resident_memory_bytes{process="frontend"} 5e+06' in text
        assert "python_info" not in text  # which is of this process
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("CATSDOGS_EXPORTER_PORT", str(port))
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(NotServed, match=f"port {port} is not free .*CATSDOGS_EXPORTER_PORT"),
    ):
        exporter.start_exporter(list, dict)
