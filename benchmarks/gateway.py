"""What the gateway costs, and what it saves when more ask than can be answered.

python -m benchmarks.gateway    # 5 minutes; writes the table in docs/benchmarks.md

The same servers are asked directly and through the gateway, in turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from benchmarks.machine import processor
from benchmarks.peers.servers import SERVERS, Peer
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, Figures, wrk
from tests.e2e.servers import Server, temporary_server
from training.markdown import table, write_between_marks

MARK = "gateway, written by `python -m benchmarks.gateway`"
ROUNDS, SECONDS = 3, 5
PAUSE = 4  # s: what wrk has left waiting is computed all the same
CLIENTS = (1, 16, 64, 128, 256)


@dataclass
class Target:
    """As much of benchmarks.peers.servers.Running as wrk needs."""

    url: str
    peer: Peer = SERVERS[-1]


def main() -> None:
    with temporary_server() as server:
        text = measure(server)
    print(text)
    write_between_marks(DOCUMENT, MARK, text)


def measure(server: Server) -> str:
    targets = {
        "TorchServe": Target(f"{server.address('inference')}/predictions/catsdogs"),
        "through the gateway": Target(server.predictions),
    }
    wrk(targets["TorchServe"], PHOTO, 16, SECONDS)  # warms up
    rows = []
    for clients in CLIENTS:
        rounds: dict[str, list[Figures]] = {name: [] for name in targets}
        for _ in range(ROUNDS):
            for name, target in targets.items():
                rounds[name].append(wrk(target, PHOTO, clients, SECONDS))
                time.sleep(PAUSE)
        rows.append([str(clients), *(cell(figures) for figures in rounds.values())])
    note = f"Medians of {ROUNDS} rounds of {SECONDS} s on {processor()}."
    return f"{note}\n\n{table(['clients', *targets], rows)}"


def cell(figures: list[Figures]) -> str:
    speed, p50, refused = (
        median(row[key] for row in figures) for key in ("photos_per_second", "p50", "errors")
    )
    return f"{speed:.1f}/s, {p50:.0f} ms" + (
        f", {refused / SECONDS:.0f}/s refused" if refused else ""
    )


if __name__ == "__main__":
    main()
