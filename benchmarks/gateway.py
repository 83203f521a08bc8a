"""What the gateway costs, and what it saves when more ask than can be answered.

python -m benchmarks.gateway    # 5 minutes; writes gateway.json beside it and the table in
                                # docs/benchmarks.md

The same servers are asked directly and through the gateway, in turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import processor
from benchmarks.peers.servers import SERVERS, Peer
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, Figures, medians, wrk
from tests.e2e.servers import Server, temporary_server
from training.files import write_json
from training.markdown import table, write_between_marks

RESULT = Path(__file__).with_suffix(".json")
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
    rows = {}
    for clients in CLIENTS:
        rounds: dict[str, list[Figures]] = {name: [] for name in targets}
        for _ in range(ROUNDS):
            for name, target in targets.items():
                rounds[name].append(wrk(target, PHOTO, clients, SECONDS))
                time.sleep(PAUSE)
        rows[str(clients)] = {name: medians(figures) for name, figures in rounds.items()}
    return {"machine": processor(), "rounds": ROUNDS, "seconds": SECONDS, "clients": rows}


def report(result: dict[str, Any]) -> str:
    rows, seconds = result["clients"], result["seconds"]
    note = f"Medians of {result['rounds']} rounds of {seconds} s on {result['machine']}."
    lines = [
        [clients, *(cell(figures, seconds) for figures in row.values())]
        for clients, row in rows.items()
    ]
    return f"{note}\n\n{table(['clients', *next(iter(rows.values()))], lines)}"


def cell(figures: Figures, seconds: float) -> str:
    refused = figures["errors"] / seconds
    return f"{figures['photos_per_second']:.1f}/s, {figures['p50']:.0f} ms" + (
        f", {refused:.0f}/s refused" if refused else ""
    )


if __name__ == "__main__":
    main()
