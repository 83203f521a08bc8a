"""The metrics in Prometheus' format, after known requests."""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import requests
import yaml

from handler.drift_features import bin_of, drift_features
from handler.photo import decode_photo
from testing.load import CAT, is_whole
from testing.repository import CARD, REPOSITORY, VERSION
from testing.servers import Server, wait_until

MODEL = 'ModelName="catsdogs",Level="Model"'
DECLARED = yaml.safe_load((REPOSITORY / "handler/metrics.yaml").read_text())["model_metrics"]
HANDLER = tuple(row["name"] for kind in ("counter", "histogram") for row in DECLARED[kind])


def scrape(server: Server, path: str = "/metrics") -> dict[str, float]:
    """The value of each series, without the label for the host."""
    text = requests.get(f"{server.address('gateway_metrics')}{path}", timeout=30).text
    values: dict[str, float] = {}
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        kept = re.findall(r'(?!Hostname|hostname)\b\w+="[^"]*"', labels)
        values[f"{name}{{{','.join(kept)}}}"] = float(value)
    return values


def ask_a_known_mix(server: Server) -> list[dict[str, Any]]:
    """Metrics of four requests with photos, three of them cats, among other requests."""
    gateway = server.address("gateway")
    form = {"cat": ("1.jpg", CAT), "cut": ("2.jpg", CAT[:-500])}
    answers = [
        requests.put(f"{gateway}/predict", data=CAT, timeout=30),
        requests.post(f"{gateway}/predictions/catsdogs", data=CAT, timeout=30),
        requests.post(f"{gateway}/predict", files=form, timeout=30),
        requests.post(f"{gateway}/predict", data=b"%PDF-1.7", timeout=30),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 415]
    for path in ("/ready", "/ready", "/health", "/model/info"):
        assert requests.get(gateway + path, timeout=30).status_code == 200
    assert requests.get(f"{gateway}/predict", timeout=30).status_code == 405
    assert requests.post(f"{gateway}/nothing", data=CAT, timeout=30).status_code == 404
    return [answer.json() for answer in answers[:2]] + [answers[2].json()["photos"]["cat"]]


def expected_of_the_handler(cats: list[dict[str, Any]]) -> dict[str, float]:
    bins: Counter[str] = Counter()
    for cat in cats:
        for name, value in drift_features(decode_photo(CAT), (451, 300), cat["confidence"]).items():
            number = bin_of(value, CARD["reference"]["drift_features"][name]["edges"])
            bins[f'photo_quantity_total{{quantity="{name}",bin="{number}",{MODEL}}}'] += 1
    return {
        f"prediction_requests_total{{{MODEL}}}": 4,
        f"prediction_latency_seconds_count{{{MODEL}}}": 4,
        f"prediction_batches_total{{{MODEL}}}": 4,
        f"prediction_batched_photos_total{{{MODEL}}}": 3,
        f'predictions_by_class{{class_name="{cats[0]["label"]}",{MODEL}}}': 3,
        f'prediction_errors_total{{type="InvalidPhotoException",{MODEL}}}': 1,
        f'prediction_errors_total{{type="UnsupportedPhotoException",{MODEL}}}': 1,
        **bins,
    }


def settled(server: Server) -> dict[str, float]:
    """A scrape that includes all earlier requests: TorchServe counts with a delay."""
    scrapes = [scrape(server)]

    def nothing_came() -> bool:
        time.sleep(1)
        scrapes.append(scrape(server))
        before, after = (
            {name: value for name, value in seen.items() if name.startswith(HANDLER)}
            for seen in scrapes[-2:]
        )
        return before == after

    wait_until(nothing_came, 60)
    return scrapes[-1]


def test_every_metric_tells_what_was_asked(server: Server) -> None:
    before = settled(server)
    expected = expected_of_the_handler(ask_a_known_mix(server))

    def difference() -> dict[str, float]:
        """Changes of the handler's metrics, without durations."""
        changes = {name: value - before.get(name, 0) for name, value in scrape(server).items()}
        return {
            name: change
            for name, change in changes.items()
            if name.startswith(HANDLER) and change and not re.search("_bucket|_sum", name)
        }

    with suppress(AssertionError):
        wait_until(lambda: difference() == expected, 60)
    assert difference() == expected
    counters = {name for name in expected if "latency" not in name}
    assert counters <= before.keys()  # all were there from the start
    seconds = f"prediction_latency_seconds_sum{{{MODEL}}}"
    assert 0 < scrape(server)[seconds] - before.get(seconds, 0) < 60


@pytest.mark.parametrize(
    "metric", ["gateway_requests_total", "gateway_request_duration_seconds_count"]
)
def test_the_gateway_counts_each_request_by_route_and_status(server: Server, metric: str) -> None:
    def counts() -> Counter[tuple[str, str]]:
        """Without scrapes."""
        found: Counter[tuple[str, str]] = Counter()
        for name, value in scrape(server, "/metrics/gateway").items():
            if name.startswith(metric) and 'route="/metrics' not in name:
                code, route = re.findall(r'(?:code|route)="([^"]+)"', name)
                found[route, code] += int(value)
        return found

    before = counts()
    ask_a_known_mix(server)
    expected = {
        ("/predict", "200"): 2, ("/predictions", "200"): 1, ("/predict", "415"): 1,
        ("/predict", "405"): 1, ("other", "404"): 1, ("/ready", "200"): 2, ("/health", "200"): 1,
        ("/model/info", "200"): 1,
    }  # fmt: skip
    wait_until(lambda: counts() - before == expected)


def test_a_client_that_leaves_is_neither_an_error_nor_an_answer(server: Server) -> None:
    def left() -> float:
        name = 'gateway_requests_total{code="499",route="/explain"}'
        return scrape(server, "/metrics/gateway")[name]

    before = left()
    host, port = server.address("gateway").removeprefix("http://").split(":")
    workers = server.workers()
    try:
        for worker in workers:  # so that none answers first
            worker.suspend()
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /explain HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nwait")
        wait_until(lambda: left() == before + 1)
    finally:
        for worker in workers:
            worker.resume()


def test_an_upload_is_measured_until_it_is_answered(server: Server) -> None:
    def uploads() -> tuple[float, float]:
        values = scrape(server, "/metrics/gateway")
        return values["gateway_uploads{}"], values["gateway_upload_bytes{}"]

    wait_until(lambda: uploads() == (0, 0))
    size = 200_000  # nginx writes the first 64 kB into the file when the next byte comes
    host, port = server.address("gateway").removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        client.sendall(head.encode() + bytes(size - 1))
        wait_until(lambda: uploads()[0] == 1 and 0 < uploads()[1] < size)
        client.sendall(bytes(1))
        assert client.recv(9) == b"HTTP/1.1 "
        wait_until(lambda: uploads() == (0, 0))
    assert scrape(server, "/metrics/gateway")["gateway_upload_free_bytes{}"] > 0


def test_a_workers_death_is_counted_as_a_restart(server: Server) -> None:
    def metric(name: str) -> float:
        return scrape(server, "/metrics/workers")[f'torchserve_{name}{{model_version="{VERSION}"}}']

    wait_until(lambda: is_whole(server), 90)
    workers = len(server.workers())
    before = metric("worker_restarts_total")
    assert metric("workers_ready") == metric("workers") == workers
    assert metric("queue_pending") == 0
    assert metric("queue_capacity") == 2000
    server.workers()[0].kill()
    wait_until(lambda: metric("workers_ready") == workers - 1)
    wait_until(lambda: metric("worker_restarts_total") == before + 1, 90)
    wait_until(lambda: metric("workers_ready") == workers, 90)
    assert metric("workers") == workers


def test_memory_of_each_process_is_exported(server: Server) -> None:
    values = scrape(server, "/metrics/workers")
    names = {name for name in values if name.startswith("torchserve_process_resident")}
    expected = ["frontend", *(f"worker {n}" for n in range(1, len(server.workers()) + 1))]
    memory = "torchserve_process_resident_memory_bytes"
    assert names == {f'{memory}{{process="{process}"}}' for process in expected}
    assert all(values[name] > 50e6 for name in names)


@pytest.mark.parametrize("path", ["/", "/metrics/other", "/predict"])
def test_the_listener_for_metrics_has_nothing_else(server: Server, path: str) -> None:
    response = requests.get(f"{server.address('gateway_metrics')}{path}", timeout=30)
    assert response.status_code == response.json()["code"] == 404


@pytest.mark.parametrize("path", ["metrics", "metrics/gateway", "metrics/workers", "ready"])
def test_metrics_are_only_read(server: Server, path: str) -> None:
    answer = requests.post(f"{server.address('gateway_metrics')}/{path}", data=b"x", timeout=30)
    assert answer.status_code == answer.json()["code"] == 405
    assert answer.headers["Allow"] == "GET, HEAD"
