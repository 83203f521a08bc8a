"""Effect of batch size, batch delay, number of workers and frontend settings on our server.

python -m benchmarks.sweep    # about 17 minutes; writes sweep.json beside it and the tables in
                              # docs/benchmarks.md

The management API sets batches on a running server, each setting once per round; reported are
medians. Workers and frontend settings need a new server with another environment or
config.properties.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.machine import processor
from benchmarks.peers.servers import DIRECT, Peer, Running, running
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, Figures, medians, wrk
from tools.server.management import Management
from training import markdown
from training.files import write_json

RESULT = Path(__file__).with_suffix(".json")
MARK = "settings, written by `python -m benchmarks.sweep`"
SECONDS = 4
ROUNDS = 3
REST = 2  # seconds, until a version that is unregistered has answered its last photos
CLIENTS = (1, 4, 16, 64)
MANY_CLIENTS = (4, 16, 64, 128, 256)
BATCHES = (  # size, delay in ms
    (1, 1), (2, 0), (2, 1), (2, 2), (3, 1), (4, 0), (4, 1), (8, 0), (8, 1), (8, 5), (16, 1),
)  # fmt: skip
WORKERS = (1, 2, 4)
FRONTENDS = {
    "as configured": ("", ""),
    "default garbage collector": ("-XX:+UseSerialGC ", ""),
    "parallel garbage collector": ("-XX:+UseSerialGC", "-XX:+UseParallelGC"),
    "default number of netty threads": ("number_of_netty_threads=2\nnetty_client_threads=2\n", ""),
}

Row = dict[str, Figures]  # by number of clients
Rows = dict[str, Row]


def main() -> None:
    command_line.parser(__doc__).parse_args()
    command_line.needs("wrk", "wrk")
    result = {
        "machine": processor(), "seconds": SECONDS, "rounds": ROUNDS,
        "batches": batches(), "workers": workers(), **frontends(),
    }  # fmt: skip
    write_json(RESULT, result)
    markdown.write_between_marks(DOCUMENT, MARK, report(result))


def report(result: dict[str, Any]) -> str:
    memory = ", ".join(f"{size} MB ({name})" for name, size in result["megabytes"].items())
    return "\n\n".join(
        [
            f"Each figure was measured for {result['seconds']} seconds on {result['machine']}."
            + in_turn(result["rounds"]),
            table("batch size, delay", result["batches"]),
            table("workers", result["workers"]),
            amdahl(result["workers"]),
            table("frontend", result["frontends"]),
            f"The frontend's memory: {memory}.",
        ]
    )


def in_turn(rounds: int) -> str:
    if rounds == 1:
        return ""
    return f" Batches were measured in turn; their figures are medians of {rounds} rounds."


def batches() -> Rows:
    measured: dict[str, dict[str, list[Figures]]] = {}
    with server(DIRECT) as ours:
        for _ in range(ROUNDS):
            for size, delay in BATCHES:
                row = measured.setdefault(f"{size}, {delay} ms", {})
                for clients, figures in registered(ours, size, delay).items():
                    row.setdefault(clients, []).append(figures)
    return {
        name: {clients: medians(rounds) for clients, rounds in row.items()}
        for name, row in measured.items()
    }


def workers() -> Rows:
    rows = {}
    for number in WORKERS:
        environment = {"TS_DEFAULT_WORKERS_PER_MODEL": str(number)}
        with server(dataclasses.replace(DIRECT, environment=environment)) as ours:
            rows[str(number)] = loaded(ours, MANY_CLIENTS)
    return rows


def frontends() -> dict[str, dict[str, Any]]:
    rows, megabytes = {}, {}
    for name, (old, new) in FRONTENDS.items():
        if old not in DIRECT.configuration:
            sys.exit(f"config.properties lacks {old!r}; update FRONTENDS in benchmarks/sweep.py")
        configuration = DIRECT.configuration.replace(old, new)
        peer = dataclasses.replace(DIRECT, configuration=configuration)
        with server(peer) as ours:
            rows[name] = loaded(ours, CLIENTS)
            megabytes[name] = round(frontend_megabytes(ours))
    return {"frontends": rows, "megabytes": megabytes}


def amdahl(rows: Rows) -> str:
    """Speedup by the second worker, extrapolated to more cores by Amdahl's law (1967).

    speedup(n) = 1 / (s + (1 - s) / n); the serial share s follows from n = 2.
    """
    one, two = (rows[n]["16"]["photos_per_second"] for n in ("1", "2"))
    serial = max(0.0, 2 * one / two - 1)
    cores = {n: one / (serial + (1 - serial) / n) for n in (4, 8, 16)}
    expected = ", ".join(f"{speed:.0f} on {n} cores" for n, speed in cores.items())
    return (
        f"Two workers have {two / one:.2f} times the throughput of one, so "
        f"{markdown.percent(serial, 0)} of the work doesn't run in parallel (Amdahl's law; load "
        f"generator and frontend use the same two cores). Upper bounds in photos/s: {expected}."
    )


@contextmanager
def server(peer: Peer) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder, running(peer, PHOTO, Path(folder)) as ours:
        yield ours


def registered(ours: Running, size: int, delay: int) -> Row:
    """Register the archive again with these settings; figures by number of clients."""
    management = Management(ours.management)
    time.sleep(REST)
    management.unregister()
    management.register("catsdogs.mar", 2, batch_size=size, max_batch_delay=delay)
    return loaded(ours, CLIENTS)


def loaded(ours: Running, loads: tuple[int, ...]) -> Row:
    wrk(ours, PHOTO, 16, 2)  # warms up
    figures = {str(clients): wrk(ours, PHOTO, clients, SECONDS) for clients in loads}
    print(figures, file=sys.stderr)
    return figures


def frontend_megabytes(ours: Running) -> float:
    import psutil

    processes = psutil.Process(ours.process.pid).children(recursive=True)
    return next(p.memory_info().rss / 1e6 for p in processes if p.name() == "java")


def table(corner: str, rows: Rows) -> str:
    """Throughput, median latency and refused requests of each row, by number of clients."""
    loads = list(next(iter(rows.values())))
    return markdown.table(
        [corner, *(f"{clients} client{'s' * (clients != '1')}" for clients in loads)],
        [[name, *map(cell, row.values())] for name, row in rows.items()],
    )


def cell(figures: Figures) -> str:
    refused = f", {figures['errors']:,.0f} refused" if figures["errors"] else ""
    return f"{figures['photos_per_second']:.0f}/s, {figures['p50']:.1f} ms{refused}"


if __name__ == "__main__":
    command_line.run(main)
