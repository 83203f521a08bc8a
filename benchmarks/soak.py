"""Soak test: many requests at full load, a quarter of them hostile.

python -m benchmarks.soak --requests 50000    # 15 to 30 minutes on two cores
python -m benchmarks.soak --requests 8000 --mutations    # hostile photos are mutations only

Does memory grow, does a worker die, is an answer wrong? Writes soak.json and its part of
docs/reliability.md.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from benchmarks import command_line
from benchmarks.machine import processor
from testing.hostile import good_pictures, hostile_files, mutations
from testing.servers import Server, temporary_server
from training.files import write_json
from training.markdown import table, write_between_marks

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = ROOT / "docs/reliability.md"
MARK = "soak, written by `python -m benchmarks.soak`"
CLIENTS = 16
DEADLINE = 60  # s; the gateway's own time limits are shorter

Request = tuple[str, bytes, set[int]]  # name, photo, expected statuses
Answer = tuple[int | None, str | None]  # status and label; (None, error) without JSON


def main() -> int:
    parser = command_line.parser(__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--mutations", action="store_true")
    options = parser.parse_args()
    with temporary_server() as server:
        result = soak(server, options.requests, options.mutations)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results["mutations" if options.mutations else "all"] = {"machine": processor(), **result}
    write_json(RESULT, results)
    write_between_marks(DOCUMENT, MARK, report(results))
    print(report(results))
    return int(bool(result["wrong"]))


class Clients:
    """Sixteen clients without pauses, and their results."""

    def __init__(self, server: Server) -> None:
        self.server, self.lock = server, threading.Lock()
        self.statuses: Counter[int | None] = Counter()  # None: no answer
        self.seconds: list[float] = []
        self.wrong: list[str] = []  # requests with a wrong answer
        self.labels = {name: ask(server, data)[1] for name, data in good_pictures().items()}

    def send(self, traffic: Iterator[Request]) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for client in [pool.submit(self.client, traffic) for _ in range(CLIENTS)]:
                client.result()

    def client(self, traffic: Iterator[Request]) -> None:
        with requests.Session() as session:
            while request := self.next_of(traffic):
                started = time.perf_counter()
                answer = ask(self.server, request[1], session)
                self.keep(request, answer, time.perf_counter() - started)

    def next_of(self, traffic: Iterator[Request]) -> Request | None:
        with self.lock:
            return next(traffic, None)

    def keep(self, request: Request, answer: Answer, seconds: float) -> None:
        (name, _, allowed), (status, label) = request, answer
        with self.lock:
            self.statuses[status] += 1
            self.seconds.append(seconds)
            if status not in allowed or (name in self.labels and label != self.labels[name]):
                self.wrong.append(f"{name}: {status} {label}")


def soak(server: Server, count: int, mutations_alone: bool = False) -> dict[str, Any]:
    """Send `count` requests; measure memory and files after a tenth of them and at the end."""
    workers, clients = server.workers(), Clients(server)
    began = time.monotonic()
    traffic = iter(
        tqdm(
            mixed(count, 1 if mutations_alone else 0.5), total=count, unit="request", mininterval=5
        )
    )
    clients.send(itertools.islice(traffic, count // 10))
    early = holdings(server)
    clients.send(traffic)
    return {
        "requests": count,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "statuses": {str(status): number for status, number in clients.statuses.most_common()},
        "wrong": clients.wrong[:20],
        "workers lost": sum(not worker.is_running() for worker in workers),
        "median, s": round(statistics.median(clients.seconds), 2),
        "p99, s": round(statistics.quantiles(clients.seconds, n=100)[-1], 2),
        "longest, s": round(max(clients.seconds), 2),
        "early": early,
        "late": holdings(server),
    }


def mixed(count: int, mutated: float) -> Iterator[Request]:
    """Good photos and 25 % hostile ones, of which the share `mutated` is mutations. Seeded."""
    chance = random.Random(0)
    good = [(name, data, {200}) for name, data in good_pictures().items()]
    known = itertools.cycle(list(hostile_files()))
    spoiled = mutations(seed=1, count=count)
    for _ in range(count):
        if chance.random() < 0.75:
            yield chance.choice(good)
        elif chance.random() < mutated:
            name, data = next(spoiled)
            yield name, data, {200, 400, 413, 415}
        else:
            yield next(known)


def ask(server: Server, data: bytes, session: requests.Session | None = None) -> Answer:
    try:
        answer = (session or requests).put(server.predictions, data=data, timeout=DEADLINE)
        return answer.status_code, answer.json().get("label")
    except (requests.RequestException, ValueError) as error:
        return None, repr(error)


def holdings(server: Server) -> dict[str, float]:
    """Resident memory (MB), open files, temporary files and size of the logs (MB)."""
    workers = server.workers()
    frontend, nginx = server.process("java"), server.process("nginx")
    gateway = [nginx, *nginx.children()]
    held = {f"worker {n}, MB": w.memory_info().rss / 1e6 for n, w in enumerate(workers, 1)}
    held |= {
        "frontend, MB": frontend.memory_info().rss / 1e6,
        "gateway, MB": sum(process.memory_info().rss for process in gateway) / 1e6,
        "open files": sum(p.num_fds() for p in [frontend, *gateway, *workers]),
        "temporary files": len(list(Path(server.environment["TMPDIR"]).rglob("*"))),
        "logs, MB": sum(f.stat().st_size for f in (server.folder / "logs").iterdir()) / 1e6,
    }
    return {name: round(value, 1) for name, value in held.items()}


def report(results: dict[str, dict[str, Any]]) -> str:
    lines = [summary(results["all"])]
    if "mutations" in results:
        lines += [f"With mutated photos as the only hostile ones: {summary(results['mutations'])}"]
    early, late = results["all"]["early"], results["all"]["late"]
    rows = [[name, str(early[name]), str(late[name])] for name in early]
    return "\n\n".join([*lines, table(["", "after a tenth", "at the end"], rows)])


def summary(result: dict[str, Any]) -> str:
    statuses = ", ".join(f"{number:,} x {status}" for status, number in result["statuses"].items())
    median, p99, longest = (result[f"{name}, s"] for name in ("median", "p99", "longest"))
    return (
        f"{result['requests']:,} requests in {result['minutes']} minutes from {CLIENTS} clients on "
        f"{result['machine']}: {statuses}; {len(result['wrong'])} wrong answers, "
        f"{result['workers lost']} workers lost; median {median} s, p99 {p99} s, longest "
        f"{longest} s."
    )


if __name__ == "__main__":
    command_line.run(main)
