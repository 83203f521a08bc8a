"""A gateway with a certificate."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.conftest import CLASSES, REPOSITORY
from tests.e2e.load import CAT, Load
from tests.e2e.servers import Server, wait_until


def write_certificate(folder: Path, name: str) -> dict[str, str]:
    """Its own authority, for localhost; the variables that name it."""
    certificate, key = folder / "it's a certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate,
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"CATSDOGS_TLS_CERT": str(certificate), "CATSDOGS_TLS_KEY": str(key)}


def subject(server: Server) -> str:
    """Of the certificate that a new connection meets."""
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

    plain = f"http://127.0.0.1:{own_server.environment['CATSDOGS_HTTP_PORT']}"
    sent_on = requests.get(f"{plain}/predict", allow_redirects=False, timeout=30)
    assert sent_on.status_code == 308
    assert sent_on.headers["Location"] == f"{secure}/predict"

    ready = f"{own_server.address('gateway_metrics')}/ready"
    assert requests.get(ready, timeout=30).status_code == 200
    for program in ("demo", "classify"):
        assert is_asked_by(program, own_server, authority)


@pytest.mark.slow
def test_a_renewed_certificate_is_taken_up_without_a_start(
    own_server: Server, tmp_path: Path
) -> None:
    own_server.environment |= write_certificate(tmp_path, "first")
    own_server.start()
    assert "first" in subject(own_server)
    write_certificate(tmp_path, "second")
    own_server.launcher().send_signal(1)  # SIGHUP
    wait_until(lambda: "second" in subject(own_server))


@pytest.mark.slow
def test_a_reload_loses_no_photo(own_server: Server) -> None:
    own_server.start()
    with Load(own_server, clients=8) as load:
        load.wait_for(8)
        for _ in range(3):
            own_server.launcher().send_signal(1)
            load.wait_for(load.good() + 8)
    assert not load.failed()


@pytest.mark.slow
@pytest.mark.skipif("CATSDOGS_DEBIAN_NGINX" not in os.environ, reason="names no other nginx")
def test_the_nginx_of_a_distribution_serves_as_well(own_server: Server, tmp_path: Path) -> None:
    """What the image has; CI fetches it."""
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
        ({"CATSDOGS_TLS_CERT": "only.pem"}, "give both, or neither"),
        ({"CATSDOGS_TLS_CERT": "a.pem", "CATSDOGS_TLS_KEY": "b.pem"}, "a.pem: can't be read"),
        ({"CATSDOGS_TRUSTED_PROXIES": "10.0.0.1/8"}, "has host bits set"),
        ({"CATSDOGS_CLIENT_LIMIT": "yes"}, "give on or off"),
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
