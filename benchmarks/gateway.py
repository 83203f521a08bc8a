"""The gateway's cost in throughput and latency, and its memory while uploads stall.

python -m benchmarks.gateway    # 14 minutes; writes gateway.json beside it and the table in
                                # docs/benchmarks.md

Measures the same TorchServe directly and through the gateway, alternately.
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

from benchmarks import command_line
from benchmarks.machine import processor
from benchmarks.peers.servers import SERVERS, Peer
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, WARM_UP, Figures, large_photo, medians, wrk
from testing.servers import Server, temporary_server, wait_until
from training.files import write_json
from training.markdown import table, write_between_marks

DIRECT = "TorchServe"
RESULT = Path(__file__).with_suffix(".json")
MARK = "gateway, written by `python -m benchmarks.gateway`"
ROUNDS = 3
SECONDS, LONG = 5, 20  # of a round; long where photos wait more than 5 s
LONG_FROM = {"photo of 25 kB": 1000, "12 megapixels": 256}  # clients
CLIENTS = {"photo of 25 kB": (1, 16, 64, 256, 1000), "12 megapixels": (1, 16, 64, 256)}
# TorchServe by itself holds photos in memory and ends with more large ones than this.
DIRECTLY_UP_TO = {"photo of 25 kB": 1000, "12 megapixels": 64}
STALLED, BYTES = 256, 11 * 2**20  # uploads that stall before their last byte


@dataclass
class Target:
    """The part of benchmarks.peers.servers.Running that wrk() needs."""

    url: str
    peer: Peer = SERVERS[-1]


def main() -> None:
    command_line.parser(__doc__).parse_args()
    command_line.needs("wrk", "wrk")
    # All clients have the same address.
    with temporary_server(CATSDOGS_CLIENT_LIMIT="off") as server:
        result = measure(server)
    with temporary_server(CATSDOGS_CLIENT_LIMIT="off") as server:  # whose Java held no photo yet
        result |= while_uploads_stall(server)
    write_json(RESULT, result)
    print(report(result))
    write_between_marks(DOCUMENT, MARK, report(result))


def measure(server: Server) -> dict[str, Any]:
    targets = {
        DIRECT: Target(f"{server.address('inference')}/predictions/catsdogs"),
        "through the gateway": Target(server.predictions),
    }
    wrk(targets[DIRECT], PHOTO, 16, WARM_UP)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        large = large_photo(PHOTO, Path(folder) / "large.jpg")
        for kind, path in zip(CLIENTS, (PHOTO, large), strict=True):
            for clients in CLIENTS[kind]:
                seconds = LONG if clients >= LONG_FROM[kind] else SECONDS
                skipped = DIRECT if clients > DIRECTLY_UP_TO[kind] else None
                rounds: dict[str, list[Figures]] = {name: [] for name in targets if name != skipped}
                for _ in range(ROUNDS):
                    for name, found in rounds.items():
                        found.append(wrk(targets[name], path, clients, seconds))
                        # TorchServe still classifies photos whose clients have disconnected.
                        wait_until(lambda: not server.management.pending(), 120)
                figures = {name: medians(found) for name, found in rounds.items()}
                row = {"photo": kind, "clients": clients, "seconds": seconds, "figures": figures}
                rows.append(row)
                print(rows[-1], flush=True)
    return {"machine": processor(), "rounds": ROUNDS, "rows": rows}


def while_uploads_stall(server: Server) -> dict[str, Any]:
    """p99 latency (s) of one client with small photos before and meanwhile, and memory (MB)."""
    where = urlsplit(server.address("gateway"))
    slowest(server.predictions)  # warms up
    before = slowest(server.predictions)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {BYTES}\r\n\r\n".encode()
    with ExitStack() as clients:
        for _ in range(STALLED):
            address = (where.hostname or "", where.port or 80)
            client = clients.enter_context(socket.create_connection(address, timeout=60))
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
    names = list(result["rows"][0]["figures"])
    lines = [
        [row["photo"], str(row["clients"]), f"{row['seconds']} s"]
        + [cell(row["figures"].get(name), row["seconds"]) for name in names]
        for row in result["rows"]
    ]
    return (
        f"Medians of {result['rounds']} rounds on {result['machine']}.\n\n"
        f"{table(['photo', 'clients', 'round', *names], lines)}\n\n"
        f"While {result['stalled']} uploads of {BYTES // 2**20} MiB stop before their last byte, "
        f"nginx uses {result['nginx']} MB and Java {result['Java']} MB. Meanwhile, the p99 latency "
        f"of a single client with small photos is {result['p99 meanwhile'] * 1000:.0f} ms, instead "
        f"of {result['p99 before'] * 1000:.0f} ms without these uploads."
    )


def cell(figures: Figures | None, seconds: float) -> str:
    if figures is None:
        return "out of memory"
    refused = figures["errors"] / seconds
    return f"{figures['photos_per_second']:.1f}/s, {figures['p50']:.0f} ms" + (
        f", {refused:.0f}/s refused" if refused else ""
    )


if __name__ == "__main__":
    command_line.run(main)
