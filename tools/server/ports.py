"""Which ports the servers will listen on, and whether these are free."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from tools.server.settings import (
    NotServed,
    address,
    api_keys,
    gateway_host,
    given,
    logs_to_stdout,
    properties,
)


class Listener(NamedTuple):
    """An address that a server will listen on, and the variable that changes it."""

    name: str
    host: str
    port: int
    variable: str
    form: str = "{}"  # of the variable's value; {} is the port


def address_listener(name: str) -> Listener | None:
    """A listener of TorchServe; None for a socket file.

    Raises NotServed for an IPv6 address; TorchServe itself needs 10 s to refuse one.
    """
    variable, url = f"TS_{name.upper()}_ADDRESS", urlsplit(address(name))
    host, _, port = url.netloc.partition(":")
    if "[" in url.netloc:
        raise NotServed(
            f"{variable} is {url.netloc}, but TorchServe doesn't support IPv6; set an address such "
            "as http://127.0.0.1:8080 (CATSDOGS_HOST, for the gateway, may be an IPv6 address)"
        )
    if name == "management":
        check_loopback(variable, host)
    form = f"{url.scheme}://{host}:{{}}"
    return Listener(name, host, number(variable, port), variable, form) if host else None


def check_loopback(variable: str, host: str) -> None:
    """Raise NotServed for a `host` that other machines reach: management runs any code."""
    if not is_loopback(host):
        raise NotServed(
            f"{variable}: {host} is not on loopback; set 127.0.0.1. Clients reach the gateway at "
            "CATSDOGS_HOST"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; "" is a socket file."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def openings(listeners: Iterable[Listener]) -> list[str]:
    """Warnings about those of `listeners` that other machines may reach."""
    found = []
    public = [listener for listener in listeners if not is_loopback(listener.host.lower())]
    for listener in public:
        if listener.variable.startswith("TS_"):
            found.append(
                f"{listener.variable} opens TorchServe, which has neither limits nor keys, on "
                f"{listener.host}"
            )
    gateways = [listener for listener in public if listener.variable.startswith("CATSDOGS_")]
    if gateways and not logs_to_stdout():  # a container's ports are published explicitly
        gateways.sort(key=lambda listener: listener.variable == "CATSDOGS_METRICS_PORT")
        *most, last = [str(listener.port) for listener in gateways]
        keys = "" if api_keys() else ", without API keys"
        found.append(
            f"other machines may reach ports {', '.join(most)} and {last} of this one{keys}; let a "
            "firewall close the last"
        )
    return found


def grpc_listener(name: str, default: str) -> Listener:
    """A gRPC listener of TorchServe; `default` is TorchServe's own default port."""
    host, port = (
        os.environ.get(f"TS_GRPC_{name.upper()}_{end.upper()}")
        or properties().get(f"grpc_{name}_{end}", otherwise)
        for end, otherwise in (("address", "127.0.0.1"), ("port", default))
    )
    check_loopback(f"TS_GRPC_{name.upper()}_ADDRESS", host)
    variable = f"TS_GRPC_{name.upper()}_PORT"
    return Listener(f"gRPC {name}", host, number(variable, port), variable)


def gateway_listener(port: str, name: str, host: str | None = None) -> Listener:
    """The listener whose port is CATSDOGS_`port`, at `host` or else at CATSDOGS_HOST."""
    variable = f"CATSDOGS_{port}"
    at = host or gateway_host()
    return Listener(name, at, number(variable, given(variable)), variable)


def number(variable: str, port: str) -> int:
    """The port as a number. Raises NotServed for anything but 1 to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise NotServed(f"{variable}: {port!r} is not a port; set a number from 1 to 65535")
    return int(port)


def check_free(listeners: Iterable[Listener]) -> None:
    """Raise NotServed, with a line for each port that is in use or has two listeners.

    TorchServe itself fails only after 10 s, with a stack trace.
    """
    found: list[Listener] = []
    wrong = []
    for listener in listeners:
        other = next((other for other in found if is_same(other, listener)), None)
        found.append(listener)
        if other:
            wrong.append(
                f"{named(listener)} is also the port of {other.name}; set {moved(listener)}"
            )
        elif is_taken(listener):
            by = holder(listener.port)
            wrong.append(f"{named(listener)} is in use by {by}; stop it, or set {moved(listener)}")
    if wrong:
        raise NotServed("\n       ".join(wrong))


def is_same(one: Listener, other: Listener) -> bool:
    hosts = {one.host, other.host}
    return one.port == other.port and (len(hosts) == 1 or bool(hosts & {"0.0.0.0", "::"}))


def is_taken(listener: Listener) -> bool:
    """Whether another program listens there. Raises NotServed if this machine lacks the address.

    Other errors are left to the server, which may have rights that this process lacks.
    """
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            # As servers do: closed connections block the port for a minute (TIME_WAIT).
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((listener.host.strip("[]"), listener.port))
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise NotServed(
                f"{listener.host} ({listener.name}) is not an address of this machine; set one it "
                "has, such as 127.0.0.1"
            ) from error
        return error.errno == errno.EADDRINUSE
    return False


def holder(port: int) -> str:
    """The program that listens on `port`, as far as the system shows it."""
    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.laddr[1:] == (port,)
            if here and connection.status == psutil.CONN_LISTEN and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f"another program, process {connection.pid} ({name})"
    except psutil.Error:  # macOS shows it only to root
        pass
    return "another program"


def named(listener: Listener) -> str:
    return f"port {listener.port} ({listener.name})"


def moved(listener: Listener) -> str:
    port = listener.port + (10_000 if listener.port < 50_000 else -10_000)
    return f"{listener.variable}={listener.form.format(port)}"
