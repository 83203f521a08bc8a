"""How near tools/classify comes to what the server can, on a folder of 10,000 photos.

python -m benchmarks.classify    # 5 minutes; writes the line in docs/deploy.md
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.gateway import Target
from benchmarks.machine import processor
from benchmarks.serving import PHOTO, wrk
from tests.conftest import REPOSITORY
from tests.e2e.servers import Server, temporary_server
from training.markdown import write_between_marks

MARK = "bulk, written by `python -m benchmarks.classify`"
DOCUMENT = REPOSITORY / "docs/deploy.md"
PHOTOS, ROUNDS, SECONDS, AT_ONCE = 10_000, 3, 10, 16


def main() -> None:
    with temporary_server() as server, tempfile.TemporaryDirectory() as folder:
        for number in range(PHOTOS):
            Path(folder, f"{number:05}.jpg").symlink_to(PHOTO)
        target = Target(server.predictions)
        wrk(target, PHOTO, AT_ONCE, SECONDS)  # warms up
        peaks, rates = [], []
        for _ in range(ROUNDS):
            peaks.append(wrk(target, PHOTO, AT_ONCE, SECONDS)["photos_per_second"])
            rates.append(classify(server, Path(folder)))
    share = median(rates) / median(peaks)
    text = (
        f"`tools/classify` on {PHOTOS:,} photos of 25 kB: {median(rates):.0f} photos/s, "
        f"**{share:.0%}** of what wrk gets out of the same server with as many clients "
        f"({median(peaks):.0f}; medians of {ROUNDS} rounds on {processor()}, client and server on "
        "the same cores)."
    )
    print(text)
    write_between_marks(DOCUMENT, MARK, text)


def classify(server: Server, folder: Path) -> float:
    """Photos/s."""
    output = server.folder / "answers.csv"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools/classify", folder, "--output", output],
        env=server.environment, cwd=server.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    output.unlink()
    return PHOTOS / seconds


if __name__ == "__main__":
    main()
