"""A gateway with a certificate."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import requests

from tests.conftest import CLASSES, REPOSITORY
from tests.e2e.load import CAT
from tests.e2e.servers import Server


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

    inside = own_server.address("gateway_metrics")
    assert requests.get(f"{inside}/ready", timeout=30).status_code == 200
    counted = requests.get(f"{inside}/metrics/gateway", timeout=30).text
    of_photos = re.findall(r'duration_seconds_count{code="200".*method="POST".*} (\d+)', counted)
    assert of_photos == ["1", "1"]  # until the answer begins, and until it ends

    own_server.environment |= {"SSL_CERT_FILE": authority, "CURL_CA_BUNDLE": authority}
    photo = REPOSITORY / "tests/pictures/cat.jpg"
    for program in ("demo", "classify"):
        asked = own_server.run(sys.executable, REPOSITORY / "tools" / program, photo)
        assert asked.returncode == 0, asked.stderr
        assert "confidence" in asked.stdout
