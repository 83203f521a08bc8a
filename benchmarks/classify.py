"""Throughput of tools/classify on 10,000 photos, compared with wrk on the same server.

python -m benchmarks.classify    # 5 minutes; writes classify.json beside it and the line in
                                 # docs/deploy.md
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import command_line
from benchmarks.gateway import Target
from benchmarks.machine import processor
from benchmarks.serving import PHOTO, wrk
from testing.repository import REPOSITORY
from testing.servers import Server, temporary_server
from training.files import write_json
from training.markdown import write_between_marks

RESULT = Path(__file__).with_suffix(".json")
MARK = "bulk, written by `python -m benchmarks.classify`"
DOCUMENT = REPOSITORY / "docs/deploy.md"
PHOTOS, ROUNDS, SECONDS, AT_ONCE = 10_000, 3, 10, 16


def main() -> None:
    command_line.parser(__doc__).parse_args()
    command_line.needs("wrk", "wrk")
    with temporary_server() as server, tempfile.TemporaryDirectory() as folder:
        for number in range(PHOTOS):
            Path(folder, f"{number:05}.jpg").symlink_to(PHOTO)
        target = Target(server.predictions)
        wrk(target, PHOTO, AT_ONCE, SECONDS)  # warms up
        peaks, rates = [], []
        for _ in range(ROUNDS):
            peaks.append(wrk(target, PHOTO, AT_ONCE, SECONDS)["photos_per_second"])
            rates.append(classify(server, Path(folder)))
    result = {
        "machine": processor(), "photos": PHOTOS, "rounds": ROUNDS,
        "classify": round(median(rates), 1), "wrk": round(median(peaks), 1),
    }  # fmt: skip
    write_json(RESULT, result)
    print(report(result))
    write_between_marks(DOCUMENT, MARK, report(result))


def report(result: dict[str, Any]) -> str:
    rate, peak = result["classify"], result["wrk"]  # photos/s
    return (
        f"`tools/classify` on {result['photos']:,} photos of 25 kB: {rate:.0f} photos/s, "
        f"**{rate / peak:.0%}** of the throughput that wrk reaches with the same number of clients "
        f"({peak:.0f}/s; medians of {result['rounds']} rounds on {result['machine']}, client and "
        "server on the same cores)."
    )


def classify(server: Server, folder: Path) -> float:
    """Photos/s."""
    output = server.folder / "answers.csv"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/classify", folder, "--output", output],
        env=server.environment, cwd=server.folder, capture_output=True, text=True, check=False,
        timeout=3600,
    )  # fmt: skip
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    output.unlink()
    return PHOTOS / seconds


if __name__ == "__main__":
    command_line.run(main)
