"""What the exporter makes of two scrapes; tests/e2e/test_metrics.py has it beside TorchServe."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from tools.server import exporter


def version(pid: int) -> list[dict[str, Any]]:
    worker = {"id": "9000", "pid": pid, "status": "READY" if pid > 0 else "UNLOADING"}
    queue = {"pendingRequests": 2, "remainingCapacity": 1998}
    return [{"modelVersion": "1.1", "workers": [worker], "jobQueueStatus": queue}]


def test_a_worker_that_is_gone_for_a_scrape_and_back_is_one_restart() -> None:
    pids = iter((10, -1, 11, 11))
    collector = exporter.TorchServeCollector(lambda: version(next(pids)), dict)
    registry = CollectorRegistry()
    registry.register(collector)
    for expected in (0, 0, 1, 1):
        collector.asked = float("-inf")
        output = generate_latest(registry).decode()
        assert f'torchserve_worker_restarts_total{{model_version="1.1"}} {expected}.0' in output
    assert "# HELP torchserve_workers Configured workers.\n" in output
    assert 'torchserve_queue_capacity{model_version="1.1"} 2000.0' in output
