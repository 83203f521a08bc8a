"""Access: the gateway's routes, the management API's archives, workers' environment."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
from urllib.parse import urlsplit

import pytest
import requests

from testing.load import CAT
from testing.servers import SECRETS, Server
from tools.server.management import Refused


def ask(server: Server, method: str, target: str, **headers: str) -> tuple[int, str, bytes]:
    """The gateway's status, content type and body for an unmodified target."""
    address = urlsplit(server.address("gateway"))
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    connection.putrequest(method, target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    try:
        response = connection.getresponse()
        return response.status, response.headers.get("Content-Type", ""), response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "target",
    [
        "/models", "//models", "/.//models", "/models/catsdogs", "/%2e%2e/models", "/%6dodels",
        "/models%2Fcatsdogs", "/predict/../models", "/predictions/catsdogs/../../models",
        "/predictions/catsdogs/%2e%2e/%2e%2e/models", "/predictions/catsdogs%2f..%2f..%2fmodels",
        "/predictions/catsdogs/..;/models", "/predictions/catsdogs/1.1/models",
        "/model/info/../../models", "/models\\..", "/%00models", "/predictions/other",
        "/predictions/catsdogs/../other", "/explanations/catsdogs", "/ping", "/workflows",
        "/wfpredict/x", "/metrics", "/token", "/api-description", "/v1/models/catsdogs",
        "/v2/models/catsdogs/infer", "/invocations", "/PREDICT", "/logs/photos.log", "*",
        "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
        "http://127.0.0.1:8081/models", "http://management/models?url=x",
    ],
)  # fmt: skip
def test_nothing_else_of_torchserve_is_behind_the_gateway(server: Server, target: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT"):
        status, content_type, body = ask(server, method, target)
        assert content_type == "application/json", (method, body)
        assert json.loads(body)["code"] == status
        # For nginx, a target that is no path, such as *, and unknown methods are malformed.
        assert status == 404 or (status in (400, 405) and answers_by_itself(method, target))


def answers_by_itself(method: str, target: str) -> bool:
    return method == "CONNECT" or target == "*" or any(part in target for part in ("%", ".."))


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:8081"},
        {"Host": "management", "X_Forwarded_Host": "127.0.0.1:8081"},
        {"X_Original_URL": "/models", "X_Rewrite_URL": "/models", "X_Forwarded_Prefix": "/models"},
        {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2_Settings": "AAMAAABk"},
        {"X_HTTP_Method_Override": "DELETE"},
    ],
)
def test_no_header_leads_elsewhere(server: Server, headers: dict[str, str]) -> None:
    assert ask(server, "GET", "/models", **headers)[0] == 404
    status, _, body = ask(server, "GET", "/health", **headers)
    assert (status, json.loads(body)) == (200, {"status": "Healthy"})


@pytest.mark.parametrize(
    ("paths", "methods"),
    [
        (("/", "/health", "/ready", "/model/info"), ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")),
        (
            ("/predict", "/predictions/catsdogs", "/predictions/catsdogs/1.1"),
            ("GET", "HEAD", "PATCH", "DELETE", "OPTIONS", "TRACE"),
        ),
    ],
)
def test_other_methods_get_a_405(
    server: Server, paths: tuple[str, ...], methods: tuple[str, ...]
) -> None:
    for path in paths:
        for method in methods:
            status, content_type, _ = ask(server, method, path)
            assert (status, content_type) == (405, "application/json"), (method, path)


@pytest.mark.parametrize(
    "url",
    [
        "file://{outside}", "FILE://{outside}", "file:{outside}", "{outside}",
        "file:///nonexistent/%2e%2e{outside}", "file:///nonexistent/..{outside}",
        "http://127.0.0.1:9/outside.mar", "https://127.0.0.1:9/outside.mar",
        "ftp://127.0.0.1:9/outside.mar", "s3://bucket/outside.mar", "\\\\host\\outside.mar",
        "../outside.mar", "..%2foutside.mar", "x/../../outside.mar", "outside.mar", "", ".", "/",
    ],
)  # fmt: skip
def test_only_archives_of_the_store_are_registered(server: Server, url: str) -> None:
    outside = server.folder / "outside.mar"
    shutil.copy(server.folder / "model_store/catsdogs-3.0.mar", outside)
    stored = sorted((server.folder / "model_store").iterdir())
    with pytest.raises(Refused) as refused:
        server.management.register(url.format(outside=outside), workers=0)
    assert refused.value.status in (404, 500)
    registered = server.management.ask("GET", "")["models"]
    assert {model["modelName"] for model in registered} == {"catsdogs"}
    assert "3.0" not in server.management.versions()
    assert sorted((server.folder / "model_store").iterdir()) == stored


def test_what_the_store_links_to_counts_as_in_the_store(server: Server) -> None:
    # As SECURITY.md says: write access to the store decides which code runs.
    link = server.folder / "model_store/link.mar"
    outside = server.folder / "outside.mar"
    shutil.copy(server.folder / "model_store/catsdogs-3.0.mar", outside)
    link.symlink_to(outside)
    try:
        server.management.register("link.mar", workers=0)
        server.management.unregister("3.0")
        assert outside.exists()
    finally:
        link.unlink()


def test_workers_hold_no_secret_of_the_launcher(server: Server) -> None:
    assert server.process("java").environ().items() >= SECRETS.items()
    workers = server.workers()
    assert workers
    for worker in workers:
        environment = worker.environ()
        assert "canary-secret" not in environment.values()
        assert {"PATH", "TMPDIR", "PYTHONPATH"} <= environment.keys()


@pytest.mark.slow
def test_a_container_takes_the_model_api_away(own_server: Server) -> None:
    own_server.environment["TS_ENABLE_MODEL_API"] = "false"
    own_server.start()
    management = own_server.management
    for change in (lambda: management.register("catsdogs-3.0.mar"), management.unregister):
        with pytest.raises(Refused) as refused:
            change()
        assert refused.value.status == 405
    assert requests.put(own_server.predictions, data=CAT, timeout=30).status_code == 200


@pytest.mark.parametrize("query", ["?x", "?customized=false", f"?{'a' * 5000}", "?name[]=none"])
def test_a_query_changes_no_status_answer_for_anybody(server: Server, query: str) -> None:
    """The cached answers are everybody's, and the watcher's metrics are not public."""
    for path in ("/ready", "/health", "/model/info"):
        for asked in (query, ""):
            status, kind, body = ask(server, "GET", path + asked)
            assert (status, kind) == (200, "application/json"), path
            assert b"gateway_requests_total" not in body
            if path == "/model/info":
                assert json.loads(body)[0]["customizedMetadata"]["classes"]
        time.sleep(1.1)  # past the cache
    metrics = server.address("gateway_metrics")
    for path in ("/ready", "/metrics", "/metrics/gateway", "/metrics/workers"):
        plain, queried = (requests.get(f"{metrics}{path}{end}", timeout=30) for end in ("", query))
        assert queried.status_code == 200
        names = [set(re.findall(r"^\w+", answer.text, re.M)) for answer in (plain, queried)]
        assert names[0] <= names[1]
