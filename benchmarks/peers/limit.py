"""Upper limit without a server: decode and forward pass of our handler, one process per core.

python -m benchmarks.peers.limit PHOTO SECONDS    # prints photos/s
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

BATCH = 8


def main() -> None:
    photo, seconds = Path(sys.argv[1]), float(sys.argv[2])
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cores) as pool:
        # The first one caches the converted network; then all measure during the same period.
        pool.submit(photos_per_second, photo, Path(folder), 0.0, 0.0).result()
        start = time.time() + 10
        runs = [
            pool.submit(photos_per_second, photo, Path(folder), start, seconds)
            for _ in range(cores)
        ]
        print(sum(run.result() for run in runs))


def photos_per_second(photo: Path, folder: Path, start: float, seconds: float) -> float:
    """Throughput of one process, measured from `start` (seconds since 1970)."""
    import numpy as np

    from handler.backend import load_backend
    from handler.photo import decode_photo
    from training.model import load_classifier
    from training.weights import read_card

    weights = Path(__file__).parents[2] / "models/catsdogs.pt"
    card = read_card(weights.with_suffix(".json"))
    _, run = load_backend(
        lambda: load_classifier(weights, card), card["activation_ranges"], folder, None, {}
    )
    data = photo.read_bytes()
    run(np.stack([decode_photo(data)] * BATCH))
    time.sleep(max(0.0, start - time.time()))
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        run(np.stack([decode_photo(data) for _ in range(BATCH)]))
        count += BATCH
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
