"""Which ports servers are going to listen on, and whether they can be had."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil
from settings import NotServed, address, given, properties


class Listener(NamedTuple):
    """What a server is going to listen on, and the variable that moves it."""

    name: str
    host: str
    port: int
    variable: str
    form: str = "{}"  # of the variable's value, by its port


def address_listener(name: str) -> Listener | None:
    """One of TorchServe's; None for a socket file, or where TorchServe chooses the port."""
    variable, url = f"TS_{name.upper()}_ADDRESS", urlsplit(address(name))
    host, _, port = url.netloc.rpartition(":")
    form = f"{url.scheme}://{host}:{{}}"
    return Listener(name, host, number(variable, port), variable, form) if host else None


def grpc_listener(name: str, default: str) -> Listener:
    """One of TorchServe's; `default` is its own."""
    host, port = (
        os.environ.get(f"TS_GRPC_{name.upper()}_{end.upper()}")
        or properties().get(f"grpc_{name}_{end}", otherwise)
        for end, otherwise in (("address", "127.0.0.1"), ("port", default))
    )
    variable = f"TS_GRPC_{name.upper()}_PORT"
    return Listener(f"gRPC {name}", host, number(variable, port), variable)


def gateway_listener(port: str, name: str, host: str | None = None) -> Listener:
    """What CATSDOGS_`port` moves, at CATSDOGS_HOST or always at `host`."""
    variable = f"CATSDOGS_{port}"
    at = host or given("CATSDOGS_HOST")
    return Listener(name, at, number(variable, given(variable)), variable)


def number(variable: str, port: str) -> int:
    """Raises NotServed for what is no port."""
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise NotServed(f"{variable}: {port} is no port; give a number from 1 to 65535")
    return int(port)


def check_free(listeners: Iterable[Listener]) -> None:
    """Raise NotServed, with a line for each, where ports are taken or one is given to two.

    TorchServe takes 10 s until it binds them, and says so in a stack of frames.
    """
    found: dict[tuple[str, int], Listener] = {}
    wrong = []
    for listener in listeners:
        other = found.setdefault((listener.host, listener.port), listener)
        if other is not listener:
            wrong.append(f"{told(listener)} is that of {other.name}, too; set {moved(listener)}")
        elif is_taken(listener):
            by = holder(listener.port)
            wrong.append(f"{told(listener)} is taken by {by}; end it, or set {moved(listener)}")
    if wrong:
        raise NotServed("\n       ".join(wrong))


def is_taken(listener: Listener) -> bool:
    """Other errors are left to the server: it may have rights that this process has not."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    with socket.socket(family) as tried:
        # As servers do: connections that have ended still hold the port for a minute.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((listener.host.strip("[]"), listener.port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def holder(port: int) -> str:
    """The program that listens on `port`, as far as the system tells it."""
    try:
        for connection in psutil.net_connections("tcp"):
            here = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if here and connection.pid:
                name = psutil.Process(connection.pid).name()
                return f"another program, process {connection.pid} ({name})"
    except psutil.Error:  # macOS tells only root
        pass
    return "another program"


def told(listener: Listener) -> str:
    return f"port {listener.port} ({listener.name})"


def moved(listener: Listener) -> str:
    port = listener.port + (10_000 if listener.port < 50_000 else -10_000)
    return f"{listener.variable}={listener.form.format(port)}"
