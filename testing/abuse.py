"""Clients that send too slowly, too little, or requests with two meanings."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from testing.load import CAT
from testing.servers import Server

Client = Callable[[Server, float], None]

# A second request that poses as the first one's body, or vice versa.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
SMUGGLING = {
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED),
    "a list of lengths": HEAD + b"Content-Length: 0, %d\r\n\r\n" % len(SMUGGLED),
    "a length with a sign": HEAD + b"Content-Length: +0\r\n\r\n",
    "a space before the colon": HEAD + b"Content-Length : 0\r\n\r\n",
    "a folded header": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "two encodings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "an unknown encoding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a length and chunks": HEAD
    + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(SMUGGLED)),
    "chunks of a wrong size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
}


def connect(server: Server) -> socket.socket:
    where = urlsplit(server.address("gateway"))
    return socket.create_connection((where.hostname or "", where.port or 80), timeout=30)


def answers_to(server: Server, request: bytes) -> bytes:
    """The answer to `request`, until the server closes the connection or sends nothing more."""
    with connect(server) as connection:
        connection.sendall(request)
        connection.settimeout(30)
        received = b""
        with suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                received += part
                connection.settimeout(3)
    return received


def trickle(server: Server, until: float) -> None:
    """Send endless headers, one byte per second; start again when the connection is closed."""
    while time.monotonic() < until:
        with suppress(OSError), connect(server) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nX: ")
            while time.monotonic() < until:
                connection.sendall(b"x")
                time.sleep(1)


def trickle_body(server: Server, until: float) -> None:
    """Send a photo, one byte per second."""
    with suppress(OSError), connect(server) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(CAT))
        while time.monotonic() < until:
            connection.sendall(CAT[:1])
            time.sleep(1)


def abort(server: Server, until: float) -> None:
    """Send half of a photo of 2 MB and disconnect, repeatedly."""
    while time.monotonic() < until:
        with suppress(OSError), connect(server) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % 2**21 + bytes(2**20))
        time.sleep(0.1)


def at_once(clients: list[tuple[Client, int]], server: Server, seconds: float) -> None:
    """Run several clients of each kind for some time."""
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=client, args=(server, until))
        for client, number in clients
        for _ in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
