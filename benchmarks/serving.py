"""Throughput and latency compared with other servers, on the same weights and cores.

python -m benchmarks.serving            # `make bench`: three rounds, about 16 minutes
python -m benchmarks.serving --quick    # one round of short measurements, 3 minutes

Each round restarts each server, warms it up and loads it with wrk on the same cores. Writes
serving.json, the table and plot in docs/benchmarks.md, and the table in README.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from statistics import median

from PIL import Image

from benchmarks import command_line
from benchmarks.machine import processor
from benchmarks.peers.servers import OURS_NAME, SERVERS, Running, running
from benchmarks.report import draw, latency_table, throughput_table, write_report
from training.files import write_json

REPOSITORY = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
PHOTO = REPOSITORY / "tests/pictures/cat.jpg"
CLIENTS = (1, 4, 16, 64)
WARM_UP = 10  # s; Java compiles what is used often
LIMIT = "no server: decode + forward on every core"
LARGE = "12 MP"  # a row of its own, at 4 clients
PACKAGES = ("torch", "torchserve", "openvino", "pillow")

Figures = dict[str, float]


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    options = parser.parse_args()
    command_line.needs("wrk", "wrk")
    rounds, seconds = (1, 2) if options.quick else (3, 5)
    measured: dict[str, dict[str, list[Figures]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        large = large_photo(options.photo, Path(folder) / "large.jpg")
        for number in range(rounds):
            for name, load, figures in one_round(options.photo, large, seconds):
                measured[name][load].append(figures)
                print(f"round {number + 1}  {name:28} {load:>6}  {figures}", file=sys.stderr)
            result = summary(measured)
            if not options.quick:  # after each round, so that an interrupted run keeps its results
                write_json(RESULT, result)
                write_report(result)
                draw(result)
    print(throughput_table(result), latency_table(result), sep="\n\n")


def one_round(photo: Path, large: Path, seconds: int):
    """(peer, load, figures) for each peer; loads: "start", number of clients, "memory", "12 MP"."""
    for peer in SERVERS:
        with tempfile.TemporaryDirectory() as folder, running(peer, photo, Path(folder)) as server:
            yield peer.name, "start", {"seconds": round(server.seconds_to_ready, 2)}
            wrk(server, photo, 16, WARM_UP)
            for clients in CLIENTS:
                yield peer.name, str(clients), wrk(server, photo, clients, seconds)
            yield peer.name, "memory", {"megabytes": round(server.memory())}
            wrk(server, large, 4, 1)  # warms up
            yield peer.name, LARGE, wrk(server, large, 4, seconds)
    for load, path in ((str(CLIENTS[0]), photo), (LARGE, large)):
        command = [sys.executable, "-m", "benchmarks.peers.limit", path, str(seconds)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=600
        )
        yield LIMIT, load, {"photos_per_second": round(float(done.stdout), 1)}


def wrk(server: Running, photo: Path, clients: int, seconds: int) -> Figures:
    """Photos per second, latency (ms) at three percentiles, and number of errors."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "30s"]
        + ["-s", Path(__file__).with_name("photo.lua"), server.url],
        env=os.environ | {"PHOTO": str(photo), "FIELD": server.peer.form_field},
        capture_output=True, text=True, check=True, timeout=seconds + 120,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def large_photo(photo: Path, path: Path) -> Path:
    """A JPEG of 4000 x 3000 pixels from tiles of `photo`, half of them mirrored."""
    tile = Image.open(photo).convert("RGB").resize((500, 375))
    mirrored = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    whole = Image.new("RGB", (4000, 3000))
    for number in range(64):
        row, column = divmod(number, 8)
        whole.paste((tile, mirrored)[(row + column) % 2], (500 * column, 375 * row))
    whole.save(path, quality=90)
    return path


def summary(measured: dict[str, dict[str, list[Figures]]]) -> dict[str, object]:
    """Medians over the rounds, and the lowest and highest photos/s."""
    return {
        "machine": processor(),
        "versions": {name: version(name) for name in PACKAGES} | peers_versions(),
        "rounds": max(len(loads) for peer in measured.values() for loads in peer.values()),
        "peers": {
            name: {load: medians(rows) for load, rows in loads.items()}
            for name, loads in measured.items()
        },
        "ours": OURS_NAME, "limit": LIMIT,
    }  # fmt: skip


def peers_versions() -> dict[str, str]:
    """The versions in benchmarks/requirements.txt."""
    lines = Path(__file__).with_name("requirements.txt").read_text().splitlines()
    pins = [line.split("#")[0].strip().split("==") for line in lines if "==" in line]
    return {name.partition("[")[0]: number for name, number in pins}


def medians(rows: list[Figures]) -> Figures:
    figures = {key: round(median(row[key] for row in rows), 2) for key in rows[0]}
    if "photos_per_second" in figures:
        speeds = [row["photos_per_second"] for row in rows]
        figures |= {"lowest": min(speeds), "highest": max(speeds)}
    return figures


if __name__ == "__main__":
    command_line.run(main)
