"""Prometheus metrics that TorchServe itself lacks: its queue, workers and restarts.

tools/serve runs this exporter, and the gateway serves it as /metrics/workers. A scrape asks the
management API, at most every 2 s.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tools.server.settings import NotServed, given

Versions = Callable[[], list[dict[str, Any]]]  # descriptions from the management API
Processes = Callable[[], dict[str, psutil.Process]]  # by name

SECONDS_BETWEEN = 2


def start_exporter(versions: Versions, processes: Processes) -> None:
    """Start to answer scrapes, in a thread. Raises NotServed if the port is taken."""
    port = int(given("CATSDOGS_EXPORTER_PORT"))
    registry = CollectorRegistry()
    registry.register(TorchServeCollector(versions, processes))
    try:
        start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise NotServed(
            f"port {port} is not free ({error.strerror}); set CATSDOGS_EXPORTER_PORT"
        ) from error


class TorchServeCollector(Collector):
    """Detects restarts by process ID, so two restarts between two scrapes count as one."""

    def __init__(self, versions: Versions, processes: Processes) -> None:
        self.versions, self.processes = versions, processes
        self.lock = threading.Lock()  # each scrape has a thread
        self.pids: dict[tuple[str, str], int] = {}  # by version and worker
        self.restarts: Counter[str] = Counter()  # by version
        self.asked = -float(SECONDS_BETWEEN)
        self.metrics: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        with self.lock:
            if time.monotonic() - self.asked >= SECONDS_BETWEEN:
                self.metrics = list(self.measure())
                self.asked = time.monotonic()
            return self.metrics

    def measure(self) -> Iterator[Metric]:
        versions = self.versions()
        self.count_restarts(versions)
        yield from queues(versions)
        yield from workers(versions, self.restarts)
        yield from processes(self.processes())

    def count_restarts(self, versions: list[dict[str, Any]]) -> None:
        for version in versions:
            for worker in version["workers"]:
                key = (version["modelVersion"], worker["id"])
                before, now = self.pids.get(key, 0), worker["pid"]
                self.restarts[key[0]] += 0 < before != now > 0
                # -1 means that there is no process now; keep the last one for the next scrape.
                self.pids[key] = now if now > 0 else before


def queues(versions: list[dict[str, Any]]) -> Iterator[Metric]:
    label = ["model_version"]
    pending = GaugeMetricFamily("torchserve_queue_pending", "Requests in the queue.", labels=label)
    room = GaugeMetricFamily(
        "torchserve_queue_capacity", "Requests the queue can hold.", labels=label
    )
    for version in versions:
        queue = version["jobQueueStatus"]
        pending.add_metric([version["modelVersion"]], queue["pendingRequests"])
        both = queue["pendingRequests"] + queue["remainingCapacity"]
        room.add_metric([version["modelVersion"]], both)
    yield from (pending, room)


def workers(versions: list[dict[str, Any]], counted: Counter[str]) -> Iterator[Metric]:
    label = ["model_version"]
    ready = GaugeMetricFamily("torchserve_workers_ready", "Workers that are ready.", labels=label)
    wanted = GaugeMetricFamily("torchserve_workers", "Configured workers.", labels=label)
    restarts = CounterMetricFamily(
        "torchserve_worker_restarts_total", "Workers restarted after they died.", labels=label
    )
    for version in versions:
        name = version["modelVersion"]
        states = [worker["status"] for worker in version["workers"]]
        ready.add_metric([name], states.count("READY"))
        wanted.add_metric([name], len(states))
        restarts.add_metric([name], counted[name])
    yield from (ready, wanted, restarts)


def processes(running: dict[str, psutil.Process]) -> Iterator[Metric]:
    memory = GaugeMetricFamily(
        "torchserve_process_resident_memory_bytes", "Resident memory.", labels=["process"]
    )
    seconds = CounterMetricFamily(
        "torchserve_process_cpu_seconds_total", "CPU time used.", labels=["process"]
    )
    for name, process in running.items():
        try:
            times = process.cpu_times()
            memory.add_metric([name], process.memory_info().rss)
            seconds.add_metric([name], times.user + times.system)
        except psutil.Error:  # it has just ended
            continue
    yield from (memory, seconds)
