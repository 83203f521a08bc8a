"""Servers that require an API key."""

from __future__ import annotations

import sys

import pytest
import requests

from testing.load import CAT
from testing.repository import REPOSITORY, VERSION
from testing.servers import Server

PICTURE = REPOSITORY / "tests/pictures/cat.jpg"
KEYS = ["a" * 32, "B_-9" * 16]


@pytest.fixture
def guarded(own_server: Server) -> str:
    """The gateway's address."""
    own_server.environment["CATSDOGS_API_KEYS"] = ",".join(KEYS)
    own_server.environment["CATSDOGS_API_KEY"] = KEYS[0]  # as a client's shell has
    own_server.start()
    return own_server.address("gateway")


@pytest.mark.slow
def test_only_who_has_one_of_the_keys_is_answered(own_server: Server, guarded: str) -> None:
    for key in KEYS:
        for path in ("predict", f"predictions/catsdogs/{VERSION}", "explain"):
            headers = {"X-API-Key": key}
            asked = requests.post(f"{guarded}/{path}", data=CAT, headers=headers, timeout=60)
            assert asked.status_code == 200
    for wrong in (None, "", ",", KEYS[0][:-1], KEYS[0] + "a", ",".join(KEYS), KEYS[1].lower()):
        headers = {} if wrong is None else {"X-API-Key": wrong}
        refused = requests.post(f"{guarded}/predict", data=CAT, headers=headers, timeout=30)
        assert refused.status_code == refused.json()["code"] == 401
        assert "X-API-Key" in refused.json()["message"]
    assert requests.get(f"{guarded}/ready", timeout=30).status_code == 200
    known = own_server.process("java").environ().values()
    assert not [value for value in known if any(key in value for key in KEYS)]
    for key, code, words in (
        ("x" * 32, 2, "needs an API key; set CATSDOGS_API_KEY"),
        (KEYS[1], 0, "confidence"),
    ):
        own_server.environment["CATSDOGS_API_KEY"] = key
        asked = own_server.run(sys.executable, REPOSITORY / "tools/classify", PICTURE)
        assert asked.returncode == code
        assert words in asked.stdout + asked.stderr


@pytest.mark.slow
def test_a_key_for_clients_alone_protects_nothing_and_the_start_says_so(own_server: Server) -> None:
    own_server.environment["CATSDOGS_API_KEY"] = KEYS[0]
    assert "warning: CATSDOGS_API_KEY is for clients" in own_server.serve("--detach").stdout


@pytest.mark.slow
def test_a_restart_without_the_keys_of_before_says_so(own_server: Server) -> None:
    own_server.environment["CATSDOGS_API_KEYS"] = KEYS[0]
    own_server.start()
    own_server.stop()
    del own_server.environment["CATSDOGS_API_KEYS"]
    words = "warning: the last server was started with CATSDOGS_API_KEYS, this one is not"
    assert words in own_server.serve("--detach").stdout


def test_a_variable_with_a_mistyped_name_is_refused(own_server: Server) -> None:
    own_server.environment["CATSDOGS_API_KEYES"] = KEYS[0]
    started = own_server.serve("--detach")
    assert started.returncode == 2
    assert started.stderr == (
        "error: CATSDOGS_API_KEYES is unknown; set CATSDOGS_API_KEYS, or unset it\n"
    )


def test_an_empty_key_opens_nothing(own_server: Server) -> None:
    own_server.environment["CATSDOGS_API_KEYS"] = ""
    started = own_server.serve("--detach")
    assert started.returncode == 2
    assert "CATSDOGS_API_KEYS is set, but empty" in started.stderr


@pytest.mark.parametrize("keys", ["short", "a" * 31, f"{'a' * 32},", f"{'a' * 32},b", '"' * 40])
def test_weak_keys_are_refused_before_anything_starts(own_server: Server, keys: str) -> None:
    own_server.environment["CATSDOGS_API_KEYS"] = keys
    started = own_server.serve("--detach")
    assert started.returncode == 2
    assert "openssl rand -hex 32" in started.stderr
    assert keys not in started.stderr
