"""What the gateway costs, and what it holds while uploads stall.

python -m benchmarks.gateway    # 9 minutes; writes gateway.json beside it and the table in
                                # docs/benchmarks.md

The same servers are asked directly and through the gateway, in turn.
"""

from __future__ import annotations

import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from benchmarks.machine import processor
from benchmarks.peers.servers import SERVERS, Peer
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, Figures, large_photo, medians, wrk
from tests.e2e.servers import Server, temporary_server
from training.files import write_json
from training.markdown import table, write_between_marks

RESULT = Path(__file__).with_suffix(".json")
MARK = "gateway, written by `python -m benchmarks.gateway`"
ROUNDS, SECONDS = 3, 5
PAUSE = 4  # s: what wrk has left waiting at TorchServe itself is computed all the same
CLIENTS = {"photo of 25 kB": (1, 16, 64, 256, 1000), "12 megapixels": (1, 16, 64)}
STALLED, BYTES = 256, 11 * 2**20  # uploads that stop before their last byte


@dataclass
class Target:
    """As much of benchmarks.peers.servers.Running as wrk needs."""

    url: str
    peer: Peer = SERVERS[-1]


def main() -> None:
    # All clients come from one address.
    with temporary_server(CATSDOGS_CLIENT_LIMIT="off") as server:
        result = measure(server)
    write_json(RESULT, result)
    print(report(result))
    write_between_marks(DOCUMENT, MARK, report(result))


def measure(server: Server) -> dict[str, Any]:
    targets = {
        "TorchServe": Target(f"{server.address('inference')}/predictions/catsdogs"),
        "through the gateway": Target(server.predictions),
    }
    wrk(targets["TorchServe"], PHOTO, 16, SECONDS)  # warms up
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        large = large_photo(PHOTO, Path(folder) / "large.jpg")
        for kind, path in zip(CLIENTS, (PHOTO, large), strict=True):
            for clients in CLIENTS[kind]:
                rounds: dict[str, list[Figures]] = {name: [] for name in targets}
                for _ in range(ROUNDS):
                    for name, target in targets.items():
                        rounds[name].append(wrk(target, path, clients, SECONDS))
                        time.sleep(PAUSE)
                figures = {name: medians(found) for name, found in rounds.items()}
                rows.append({"photo": kind, "clients": clients, "figures": figures})
                print(rows[-1], flush=True)
    stalled = while_uploads_stall(server)
    return {"machine": processor(), "rounds": ROUNDS, "seconds": SECONDS, "rows": rows} | stalled


def while_uploads_stall(server: Server) -> dict[str, Any]:
    """p99 of a lone client's small photos before and meanwhile, s, and memory, MB."""
    where = urlsplit(server.address("gateway"))
    before = slowest(server.predictions)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {BYTES}\r\n\r\n".encode()
    with ExitStack() as clients:
        for _ in range(STALLED):
            address = (where.hostname or "", where.port or 80)
            client = clients.enter_context(socket.create_connection(address))
            client.sendall(head + bytes(BYTES - 1))
        meanwhile = slowest(server.predictions)
        nginx = [server.process("nginx"), *server.process("nginx").children()]
        return {
            "stalled": STALLED,
            "p99 before": before,
            "p99 meanwhile": meanwhile,
            "nginx": round(sum(process.memory_info().rss for process in nginx) / 1e6),
            "Java": round(server.process("java").memory_info().rss / 1e6),
        }


def slowest(url: str, photos: int = 300) -> float:
    seconds = []
    with requests.Session() as session:
        for _ in range(photos):
            began = time.perf_counter()
            session.put(url, data=PHOTO.read_bytes(), timeout=60).raise_for_status()
            seconds.append(time.perf_counter() - began)
    return round(statistics.quantiles(seconds, n=100)[-1], 4)


def report(result: dict[str, Any]) -> str:
    seconds = result["seconds"]
    names = list(result["rows"][0]["figures"])
    lines = [
        [row["photo"], str(row["clients"])]
        + [cell(figures, seconds) for figures in row["figures"].values()]
        for row in result["rows"]
    ]
    return (
        f"Medians of {result['rounds']} rounds of {seconds} s on {result['machine']}.\n\n"
        f"{table(['photo', 'clients', *names], lines)}\n\n"
        f"While {result['stalled']} uploads of {BYTES // 2**20} MiB stop before their last byte, "
        f"nginx holds {result['nginx']} MB and Java {result['Java']} MB; of a lone client's small "
        f"photos 99 % take less than {result['p99 meanwhile'] * 1000:.0f} ms, and "
        f"{result['p99 before'] * 1000:.0f} ms before."
    )


def cell(figures: Figures, seconds: float) -> str:
    refused = figures["errors"] / seconds
    return f"{figures['photos_per_second']:.1f}/s, {figures['p50']:.0f} ms" + (
        f", {refused:.0f}/s refused" if refused else ""
    )


if __name__ == "__main__":
    main()
