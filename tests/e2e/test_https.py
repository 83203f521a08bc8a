"""A gateway with a certificate."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import requests

from tests.conftest import CLASSES, REPOSITORY
from tests.e2e.load import CAT
from tests.e2e.servers import Server, wait_until


def photos_counted(server: Server) -> list[str]:
    """Until the answer begins, and until it ends."""
    listener = f"{server.address('gateway_metrics')}/metrics/gateway"
    counted = requests.get(listener, timeout=30).text
    return re.findall(r'duration_seconds_count{code="200".*method="POST".*} (\d+)', counted)


def is_asked_by(program: str, server: Server, authority: str) -> bool:
    server.environment |= {"SSL_CERT_FILE": authority, "CURL_CA_BUNDLE": authority}
    photo = REPOSITORY / "tests/pictures/cat.jpg"
    asked = server.run(sys.executable, REPOSITORY / "tools" / program, photo)
    assert asked.returncode == 0, asked.stderr
    return "confidence" in asked.stdout


@pytest.mark.slow
def test_with_a_domain_the_gateway_speaks_https_and_sends_browsers_on_to_it(
    own_server: Server, tmp_path: Path
) -> None:
    # For localhost Caddy is its own authority; for a public name it asks Let's Encrypt.
    own_server.environment |= {"CATSDOGS_DOMAIN": "localhost", "XDG_DATA_HOME": str(tmp_path)}
    told = own_server.start()
    secure = f"https://localhost:{own_server.environment['CATSDOGS_PORT']}"
    assert f"{secure}/predict" in told
    authority = str(tmp_path / "caddy/pki/authorities/local/root.crt")

    answer = requests.post(f"{secure}/predict", data=CAT, verify=authority, timeout=30)
    assert answer.json()["label"] in CLASSES
    assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"
    missing = requests.get(f"{secure}/nothing", verify=authority, timeout=30)
    assert missing.status_code == missing.json()["code"] == 404
    assert "Strict-Transport-Security" in missing.headers
    other = {"Host": "elsewhere"}
    told = requests.get(f"{secure}/", verify=authority, headers=other, timeout=30)
    assert told.status_code == 421

    plain = f"http://localhost:{own_server.environment['CATSDOGS_HTTP_PORT']}"
    sent_on = requests.get(f"{plain}/predict", allow_redirects=False, timeout=30)
    assert sent_on.status_code == 308
    assert sent_on.headers["Location"] == f"{secure}/predict"

    ready = f"{own_server.address('gateway_metrics')}/ready"
    assert requests.get(ready, timeout=30).status_code == 200
    wait_until(lambda: photos_counted(own_server) == ["1", "1"])
    for program in ("demo", "classify"):
        assert is_asked_by(program, own_server, authority)
