"""The gateway: routing, its own answers, and behaviour under overload."""

from __future__ import annotations

import io
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image

from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.load import CAT
from testing.repository import CLASSES
from testing.servers import Server, wait_until

OVER = f"over {MAX_UPLOAD_BYTES // 2**20} MiB"


@pytest.fixture
def door(server: Server) -> str:
    return server.address("gateway")


def error(response: requests.Response, status: int) -> str:
    """The message of an error, after checking its format."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert "X-Request-Id" in response.headers
    body = response.json()
    assert body["code"] == status
    assert body["type"].endswith("Exception")
    return str(body["message"])


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predict", "/predictions/catsdogs"])
def test_a_photo_is_answered(door: str, path: str, method: str) -> None:
    response = requests.request(method, door + path, data=CAT, timeout=30)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["label"] in CLASSES


def test_what_curl_calls_a_form_is_still_a_photo(door: str) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    response = requests.post(f"{door}/predict", data=CAT, headers=kind, timeout=30)
    assert response.json()["label"] in CLASSES


def test_a_query_and_headers_of_torchserves_commands_change_no_answer(door: str) -> None:
    headers = {"describe": "True", "explain": "True", "url_path": "x"}
    options = "?describe=True&explain=True&url_path=x&note=hello"
    plain = requests.post(f"{door}/predict", data=CAT, timeout=30)
    response = requests.post(f"{door}/predict{options}", data=CAT, headers=headers, timeout=30)
    assert response.json() == plain.json()
    empty = requests.post(f"{door}/predict{options}", data=b"", headers=headers, timeout=30)
    assert "empty" in error(empty, 400)


def test_each_endpoint_of_the_list_is_there(door: str) -> None:
    listed = requests.get(door, headers={"Accept": "application/json"}, timeout=30)
    assert {line.split()[1] for line in listed.json()} == {
        "/predict", "/predictions/catsdogs[/VERSION]", "/explain", "/model/info", "/ready",
        "/health",
    }  # fmt: skip
    assert requests.get(f"{door}/health", timeout=30).json() == {"status": "Healthy"}
    assert requests.get(f"{door}/ready", timeout=30).json()["label"] in CLASSES
    (model,) = requests.get(f"{door}/model/info", timeout=30).json()
    assert model["modelName"] == "catsdogs"
    assert model["customizedMetadata"]["figures"]


def test_anything_else_is_a_404_or_405_in_json(door: str) -> None:
    for path in ("/models", "/predictions/other", "/predict/", "/explanations/catsdogs", "/ping"):
        assert "GET / lists" in error(requests.get(door + path, timeout=30), 404)
    for method, path in (
        ("GET", "/predict"), ("DELETE", "/predict"), ("POST", "/ready"), ("PUT", "/model/info"),
        ("DELETE", "/health"), ("POST", "/"), ("GET", "/explain"), ("PUT", "/page.js"),
    ):  # fmt: skip
        refused = requests.request(method, door + path, timeout=30)
        error(refused, 405)
        photos = path in ("/predict", "/explain")
        assert refused.headers["Allow"] == ("POST, PUT" if photos else "GET, HEAD")


def test_the_root_is_a_page_for_browsers_and_a_list_for_programs(door: str) -> None:
    for accept in ("*/*", "text/html,application/xhtml+xml,*/*;q=0.8"):
        page = requests.get(door, headers={"Accept": accept}, timeout=30)
        assert page.headers["Content-Type"].startswith("text/html")
    for path in ("/examples/", "/examples/other.jpg", "/../nginx.conf", "/page.js/", "/index.html"):
        error(requests.get(door + path, timeout=30), 404)


def test_an_explanation_is_a_picture_or_the_answer_with_a_map(door: str) -> None:
    drawn = requests.post(f"{door}/explain", data=CAT, timeout=60)
    assert drawn.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(drawn.content)).size == (448, 336)  # its middle, at 4:3
    json_accepted = {"Accept": "application/json"}
    answer = requests.post(f"{door}/explain", data=CAT, headers=json_accepted, timeout=60).json()
    assert len(answer.pop("map")) == 28
    assert answer == requests.post(f"{door}/predict", data=CAT, timeout=30).json()
    assert "truncated" in error(requests.post(f"{door}/explain", data=CAT[:-500], timeout=60), 400)


@pytest.mark.parametrize("nameless", ["", " ", ",", ":=;", "\x08", "\x1b"])
def test_a_form_without_a_file_is_the_clients_fault(door: str, nameless: str) -> None:
    """TorchServe 0.12 would return 500 for most of these names."""
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n0\r\n'
        for name in (nameless, "a")
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    response = requests.post(f"{door}/predict", data=f"{parts}--x--\r\n", headers=kind, timeout=30)
    assert "form" in error(response, 400)


def test_metrics_have_a_listener_of_their_own(server: Server, door: str) -> None:
    error(requests.get(f"{door}/metrics", timeout=30), 404)
    listener = server.address("gateway_metrics")
    assert "prediction_requests_total" in requests.get(f"{listener}/metrics", timeout=30).text
    assert "gateway_requests_total" in requests.get(f"{listener}/metrics/gateway", timeout=30).text
    error(requests.get(f"{listener}/models", timeout=30), 404)


def test_a_request_keeps_its_id_and_gets_one_where_it_has_none_worth_keeping(door: str) -> None:
    def id_of(sent: str | None, path: str = "/predict") -> str:
        headers = {} if sent is None else {"X-Request-Id": sent}
        response = requests.put(door + path, data=CAT, headers=headers, timeout=30)
        return response.headers["X-Request-Id"]

    assert id_of("order-66.a") == "order-66.a"
    assert id_of("order-67", "/nothing") == "order-67"
    for worthless in (None, "", "a b", "x" * 129, 'a","code":200,"x":"'):
        made = id_of(worthless)
        assert len(made) == 36
        assert made != id_of(worthless)


def test_answers_carry_nothing_of_the_servers_and_what_protects_a_browser(door: str) -> None:
    for path in ("/", "/page.js", "/ready", "/nothing"):
        headers = requests.get(door + path, timeout=30).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        of_page = path in ("/", "/page.js")
        assert headers["Cache-Control"] == ("no-cache" if of_page else "no-store")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert not {"Via", "Pragma", "Expires"} & headers.keys()
        assert headers["Server"] == "nginx"  # nginx can't omit it; no version


def test_a_body_of_the_limit_passes_and_one_byte_more_does_not(door: str) -> None:
    padded = CAT + bytes(MAX_UPLOAD_BYTES - len(CAT))  # a JPEG ends at its end mark
    assert requests.put(f"{door}/predict", data=padded, timeout=60).json()["label"] in CLASSES
    over = requests.put(f"{door}/predict", data=padded + b"x", timeout=60)
    assert OVER in error(over, 413)
    chunked = requests.put(f"{door}/predict", data=io.BytesIO(padded + b"x").__iter__(), timeout=60)
    assert OVER in error(chunked, 413)


def test_a_compressed_body_is_refused_as_such(door: str) -> None:
    packed = {"Content-Encoding": "gzip"}
    response = requests.post(f"{door}/predict", data=CAT, headers=packed, timeout=30)
    assert "compressed" in error(response, 415)


def test_more_than_there_is_place_for_is_refused_in_json_and_the_rest_answered(door: str) -> None:
    """Each on its own connection, far more than TorchServe queues at a time."""

    def ask(_: int) -> requests.Response:
        return requests.put(f"{door}/predict", data=CAT, timeout=60)

    with ThreadPoolExecutor(200) as pool:
        responses = list(pool.map(ask, range(200)))
    statuses = Counter(response.status_code for response in responses)
    assert statuses[200] > 0
    assert statuses.keys() <= {200, 503}
    for response in responses:
        if response.status_code == 503:
            assert "try again" in error(response, 503)
            assert response.headers["Retry-After"] == "1"
    assert ask(0).status_code == 200


@pytest.mark.slow
def test_many_of_the_largest_bodies_cost_nobody_a_worker(server: Server, door: str) -> None:
    workers = server.workers()
    padded = CAT + bytes(MAX_UPLOAD_BYTES - len(CAT))

    def ask(_: int) -> int | None:
        try:
            return requests.put(f"{door}/predict", data=padded, timeout=60).status_code
        except requests.ConnectionError:  # closed while it was sending: refused
            return None

    with ThreadPoolExecutor(48) as pool:
        statuses = Counter(pool.map(ask, range(48)))
    assert statuses.keys() <= {200, 503, None}
    assert statuses[200] >= 4
    assert server.workers() == workers
    assert requests.put(f"{door}/predict", data=CAT, timeout=60).status_code == 200
    assert server.process("java").memory_info().rss < 600e6


def until_closed(door: str, start: bytes) -> tuple[float, bytes]:
    """Seconds until the gateway gives up a request after `start`, and its answer."""
    address = urlsplit(door)
    started = time.monotonic()
    with socket.create_connection((address.hostname, address.port), timeout=90) as connection:
        connection.sendall(start)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return time.monotonic() - started, answer


@pytest.mark.slow
def test_what_never_arrives_is_given_up_after_its_deadline(server: Server, door: str) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    starts = [
        head,
        head + b"Content-Length: 1000\r\n\r\nabc",
        head + b"Content-Length: 9000000\r\n\r\n" + bytes(2_000_000),
        head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ]
    with ThreadPoolExecutor(4) as pool:
        given_up = list(pool.map(lambda start: until_closed(door, start), starts))
        assert requests.put(f"{door}/predict", data=CAT, timeout=60).status_code == 200
    assert 4 < given_up[0][0] < 20  # 5 if nothing else runs
    assert all(9 < seconds < 30 for seconds, _ in given_up[1:])  # 10
    # nginx closes without an answer; its log says 408.
    assert {answer for _, answer in given_up} == {b""}
    wait_until(lambda: [line["status"] for line in server.lines("gateway.log")].count(408) >= 4)
