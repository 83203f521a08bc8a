"""What 16 busy clients see during each fault.

python -m benchmarks.faults [NAME ...]

Writes faults.json and its table in docs/reliability.md. Filling the temporary folder needs root on
Linux; elsewhere that fault is skipped.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import command_line
from benchmarks.machine import processor
from testing import abuse
from testing.corrupt import CORRUPTIONS, corrupt, spoil_loaded_model
from testing.load import LATE, Load, is_whole
from testing.servers import Server, fill, new_server, small_disk, started
from tools.server.management import Refused
from training.archive import archive
from training.files import write_json
from training.markdown import table, write_between_marks

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = ROOT / "docs/reliability.md"
MARK = "faults, written by `python -m benchmarks.faults`"
SECONDS_TO_RECOVER = 150


def main() -> None:
    parser = command_line.parser(__doc__)
    possible = [name for name in FAULTS if is_possible(name)]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(possible))
    names = parser.parse_args().names or possible
    if unknown := set(names) - set(possible):
        parser.error(f"unknown fault: {', '.join(unknown)}; choose from {', '.join(possible)}")
    with tempfile.TemporaryDirectory() as folder:
        archive(ROOT / "models/catsdogs.pt", None, Path(folder, "store/catsdogs.mar"))
        for name in names:
            row = measure(FAULTS[name], Path(folder, name), Path(folder, "store"))
            print(name, row, flush=True)
            keep(name, row)


def keep(name: str, row: dict[str, Any]) -> None:
    """Add the result to the file at once: a run of all faults takes half an hour."""
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results["machine"] = processor()
    results.setdefault("faults", {})[name] = row
    write_json(RESULT, results)
    write_between_marks(DOCUMENT, MARK, report(results))


def measure(fault: Callable[[Server], None], folder: Path, store: Path) -> dict[str, Any]:
    """Start a server, keep it busy, cause the fault, and wait until the server has recovered."""
    folder.mkdir()
    server = new_server(folder, store)
    with prepared(fault, server), started(server), Load(server) as load:
        load.wait_for(100)
        fault(server)
        done = time.monotonic()
        whole = seconds_until_whole(server, done)
        load.wait_for(50, since=done + whole)
    return load.summary() | {"recovered after": round(whole, 1)}


@contextmanager
def prepared(fault: Callable[[Server], None], server: Server) -> Iterator[None]:
    """For the full temporary folder, mount a separate one of 300 MB."""
    if fault is not fill_temporary_folder:
        yield
        return
    with small_disk(Path(server.environment["TMPDIR"]), 300):
        yield


def seconds_until_whole(server: Server, since: float) -> float:
    """Seconds until it has recovered. Restarts a server that ended, as a supervisor would."""
    while not is_whole(server):
        if time.monotonic() - since > SECONDS_TO_RECOVER:
            raise RuntimeError(f"the server has not recovered after {SECONDS_TO_RECOVER} s")
        if not server.processes():
            server.start()
        time.sleep(0.1)
    return time.monotonic() - since


def nothing(server: Server) -> None:
    """No fault, for comparison."""
    time.sleep(10)


def kill_a_worker_20_times(server: Server) -> None:
    for _ in range(20):
        if workers := server.workers():
            random.choice(workers).kill()
        time.sleep(4)


def kill_all_workers(server: Server) -> None:
    for worker in server.workers():
        worker.kill()


def stop_a_worker_for_10_s(server: Server) -> None:
    worker = server.workers()[0]
    worker.suspend()
    time.sleep(10)
    worker.resume()


def freeze_a_worker(server: Server) -> None:
    worker = server.workers()[0]
    worker.suspend()
    worker.wait(SECONDS_TO_RECOVER)  # TorchServe kills it


def freeze_all_workers(server: Server) -> None:
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    for worker in workers:
        worker.wait(SECONDS_TO_RECOVER)


def fill_temporary_folder(server: Server) -> None:
    """Fill it, and kill a worker, since the next one needs a socket there."""
    fill(Path(server.environment["TMPDIR"]))
    server.workers()[0].kill()
    time.sleep(10)


def remove_archive(server: Server) -> None:
    """Remove it, and kill a worker, since the next one has to load the model."""
    (server.folder / "model_store/catsdogs.mar").unlink()
    server.workers()[0].kill()


def register_corrupt_archives(server: Server) -> None:
    store = server.folder / "model_store"
    for number, name in enumerate([*CORRUPTIONS, "half an archive"]):
        corrupt(store / "catsdogs.mar", name, f"9.{number}", store / "broken.mar")
        try:
            server.management.register("broken.mar", workers=2)
        except Refused:
            continue
        raise RuntimeError(f"{name} was registered")


def unregister(server: Server) -> None:
    """Unregister the model, and register it again 5 s later."""
    server.management.unregister()
    time.sleep(5)
    server.management.register("catsdogs.mar", workers=2)


def sigterm_launcher(server: Server) -> None:
    launcher = server.launcher()
    launcher.terminate()
    launcher.wait(60)


def sigterm_torchserve(server: Server) -> None:
    launcher = server.launcher()
    server.process("java").terminate()
    launcher.wait(60)


def slow_clients(server: Server) -> None:
    """200 clients that send headers, and 40 that send a photo, at one byte per second."""
    abuse.at_once([(abuse.trickle, 200), (abuse.trickle_body, 40)], server, 20)


def aborted_uploads(server: Server) -> None:
    abuse.at_once([(abuse.abort, 64)], server, 20)


def smuggle(server: Server) -> None:
    for request in abuse.SMUGGLING.values():
        abuse.answers_to(server, request + abuse.SMUGGLED)


def exhaust_retries(server: Server) -> None:
    """Kill workers that can't load the model again, as after a disk failure."""
    launcher = server.launcher()
    spoil_loaded_model(server)
    kill_all_workers(server)
    launcher.wait(SECONDS_TO_RECOVER)


FAULTS: dict[str, Callable[[Server], None]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        nothing, kill_a_worker_20_times, kill_all_workers, stop_a_worker_for_10_s, freeze_a_worker,
        freeze_all_workers, fill_temporary_folder, remove_archive, register_corrupt_archives,
        unregister, sigterm_launcher, sigterm_torchserve, slow_clients, aborted_uploads, smuggle,
        exhaust_retries,
    )
}  # fmt: skip


def is_possible(name: str) -> bool:
    """Only root on Linux can mount a small temporary folder."""
    return name != "fill-temporary-folder" or (sys.platform == "linux" and os.geteuid() == 0)


def report(results: dict[str, Any]) -> str:
    """The table, in the order of FAULTS."""
    head = ["fault", "requests", "statuses", "refused", "longest, s", "no answer for, s",
            "recovered after, s", "late or not JSON"]  # fmt: skip
    rows = [
        [
            name,
            f"{row['requests']:,}",
            counted(row["statuses"]),
        ]
        + [str(row["refused"]), str(row["longest"]), str(row["silence"])]
        + [str(row["recovered after"]), str(row["late or not JSON"])]
        for name, row in sorted(results["faults"].items(), key=lambda row: order(row[0]))
    ]
    return (
        f"On {results['machine']}, shared with 16 clients; an answer is late after {LATE} s.\n\n"
        f"{table(head, rows)}"
    )


def counted(statuses: dict[str, int]) -> str:
    return ", ".join(f"{number:,} x {status}" for status, number in statuses.items())


def order(name: str) -> int:
    return list(FAULTS).index(name) if name in FAULTS else len(FAULTS)


if __name__ == "__main__":
    command_line.run(main)
