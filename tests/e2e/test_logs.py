"""What logs contain of a request, and what they never contain."""

from __future__ import annotations

import io
import re
import uuid
from typing import Any

import pytest
import requests
from PIL import Image

from testing.load import CAT
from testing.repository import CLASSES
from testing.servers import Server, wait_until

# The pattern of a line of gateway.log.
GATEWAY_KEYS = {
    "time", "request_id", "method", "path", "status", "bytes_received", "bytes_sent", "seconds",
}  # fmt: skip


def lines_of(server: Server, request: str, number: int) -> list[dict[str, Any]]:
    """The lines of a request in photos.log, once there are `number`."""

    def found() -> list[dict[str, Any]]:
        return [line for line in server.lines("photos.log") if line["request_id"] == request]

    wait_until(lambda: len(found()) >= number)
    assert len(found()) == number
    return found()


def predict(server: Server, **options: Any) -> tuple[str, requests.Response]:
    """Send a request with our own X-Request-Id to the gateway; return id and answer."""
    request = f"test-{uuid.uuid4()}"
    headers = options.pop("headers", {}) | {"X-Request-Id": request}
    url = f"{server.address('gateway')}/predict"
    return request, requests.post(url, headers=headers, timeout=30, **options)


def test_an_answered_photo_has_a_line_that_is_json_alone(server: Server) -> None:
    request, response = predict(server, data=CAT)
    (line,) = lines_of(server, request, 1)
    assert line.pop("time").endswith("+00:00")
    assert 0 < line.pop("milliseconds") < 30_000
    assert line == {
        "request_id": request, "photo": 1, "status": 200, "bytes": len(CAT), "pixels": "451x300",
        **{name: response.json()[name] for name in ("label", "confidence", "certain")},
    }  # fmt: skip


def test_a_refused_photo_has_a_line_with_the_kind_of_error(server: Server) -> None:
    request, response = predict(server, data=CAT[:-500])
    (line,) = lines_of(server, request, 1)
    assert line["status"] == response.status_code == 400
    assert line["type"] == response.json()["type"]
    assert line["bytes"] == len(CAT) - 500
    assert not {"label", "confidence"} & line.keys()


def test_each_photo_of_a_form_has_a_line(server: Server) -> None:
    files = {"X-Request-Id": ("1.jpg", CAT), "two": ("2.jpg", CAT[:900])}
    request, _ = predict(server, files=files)
    good, bad = lines_of(server, request, 2)
    assert (good["status"], bad["status"]) == (200, 400)
    assert good["label"] in CLASSES
    assert (good["photo"], bad["photo"]) == (1, 2)


def test_without_the_gateway_torchserves_own_id_is_logged(server: Server) -> None:
    url = f"{server.address('inference')}/predictions/catsdogs"
    for headers in ({}, {"X-Request-Id": '"} not an id'}):
        response = requests.put(url, data=CAT, headers=headers, timeout=30)
        assert lines_of(server, response.headers["x-request-id"], 1)


def photo_with_canary() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(CAT)).save(buffer, "JPEG", comment=b"canary in the photo")
    return buffer.getvalue()


def test_photos_and_what_their_senders_call_them_are_in_no_log(server: Server) -> None:
    photo = photo_with_canary()
    headers = {
        "X-Canary": "canary", "User-Agent": "canary", "Cookie": "canary", "Referer": "canary",
        "X-Forwarded-For": "203.0.113.7", "Authorization": "Bearer canary",
    }  # fmt: skip
    for options in (
        {"data": photo},
        {"data": photo[:-500]},
        {"data": b"canary, no photo"},
        {"data": b"canary", "headers": {"Content-Type": "application/json"}},
        {"data": b"\xffcanary", "headers": {"Content-Type": "text/plain"}},
        {"json": {"data": "canary"}},
        {"json": {"canary": "canary"}},
        {"files": {"canary": ("canary.jpg", photo)}},
        {"files": {"canary": ("canary.jpg", photo), "canary2": ("canary2.jpg", photo[:900])}},
        {"files": {"canary": (None, "canary")}},
    ):
        options = {**options, "headers": headers | options.get("headers", {})}
        request, _ = predict(server, **options)
        lines_of(server, request, 2 if "canary2" in options.get("files", {}) else 1)
    logs = server.folder / "logs"
    for path in set(logs.rglob("*")) - set((logs / "uploads").rglob("*")):  # deleted in a moment
        if not path.is_file():
            continue
        content = path.read_bytes()
        for word in (b"canary", b"203.0.113.7"):
            assert word not in content, path


def gateway_line(server: Server, request: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in server.lines("gateway.log") if request == line["request_id"]]

    wait_until(found)
    return found()[-1]


def test_the_gateway_tells_what_was_asked_and_nothing_of_the_client(server: Server) -> None:
    url = f"{server.address('gateway')}/model/info?name=private"
    response = requests.get(url, timeout=30)
    line = gateway_line(server, response.headers["X-Request-Id"])
    assert line["status"] == 200
    assert 0 <= line["seconds"] < 30
    assert (line["method"], line["path"]) == ("GET", "/model/info")
    assert line.keys() == GATEWAY_KEYS


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT"])
def test_of_an_error_too_the_gateway_logs_the_clients_own_method(
    server: Server, method: str
) -> None:
    url = f"{server.address('gateway')}/ready"
    response = requests.request(method, url, data=b"x", timeout=30)
    assert response.status_code == 405
    assert gateway_line(server, response.headers["X-Request-Id"])["method"] == method


def test_an_unknown_path_which_may_be_a_files_name_is_not_logged(server: Server) -> None:
    # As `curl -T private-cat.jpg .../predict/` asks.
    url = f"{server.address('gateway')}/predict/private-cat-{uuid.uuid4()}.jpg"
    response = requests.put(url, data=CAT, timeout=30)
    assert response.status_code == 404
    assert gateway_line(server, response.headers["X-Request-Id"])["path"] == "other"


@pytest.mark.parametrize("given", ["", "known-id"])
def test_one_id_leads_from_the_answer_through_both_logs(server: Server, given: str) -> None:
    headers = {"X-Request-Id": f"{given}-{uuid.uuid4()}"} if given else {}
    url = f"{server.address('gateway')}/predict"
    response = requests.post(url, data=CAT, headers=headers, timeout=30)
    request = response.headers["X-Request-Id"]
    assert not given or headers["X-Request-Id"] == request
    assert lines_of(server, request, 1)[0]["label"] == response.json()["label"]
    wait_until(lambda: request in [row["request_id"] for row in server.lines("gateway.log")])


def test_torchserves_access_log_tells_no_address(server: Server) -> None:
    predict(server, data=CAT)
    log = server.folder / "logs/access.log"
    wait_until(lambda: '"POST /predictions/catsdogs HTTP/1.1" 200' in log.read_text())
    # A URL that a client names may have any address in it; the client's stands outside of quotes.
    assert "127.0.0.1" not in re.sub('".*"', "", log.read_text())
