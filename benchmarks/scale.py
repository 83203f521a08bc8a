"""Time and memory of the training steps with ten thousand to a million photos.

python -m benchmarks.scale    # adds to scale.json and writes the table in docs/training.md

The photos are synthetic: small files to read, only hashes to split, a sparse file of pixels to load
and evaluate. A network that averages replaces ours, whose time is linear in the photos anyway. Each
measurement runs in its own process. Time is CPU time including child processes, so that other
programs matter little; memory is anonymous memory without mapped files, sampled 20 times a second.
Rerun an interrupted benchmark to resume.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

from benchmarks import command_line
from benchmarks.machine import processor
from handler.predictor import Predictor
from training import markdown
from training.dataset import BYTES, INDEX, PIXELS, Photo, PixelLoader, Split, write_csv
from training.devices import CPU
from training.evaluate import calibrate
from training.files import write_json
from training.folders import PhotoFile
from training.inference import split_outputs
from training.measure import measure
from training.model import SimpleCNN
from training.params import load_params
from training.prepare import read_photos
from training.split import split_photos

REPOSITORY = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = REPOSITORY / "docs/training.md"
MARK = "scale, written by `python -m benchmarks.scale`"
SIZES = (10_000, 100_000, 1_000_000)
PARAMS = load_params(REPOSITORY / "params.yaml")
FILES = 400  # that are written; the others are hard links to them
EQUAL = 30_000  # such as frames of one video
STEPS = 100
SECONDS_TO_MEASURE = 6 * 3600  # one task


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Seconds of CPU time of the block, including children that have ended."""

    def now() -> float:
        return sum(os.times()[:4])

    started, ended = now(), []
    yield lambda: ended[0] - started
    ended.append(now())


def reading(photos: int, folder: Path) -> float:
    """Read photos as `prepare` does; the pixels are discarded, since they would take 150 GB."""
    random = np.random.default_rng(0)
    made = []
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for number in range(FILES // 2):
            made.append(f"{label}/{number}.jpg")
            noise = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
            noise.resize((96, 96)).save(folder / made[-1])
    for number in range(FILES, photos):
        if number % 1000 == 0:
            (folder / f"cat/{number}").mkdir()
        path = f"cat/{number // 1000 * 1000}/{number}.jpg" if number >= 1000 else f"cat/a{number}"
        os.link(folder / made[number % (FILES // 2)], folder / path)
        made.append(path)
    files = [PhotoFile(folder, path, path[:3], "made") for path in made]
    with timed() as seconds, open(os.devnull, "wb") as nowhere:
        known, rejected = read_photos(files, PARAMS.prepare.minimum_side, nowhere)
    assert (len(known), len(rejected)) == (photos, 0)
    return seconds()


def rows(hashes: np.ndarray) -> list[Photo]:
    """An index of synthetic photos with these perceptual hashes."""
    return [
        Photo(
            f"{'cat' if number % 2 else 'dog'}/{number:07}.jpg", "cat" if number % 2 else "dog",
            20_000, 300 + number % 200, 250, f"{number:064x}", 1, f"{value:016x}", "", "made",
        )
        for number, value in enumerate(hashes.tolist())
    ]  # fmt: skip


def random_hashes(photos: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, photos, dtype=np.uint64)


def equal_hashes(photos: int) -> np.ndarray:
    hashes = random_hashes(photos)
    hashes[: min(EQUAL, photos // 2)] = hashes[0]
    return hashes


def near_hashes(photos: int) -> np.ndarray:
    hashes, random = random_hashes(photos), np.random.default_rng(1)
    twins = photos // 100
    bits = random.integers(0, 64, (3, twins)).astype(np.uint64)
    hashes[-twins:] = hashes[:twins] ^ np.bitwise_or.reduce(np.uint64(1) << bits)
    return hashes


def splitting(hashes: np.ndarray) -> float:
    made = rows(hashes)
    with timed() as seconds:
        split = split_photos(made, PARAMS.prepare, lambda line: None)
    assert len(split) == len(made)
    return seconds()


def made_index(photos: int, folder: Path) -> Path:
    """An index whose pixels are a sparse file of zeros."""
    random = np.random.default_rng(0)
    splits = random.choice(["train", "validation", "test"], photos, p=[0.8, 0.1, 0.1]).tolist()
    made = (
        Photo(**{name: getattr(photo, name) for name in Photo.__slots__} | {"split": split})
        for photo, split in zip(rows(random_hashes(photos)), splits, strict=True)
    )
    write_csv(folder / INDEX, Photo, made)
    with (folder / PIXELS).open("wb") as file:
        file.truncate(photos * BYTES)
    return folder


def opening(photos: int, folder: Path) -> float:
    index = made_index(photos, folder)
    with timed() as seconds:
        Split(index, "train")
    return seconds()


def loading(photos: int, folder: Path) -> float:
    """Seconds per step, the mean of 100."""
    split = Split(made_index(photos, folder), "train")
    size = PARAMS.train.batch_size
    order = torch.randperm(len(split))[: STEPS * size].view(STEPS, size)
    with timed() as seconds:
        for _ in PixelLoader(split, CPU).batches(order):
            pass
    return seconds() / STEPS


class Averages(nn.Module):
    """The part of SimpleCNN that evaluation uses, at nearly no cost."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def maps(self, photos: torch.Tensor) -> torch.Tensor:
        means = photos[:, :, ::32, ::32].mean((1, 2, 3)).view(-1, 1, 1, 1)
        return self.scale * means + torch.randn(len(photos), 256, 1, 1)

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        return maps[:, :2, 0, 0]


class Answers(Predictor):
    """A predictor with constant answers."""

    def __init__(self, card: dict[str, Any]) -> None:
        self.card, self.classes, self.backend = card, ["cat", "dog"], "none"
        self.threshold, self.ood_limit = card["threshold"], card["ood_score"]["limit"]

    def infer(self, pixels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        sure = np.full(len(pixels), 0.9, np.float32)
        return np.stack([sure, 1 - sure], axis=1), sure


def evaluating(photos: int, folder: Path) -> float:
    """Outputs, calibration and metrics of validation and test, a tenth of the photos each."""
    index = made_index(photos, folder)
    network = cast(SimpleCNN, Averages())
    with timed() as seconds:
        validation, test = Split(index, "validation"), Split(index, "test")
        outputs = [split_outputs(network, split, PARAMS.train) for split in (validation, test)]
        card = calibrate(validation, outputs[0], PARAMS.evaluate)
        measure(Answers(card), test, outputs[1])
    return seconds()


TASKS: dict[str, Callable[[int, Path], float]] = {
    "split: random hashes": lambda photos, _: splitting(random_hashes(photos)),
    "split: with 30,000 equal hashes": lambda photos, _: splitting(equal_hashes(photos)),
    "split: with 1 % near duplicates": lambda photos, _: splitting(near_hashes(photos)),
    "open a split": opening,
    "load the photos of one step": loading,
    "evaluate, without the network": evaluating,
    "read and hash files (`prepare`)": reading,
}


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--folder", type=Path, help="for 5 GB of synthetic files (default: temporary)"
    )
    parser.add_argument("--task", nargs=2, metavar=("NAME", "PHOTOS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.task:
            task, photos = options.task
            print(json.dumps(TASKS[task](int(photos), Path(name))))
            return
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if result.get("machine") != processor():
        result = {"machine": processor(), "rows": {}}
    for size in SIZES:
        for task in TASKS:
            row = result["rows"].setdefault(task, {})
            if str(size) not in row:
                row[str(size)] = measured(task, size, options.folder)
                print(f"{task}, {size:,}: {row[str(size)]}", file=sys.stderr)
                write_json(RESULT, result)
                markdown.write_between_marks(DOCUMENT, MARK, table(result))


def measured(task: str, photos: int, folder: Path | None) -> dict[str, float]:
    """Seconds, and the peak memory in gigabytes of the process and its children."""
    where = ["--folder", str(folder)] if folder else []
    command = [sys.executable, "-m", "benchmarks.scale", *where, "--task", task, str(photos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        most, deadline = 0, time.monotonic() + SECONDS_TO_MEASURE
        while child.poll() is None and time.monotonic() < deadline:
            most = max(most, allocated(child.pid))
            time.sleep(0.05)
        child.kill()  # no effect if it has ended
        assert child.stdout
        printed = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{task} with {photos:,} photos failed; run its --task to see why")
    return {"seconds": round(json.loads(printed), 4), "gigabytes": round(most / 1e9, 2)}


def allocated(pid: int) -> int:
    """Bytes of anonymous memory of a process and its children."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in family:
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            anonymous = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            total += 1024 * sum(map(int, anonymous))
    except (psutil.NoSuchProcess, OSError):  # a process ended meanwhile
        pass
    return total


def exponent(row: dict[str, Any]) -> float:
    """Growth of time between the two largest sizes: 1 is linear, 2 is quadratic."""
    small, large = (row[str(size)]["seconds"] for size in SIZES[-2:])
    return math.log10(large / small) / math.log10(SIZES[-1] / SIZES[-2])


def table(result: dict[str, Any]) -> str:
    """A row per complete task: time and memory at each size, and the exponent."""
    heads = [f"{size:,} photos" for size in SIZES]
    lines = [
        [
            task,
            *(f"{duration(row[str(n)]['seconds'])}, {row[str(n)]['gigabytes']} GB" for n in SIZES),
            f"{exponent(row):.2f}",
        ]
        for task, row in result["rows"].items()
        if len(row) == len(SIZES)
    ]
    return f"{markdown.table([result['machine'], *heads, 'exponent'], lines)}"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


if __name__ == "__main__":
    command_line.run(main)
