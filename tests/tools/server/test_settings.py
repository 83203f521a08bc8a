"""Addresses that are made of CATSDOGS_HOST, for clients and for nginx."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from testing.repository import REPOSITORY
from tools.server import nginx, ports, settings, torchserve

PORTS = {"PORT": "8000", "METRICS_PORT": "8002", "HTTP_PORT": "80"}
addresses = st.ip_addresses().filter(lambda address: not getattr(address, "scope_id", None))
# Other spellings of the same address.
spellings = addresses.flatmap(
    lambda address: st.sampled_from(
        [str(address)] + ([address.exploded, str(address).upper()] if address.version == 6 else [])
    )
)


@contextmanager
def served_at(host: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("CATSDOGS_HOST", host)
        for name, port in PORTS.items():
            monkeypatch.setenv(f"CATSDOGS_{name}", port)
        yield


def plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An IPv4 address also where it is written as one of IPv6."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


@given(spellings)
def test_clients_and_nginx_are_given_the_same_address_and_port(host: str) -> None:
    wanted = plain(host)
    with served_at(host):
        for name, port in PORTS.items():
            url = settings.gateway(name)
            asked, heard = urlsplit(url), urlsplit(f"//{nginx.at(name).split()[0]}")
            assert (asked.scheme, str(asked.port), heard.port) == ("http", port, asked.port)
            assert plain(heard.hostname) == wanted
            assert wanted.is_unspecified or plain(asked.hostname) == wanted
            assert not plain(asked.hostname).is_unspecified
            assert ("[" in url) == ("[" in heard.netloc) == (wanted.version == 6)
            # Which library ever takes it apart.
            assert urllib3.util.parse_url(f"{url}/predict").port == int(port)
            assert ports.gateway_listener(name, "").host == heard.hostname


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_anything_else_is_refused(host: str) -> None:
    with served_at(host):
        try:
            host = urlsplit(settings.gateway()).hostname
        except settings.NotServed as error:
            message = str(error)
        else:
            message = ""
    assert message.startswith("CATSDOGS_HOST: ") or plain(host).version in (4, 6)


def test_all_addresses_are_those_of_ipv4_too() -> None:
    for host in ("::", "0::0", "0:0:0:0:0:0:0:0"):
        with served_at(host):
            assert nginx.at("PORT") == "[::]:8000 ipv6only=off"
    for host in ("::1", "0.0.0.0", "::ffff:127.0.0.1"):
        with served_at(host):
            assert "ipv6only" not in nginx.at("PORT")


def test_a_port_that_any_address_has_is_taken_on_each() -> None:
    for here, there, refused in (
        ("0.0.0.0", "127.0.0.1", True), ("127.0.0.1", "::", True),
        ("127.0.0.1", "127.0.0.2", False),
    ):  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        listeners = [ports.Listener(host, host, port, "IT") for host in (here, there)]
        if refused:
            with pytest.raises(settings.NotServed, match=f"is also the port of {here}"):
                ports.check_free(listeners)
        else:
            ports.check_free(listeners)


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As on a new machine: no variables, and no earlier start."""
    for name in os.environ:
        if name.startswith(("CATSDOGS_", "TS_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "LOG", tmp_path)
    monkeypatch.chdir(REPOSITORY)
    return monkeypatch


def warnings(only: str | None) -> list[str]:
    """Those of tools/serve."""
    servers = [torchserve.TorchServe(only), nginx.Gateway(only)]
    started = [server for server in servers if only in (None, server.option)]
    listeners = [listener for server in started for listener in server.listeners()]
    return settings.warnings(only) + ports.openings(listeners)


def test_an_open_address_is_told_to_whom_it_opens(
    unconfigured: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not warnings(None)
    unconfigured.setenv("CATSDOGS_HOST", "0.0.0.0")
    (warning,) = warnings(None)
    assert "ports 8000 and 8002 of this one, without API keys" in warning
    assert not warnings("torchserve")
    for name in ("CERT", "KEY"):
        (tmp_path / name).touch()
        unconfigured.setenv(f"CATSDOGS_TLS_{name}", str(tmp_path / name))
    (warning,) = warnings("gateway")
    assert "ports 8000, 80 and 8002 of" in warning
    unconfigured.setenv("CATSDOGS_LOGS", "stdout")  # in a container
    assert not warnings(None)


@pytest.mark.parametrize("name", ["INFERENCE", "METRICS"])
def test_torchserve_is_opened_only_with_a_warning(
    name: str, unconfigured: pytest.MonkeyPatch
) -> None:
    unconfigured.setenv(f"TS_{name}_ADDRESS", "http://0.0.0.0:8080")
    (warning,) = warnings(None)
    assert warning.startswith(f"TS_{name}_ADDRESS opens TorchServe")
    assert not warnings("gateway")  # TorchServe is another's


def test_a_variable_that_only_the_other_server_needs_is_not_missed(
    unconfigured: pytest.MonkeyPatch,
) -> None:
    settings.chosen_file("gateway").write_text('["CATSDOGS_API_KEYS"]')
    assert not warnings("torchserve")
    (warning,) = warnings("gateway")
    assert warning == "the last server was started with CATSDOGS_API_KEYS, this one is not"
