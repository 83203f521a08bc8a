"""CPU time per photo, by process: frontend, workers, load generator, idle.

python -m benchmarks.overhead    # a minute; writes overhead.json beside it and the table in
                                 # docs/benchmarks.md

Sixteen clients load our server; CPU times come from the operating system.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks import command_line
from benchmarks.machine import processor
from benchmarks.peers.servers import DIRECT, REPOSITORY, Running, running
from benchmarks.report import DOCUMENT
from benchmarks.serving import PHOTO, wrk
from training.files import write_json
from training.markdown import table, write_between_marks

RESULT = Path(__file__).with_suffix(".json")
MARK = "overhead, written by `python -m benchmarks.overhead`"
CLIENTS, SECONDS = 16, 20


def main() -> None:
    command_line.parser(__doc__).parse_args()
    command_line.needs("wrk", "wrk")
    result = {"machine": processor(), "clients": CLIENTS, "milliseconds": measure()}
    write_json(RESULT, result)
    print(report(result))
    write_between_marks(DOCUMENT, MARK, report(result))


def measure() -> dict[str, float]:
    """Milliseconds of CPU time per photo, by part."""
    with tempfile.TemporaryDirectory() as folder, running(DIRECT, PHOTO, Path(folder)) as ours:
        wrk(ours, PHOTO, CLIENTS, 5)  # warms up
        before, generator = seconds(ours), os.times().children_user + os.times().children_system
        figures = wrk(ours, PHOTO, CLIENTS, SECONDS)
        after = seconds(ours)
        generator = os.times().children_user + os.times().children_system - generator
    command = [sys.executable, "-m", "benchmarks.peers.limit", PHOTO, "5"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=600
    )
    cores = len(os.sched_getaffinity(0))
    limit = 1e3 * cores / float(done.stdout)
    photos = figures["photos_per_second"] * SECONDS
    taken = {name: 1e3 * (after[name] - before[name]) / photos for name in after}
    whole = 1e3 * cores / figures["photos_per_second"]
    parts = {
        "total": whole,
        "decoding and forward pass, without a server": limit,
        "workers, in addition": taken["workers"] - limit,
        "frontend": taken["frontend"],
        "load generator": 1e3 * generator / photos,
        "idle": whole - sum(taken.values()) - 1e3 * generator / photos,
    }
    return {name: round(milliseconds, 2) for name, milliseconds in parts.items()}


def report(result: dict[str, Any]) -> str:
    rows = [[name, f"{taken:.2f}"] for name, taken in result["milliseconds"].items()]
    head = f"{result['clients']} clients on {result['machine']}."
    return f"{head}\n\n{table(['', 'ms per photo'], rows)}"


def seconds(ours: Running) -> dict[str, float]:
    """CPU seconds of the frontend and of the workers so far."""
    taken = {"frontend": 0.0, "workers": 0.0}
    for process in psutil.Process(ours.process.pid).children(recursive=True):
        times = process.cpu_times()
        taken["frontend" if process.name() == "java" else "workers"] += times.user + times.system
    return taken


if __name__ == "__main__":
    command_line.run(main)
