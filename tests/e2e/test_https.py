"""A gateway with a certificate."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter, Retry

from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.abuse import HEAD, connect
from testing.load import CAT, Load
from testing.repository import CLASSES, REPOSITORY
from testing.servers import BIN, Server, free_ports, wait_until
from tests.conftest import ipv6, needs


def write_certificate(folder: Path, name: str) -> dict[str, str]:
    """A certificate authority for localhost, and the variables that name its files."""
    certificate, key = folder / "it's a certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate,
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"CATSDOGS_TLS_CERT": str(certificate), "CATSDOGS_TLS_KEY": str(key)}


def subject(server: Server) -> str:
    """The subject of the certificate on a new connection."""
    port = urlsplit(server.address("gateway")).port
    pem = ssl.get_server_certificate(("127.0.0.1", port or 0), timeout=10)
    shown = ["openssl", "x509", "-noout", "-subject"]
    return subprocess.run(shown, input=pem, capture_output=True, text=True, check=True).stdout


def is_asked_by(program: str, server: Server, authority: str) -> bool:
    server.environment |= {"SSL_CERT_FILE": authority, "CURL_CA_BUNDLE": authority}
    photo = REPOSITORY / "tests/pictures/cat.jpg"
    asked = server.run(sys.executable, REPOSITORY / "tools" / program, photo)
    assert asked.returncode == 0, asked.stderr
    return "confidence" in asked.stdout


@pytest.mark.slow
def test_with_a_certificate_the_gateway_speaks_https_and_sends_browsers_on_to_it(
    own_server: Server, tmp_path: Path
) -> None:
    files = write_certificate(tmp_path, "first")
    own_server.environment |= files
    started = own_server.start()
    authority = files["CATSDOGS_TLS_CERT"]
    secure = f"https://127.0.0.1:{own_server.environment['CATSDOGS_PORT']}"
    assert f"{secure}/predict" in started

    answer = requests.post(f"{secure}/predict", data=CAT, verify=authority, timeout=30)
    assert answer.json()["label"] in CLASSES
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    missing = requests.get(f"{secure}/nothing", verify=authority, timeout=30)
    assert missing.status_code == missing.json()["code"] == 404
    assert "Strict-Transport-Security" in missing.headers
    plain_on_secure = secure.replace("https", "http")
    confused = requests.get(plain_on_secure, timeout=30)
    assert confused.status_code == confused.json()["code"] == 400
    assert "accepts only HTTPS" in confused.json()["message"]

    plain = f"http://127.0.0.1:{own_server.environment['CATSDOGS_HTTP_PORT']}"
    sent_on = requests.get(f"{plain}/predict", allow_redirects=False, timeout=30)
    assert sent_on.status_code == 308
    assert sent_on.headers["Location"] == f"{secure}/predict"

    ready = f"{own_server.address('gateway_metrics')}/ready"
    assert requests.get(ready, timeout=30).status_code == 200
    assert is_asked_by("classify", own_server, authority)


@pytest.mark.slow
def test_a_renewed_certificate_is_taken_up_without_a_start(
    own_server: Server, tmp_path: Path
) -> None:
    own_server.environment |= write_certificate(tmp_path, "first")
    own_server.start()
    assert "first" in subject(own_server)
    write_certificate(tmp_path, "second")
    own_server.launcher().send_signal(signal.SIGHUP)
    wait_until(lambda: "second" in subject(own_server))
    write_certificate(tmp_path, "third")
    asked = own_server.serve("--reload")
    assert asked.returncode == 0, asked.stderr
    wait_until(lambda: "third" in subject(own_server))
    state = {key: value for key, value in own_server.state().items() if key != "warnings"}
    (own_server.folder / "logs/serve.json").write_text(json.dumps(state))
    refused = own_server.serve("--reload")  # the signal would end a server of release 2.1
    assert refused.returncode == 2
    assert "was started by an earlier version" in refused.stderr
    own_server.stop()
    refused = own_server.serve("--reload")
    assert refused.returncode == 2
    assert "the gateway is not running in this folder" in refused.stderr


@pytest.mark.slow
def test_a_reload_loses_no_photo(own_server: Server) -> None:
    own_server.start()
    with Load(own_server, clients=8) as load:
        load.wait_for(8)
        for _ in range(3):
            own_server.launcher().send_signal(1)
            load.wait_for(load.good() + 8)
    assert not load.failed()


@contextmanager
def caddy(server: Server, folder: Path) -> Iterator[str]:
    """Caddy with gateway/Caddyfile on free ports; it signs its own certificate for localhost."""
    secure, plain = free_ports(2)
    server.environment |= {
        "CATSDOGS_DOMAIN": f"https://localhost:{secure}",
        "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder),
    }  # fmt: skip
    adapted = server.run(BIN / "caddy", "adapt", "--config", REPOSITORY / "gateway/Caddyfile")
    assert adapted.returncode == 0, adapted.stderr
    settings = json.loads(adapted.stdout)
    settings["apps"]["http"]["http_port"] = plain  # not 80
    # Not into this machine's trust store.
    settings["apps"]["pki"] = {"certificate_authorities": {"local": {"install_trust": False}}}
    (folder / "caddy.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [BIN / "caddy", "run", "--config", folder / "caddy.json"],
        env=server.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until((folder / "caddy/pki/authorities/local/root.crt").exists)
        yield f"https://localhost:{secure}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
@needs("curl")
@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::", marks=ipv6)])
def test_caddy_in_front_passes_photos_on_and_the_gateway_believes_whom_it_names(
    own_server: Server, tmp_path: Path, host: str
) -> None:
    own_server.environment |= {"CATSDOGS_TRUSTED_PROXIES": "127.0.0.1,::1", "CATSDOGS_HOST": host}
    own_server.start()
    door = f"{own_server.address('gateway')}/predict"
    with caddy(own_server, tmp_path) as front, requests.Session() as session:

        def asked(url: str, headers: dict[str, str]) -> int:
            return session.put(url, data=CAT, headers=headers, timeout=60).status_code

        session.verify = str(tmp_path / "caddy/pki/authorities/local/root.crt")
        session.trust_env = False  # REQUESTS_CA_BUNDLE would take precedence
        session.mount(
            front, HTTPAdapter(max_retries=Retry(20, backoff_factor=0.1, backoff_max=1))
        )  # it signs first
        assert session.put(f"{front}/predict", data=CAT, timeout=60).json()["label"] in CLASSES
        # With curl, which reads an answer while it sends; Caddy closes the connection then.
        large = tmp_path / "large"
        large.write_bytes(bytes(MAX_UPLOAD_BYTES + 1))
        refused = own_server.run(
            "curl", "-sS", "--cacert", session.verify, "-T", large, f"{front}/predict"
        )
        assert json.loads(refused.stdout)["code"] == 413, refused.stderr
        assert session.put(f"{front}/predict", data=b"", timeout=60).json()["code"] == 400
        # A client can't claim another address: only the one that Caddy saw counts.
        pretended = {"X-Forwarded-For": "203.0.113.7"}
        with ExitStack() as clients:
            for _ in range(80):
                client = clients.enter_context(connect(own_server))
                client.sendall(
                    HEAD + b"X-Forwarded-For: 203.0.113.7\r\nContent-Length: 100000\r\n\r\nx"
                )
            wait_until(lambda: asked(door, pretended) == 503)
            assert asked(f"{front}/predict", pretended) == 200


@pytest.mark.slow
@pytest.mark.skipif("CATSDOGS_DEBIAN_NGINX" not in os.environ, reason="names no other nginx")
def test_the_nginx_of_a_distribution_serves_as_well(own_server: Server, tmp_path: Path) -> None:
    """The nginx of the image; CI fetches it."""
    files = write_certificate(tmp_path, "first")
    nginx = os.environ["CATSDOGS_DEBIAN_NGINX"]
    for more in ({}, files):
        own_server.environment |= {"CATSDOGS_NGINX": nginx, "CATSDOGS_CANARY": ""} | more
        own_server.start()
        door = own_server.address("gateway").replace("http", "https" if more else "http")
        asked = partial(requests.request, verify=files["CATSDOGS_TLS_CERT"], timeout=60)
        assert asked("PUT", f"{door}/predict", data=CAT).json()["label"] in CLASSES
        assert asked("POST", f"{door}/explain", data=CAT).headers["Content-Type"] == "image/png"
        assert "truncated" in asked("POST", f"{door}/predict", data=CAT[:-500]).json()["message"]
        large = asked("PUT", f"{door}/predict", data=iter([bytes(13 * 2**20)]))
        assert large.status_code == large.json()["code"] == 413
        for path in ("/", "/ready", "/health", "/model/info"):
            assert asked("GET", door + path).status_code == 200
        assert asked("GET", f"{door}/nothing").json()["code"] == 404
        own_server.stop()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"CATSDOGS_TLS_CERT": "only.pem"}, "set both or neither"),
        ({"CATSDOGS_TLS_CERT": "a.pem", "CATSDOGS_TLS_KEY": "b.pem"}, "a.pem: can't be read"),
        ({"CATSDOGS_TRUSTED_PROXIES": "10.0.0.1/8"}, "has host bits set"),
        ({"CATSDOGS_CLIENT_LIMIT": "yes"}, "set on or off"),
        ({"CATSDOGS_HOST": "here; return 200"}, "CATSDOGS_HOST: "),
    ],
)
def test_settings_that_nginx_would_not_take_are_refused_before_anything_starts(
    own_server: Server, given: dict[str, str], message: str
) -> None:
    own_server.environment |= given
    started = own_server.serve("--detach")
    assert started.returncode == 2
    assert message in started.stderr
    assert "Traceback" not in started.stderr
