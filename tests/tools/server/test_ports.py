"""Which ports are looked at before a start, and which of them are taken."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from testing.servers import free_ports, new_server
from tools.server import nginx, ports, settings, torchserve


def at(port: int, name: str = "management") -> tuple:
    return ports.Listener(name, "127.0.0.1", port, "TS_IT_ADDRESS", "http://127.0.0.1:{}")


@pytest.mark.parametrize(
    ("environment", "unused"),
    [
        ({}, {"CATSDOGS_HTTP_PORT"}),
        ({"CATSDOGS_TLS_CERT": "README.md", "CATSDOGS_TLS_KEY": "README.md"}, set()),
    ],
)
def test_each_server_looks_at_the_ports_that_it_will_use(
    environment: dict[str, str], unused: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "server").mkdir()
    given = new_server(tmp_path / "server", tmp_path / "archives").environment
    chosen = {
        name: value
        for name, value in given.items()
        if name.startswith(("TS_", "CATSDOGS_")) and name.endswith(("_PORT", "_ADDRESS"))
    }
    for name, value in (chosen | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(REPOSITORY)
    found = {}
    for option, server in (
        ("torchserve", torchserve.TorchServe(None)),
        ("gateway", nginx.Gateway(None)),
    ):
        for listener in server.listeners():
            found[listener.variable] = (option, listener.form.format(listener.port))
    assert {name: value for name, (_, value) in found.items()} == {
        name: value for name, value in chosen.items() if name not in unused
    }
    torchserves = {name for name, (option, _) in found.items() if option == "torchserve"}
    named = {name for name in found if name.startswith("TS_")}
    assert torchserves == named | {"CATSDOGS_EXPORTER_PORT"}


def test_without_a_word_the_ports_are_those_of_the_documents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(REPOSITORY)
    servers = (torchserve.TorchServe(None), nginx.Gateway(None))
    numbers = {listener.port for server in servers for listener in server.listeners()}
    assert numbers == {7070, 7071, 8000, 8002, 8003, 8004, 8080, 8081, 8082}


def test_every_taken_port_has_its_line() -> None:
    one, two, free = free_ports(3)
    with socket.create_server(("127.0.0.1", one)), socket.create_server(("0.0.0.0", two)):
        with pytest.raises(settings.NotServed) as refused:
            ports.check_free([at(port) for port in (one, free, two)])
        first, second = str(refused.value).splitlines()
    assert first.startswith(f"port {one} (management) is in use by another program")
    assert first.endswith(f"; stop it, or set TS_IT_ADDRESS=http://127.0.0.1:{one + 10_000}")
    assert f"port {two} " in second
    ports.check_free([at(port) for port in (one, free, two)])


def test_a_port_for_two_is_refused() -> None:
    (port,) = free_ports(1)
    with pytest.raises(settings.NotServed, match=r"\(here\) is also the port of there; set TS_"):
        ports.check_free([at(port, "there"), at(port, "here")])


def test_connections_that_have_ended_take_no_port() -> None:
    (port,) = free_ports(1)
    with (
        socket.create_server(("127.0.0.1", port)) as server,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        server.accept()[0].close()  # first, so that TIME_WAIT is on this side
        assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use"), socket.socket() as careless:
        careless.bind(("127.0.0.1", port))
    ports.check_free([at(port)])


@pytest.mark.parametrize("nonsense", ["abc", "0", "65536", "-1", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_what_is_no_port_is_told(nonsense: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATSDOGS_PORT", nonsense)
    with pytest.raises(settings.NotServed, match="CATSDOGS_PORT: .* is not a port"):
        nginx.Gateway(None).listeners()


@pytest.mark.parametrize("port", [":8081", ":", ""])  # TorchServe's default is 8081
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "cats.example"])
def test_management_is_never_opened_to_other_machines(
    host: str, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("TS_MANAGEMENT_ADDRESS", f"http://{host}{port}")
    with pytest.raises(settings.NotServed, match=f"TS_MANAGEMENT_ADDRESS: {host} is not on loop"):
        torchserve.TorchServe(None).listeners()


@pytest.mark.parametrize("name", ["INFERENCE", "MANAGEMENT", "METRICS"])
def test_an_address_of_torchserve_has_a_port(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv(f"TS_{name}_ADDRESS", "http://127.0.0.1")
    with pytest.raises(settings.NotServed, match=f"TS_{name}_ADDRESS: '' is not a port"):
        torchserve.TorchServe(None).listeners()


@pytest.mark.parametrize("name", ["INFERENCE", "MANAGEMENT"])
def test_nor_are_its_grpc_ports(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv(f"TS_GRPC_{name}_ADDRESS", "0.0.0.0")
    with pytest.raises(settings.NotServed, match=f"TS_GRPC_{name}_ADDRESS: 0.0.0.0"):
        torchserve.TorchServe(None).listeners()


def test_a_port_that_only_nginx_may_open_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The capability for ports below 1024 may be nginx's alone."""

    def refused(self: socket.socket, address: tuple[str, int]) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refused)
    ports.check_free([ports.Listener("redirect", "127.0.0.1", 80, "CATSDOGS_HTTP_PORT")])
