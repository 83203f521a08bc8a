"""A canary gets a share of the requests that name no version."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from contextlib import ExitStack

import pytest
import requests

from testing.abuse import HEAD, connect
from testing.load import CAT
from testing.repository import VERSION
from testing.servers import Server, wait_until


def serve_canary(server: Server, percent: str = "25") -> str:
    """The gateway's address."""
    server.environment |= {"CATSDOGS_CANARY": percent, "CATSDOGS_CANARY_VERSION": "3.0"}
    assert "catsdogs 3.0 is served by 1 worker" in server.start()
    return server.address("gateway")


def answering(url: str, number: int) -> Counter[str]:
    """How often each version answered; each request's id is its number."""
    answers = [
        requests.post(
            url, data=CAT, timeout=30,
            headers={"Accept": "application/json", "X-Request-Id": str(request)},
        )
        for request in range(number)
    ]  # fmt: skip
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers]
    return Counter(answer.json()["model_version"] for answer in answers)


def what_the_gateway_promises_holds(server: Server, door: str) -> None:
    name = {"X-Request-Id": f"mine-{uuid.uuid4()}"}
    cut = requests.post(f"{door}/predict", data=CAT[:-500], headers=name, timeout=30)
    assert cut.status_code == cut.json()["code"] == 400
    assert cut.headers["X-Request-Id"] == name["X-Request-Id"]
    assert cut.headers["Cache-Control"] == "no-store"
    large = requests.post(f"{door}/predict", data=CAT + bytes(600_000), timeout=30)
    assert large.status_code == 200
    too_large = requests.post(f"{door}/predict", data=bytes(13 * 2**20), timeout=30)
    assert too_large.status_code == 413
    wait_until(
        lambda: name["X-Request-Id"] in [line["request_id"] for line in server.lines("photos.log")]
    )


@pytest.mark.slow
def test_its_share_goes_to_the_canary_while_that_lives(own_server: Server) -> None:
    door = serve_canary(own_server)
    shared = answering(f"{door}/predict", 60)
    assert 5 <= shared["3.0"] <= 25  # 15 expected
    for path in ("/predictions/catsdogs", "/explain"):
        assert answering(door + path, 8) == answering(f"{door}/predict", 8)
    for version in (VERSION, "3.0"):
        assert answering(f"{door}/predictions/catsdogs/{version}", 8) == {version: 8}
    for _ in range(4):  # on both paths
        what_the_gateway_promises_holds(own_server, door)

    # Another percentage is another configuration.
    own_server.environment["CATSDOGS_CANARY"] = "50"
    other = own_server.serve("--detach")
    assert other.returncode == 2
    assert "with another CATSDOGS_CANARY; stop it first (make stop)" in other.stderr

    own_server.management.unregister("3.0")

    # The other version answers the same request.
    assert answering(f"{door}/predict", 60) == {VERSION: 60}
    metrics = f"{own_server.address('gateway_metrics')}/metrics/gateway"
    failed = f"gateway_canary_failures_total {shared['3.0']}.0"
    wait_until(lambda: failed in requests.get(metrics, timeout=30).text)


@pytest.mark.slow
def test_with_a_canary_an_address_has_its_share_and_errors_are_json(own_server: Server) -> None:
    own_server.environment["CATSDOGS_CLIENT_LIMIT"] = "on"
    door = serve_canary(own_server, "50")
    with ExitStack() as clients:
        for _ in range(80):
            client = clients.enter_context(connect(own_server))
            client.sendall(HEAD + b"Content-Length: 100000\r\n\r\nx")
        time.sleep(1)
        for number in range(8):  # on both paths
            name = {"X-Request-Id": str(number)}
            refused = requests.post(f"{door}/predict", data=CAT, headers=name, timeout=30)
            assert refused.status_code == refused.json()["code"] == 503
            assert refused.headers["Retry-After"] == "1"

    wait_until(lambda: requests.post(f"{door}/predict", data=CAT, timeout=30).ok)
    own_server.management.unregister("3.0")
    for number in range(8):
        name = {"X-Request-Id": str(number)}
        cut = requests.post(f"{door}/predict", data=CAT[:-500], headers=name, timeout=30)
        assert cut.status_code == cut.json()["code"] == 400
        assert "truncated" in cut.json()["message"]
    own_server.management.unregister(VERSION)
    for number in range(8):
        name = {"X-Request-Id": str(number)}
        lost = requests.post(f"{door}/predict", data=CAT, headers=name, timeout=30)
        assert lost.status_code == lost.json()["code"] == 503


@pytest.mark.parametrize(
    ("percent", "version", "message"),
    [
        ("10", "", "set both, a percentage from 1 to 99 and a version"),
        ("", "3.0", "set both"),
        ("0", "3.0", "set both"),
        ("100", "3.0", "set both"),
        ("10", "../3.0", "set both"),
        ("10", "4.0", "model_store/catsdogs-4.0.mar is missing"),
    ],
)
def test_a_canary_that_can_not_be_is_refused_before_anything_starts(
    own_server: Server, percent: str, version: str, message: str
) -> None:
    own_server.environment |= {"CATSDOGS_CANARY": percent, "CATSDOGS_CANARY_VERSION": version}
    started = own_server.serve("--detach")
    assert started.returncode == 2
    assert message in started.stderr
    assert "Traceback" not in started.stderr
