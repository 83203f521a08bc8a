"""Training throughput, from a plain loop to ours, one optimisation per row.

python -m benchmarks.training    # writes training.json beside it and the table in docs/training.md
python -m benchmarks.training --device cuda    # whole epochs on a GPU; same files

Each row adds one thing to the row above and runs in its own process. Each round measures all rows;
reported is the median. Photos and labels are random, since only time is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import command_line
from benchmarks.machine import processor
from training import markdown
from training.augment import augment
from training.dataset import BYTES, INDEX, PIXELS, Photo, PixelLoader, Split, write_csv
from training.devices import CPU, autocast, choose_device, keep_freed_memory, machine
from training.epoch import train_one_epoch, train_one_step
from training.files import write_json
from training.model import SimpleCNN
from training.params import load_params
from training.teach import FEATURES, MAPS, Teacher
from training.train import new_training

RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = Path(__file__).parent.parent / "docs/training.md"
MARK = "speed, written by `python -m benchmarks.training`"
BATCH = 64
STEPS = 8  # after two warm-up steps
EPOCH = 8192  # photos of an epoch on a GPU
RECIPE = load_params(Path(__file__).parent.parent / "params.yaml").train
PLAIN = {"channels_last": False, "bf16": False, "pool_first": False, "keep": False, "side": 224}
# As on older CPUs: oneDNN must not use AMX and bfloat16 units.
NO_BF16 = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
ROWS: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "plain float32 loop": (PLAIN, {}),
    "+ channels-last": (PLAIN | {"channels_last": True}, {}),
    "+ bfloat16": (PLAIN | {"channels_last": True, "bf16": True}, {}),
    "+ pool before ReLU": (PLAIN | {"channels_last": True, "bf16": True, "pool_first": True}, {}),
    "+ memory reused between steps": (
        {"channels_last": True, "bf16": True, "pool_first": True, "keep": True, "side": 224}, {}
    ),
    "+ 160 pixels, as in the first epochs": (
        {"channels_last": True, "bf16": True, "pool_first": True, "keep": True, "side": 160}, {}
    ),
    "at 224 pixels, on a CPU without bfloat16": (
        {"channels_last": True, "bf16": False, "pool_first": True, "keep": True, "side": 224},
        NO_BF16,
    ),
    "full recipe at 224 pixels, with augmentation and teacher": ({"recipe": 224}, {}),
    "full recipe at 160 pixels": ({"recipe": 160}, {}),
}  # fmt: skip


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cuda, cuda:N or cpu (default: cpu)")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # measure one row and print the result
    options = parser.parse_args()
    device = choose_device(options.device)
    if device.type != "cpu":
        report(machine(1, device), epochs_on(device, options.rounds))
        return
    if options.row:
        print(json.dumps(measure(ROWS[options.row][0])))
        return
    speeds: dict[str, list[float]] = {name: [] for name in ROWS}
    for number in range(options.rounds):
        for name, (_, environment) in ROWS.items():
            speeds[name].append(run_row(name, environment))
            print(f"round {number + 1}: {speeds[name][-1]:6.1f} photos/s  {name}", file=sys.stderr)
        # After each round, so that an interrupted run keeps its results.
        report(processor(), {name: round(median(row), 1) for name, row in speeds.items()})


def report(where: str, speeds: dict[str, float]) -> None:
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results.pop(where, None)
    results = {where: speeds, **results}
    write_json(RESULT, results)
    markdown.write_between_marks(DOCUMENT, MARK, table(results))
    print(table({where: speeds}))


def table(results: dict[str, dict[str, float]]) -> str:
    """The rows in Markdown, with the ratio to the first row; one table per machine."""
    tables = []
    for where, speeds in results.items():
        first = next(iter(speeds.values()))
        rows = [[name, str(speed), f"{speed / first:.1f}"] for name, speed in speeds.items()]
        tables.append(markdown.table([where, "photos/s", "speed-up"], rows))
    return "\n\n".join(tables)


def run_row(name: str, environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "benchmarks.training", "--row", name]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=True,
        timeout=3600,
    )  # fmt: skip
    return float(done.stdout)


class PlainCNN(SimpleCNN):
    """ReLU before the pool, as in a straightforward implementation."""

    def maps(self, photos: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(photos))))
        x = self.pool(F.relu(self.bn2(self.conv2(x))))
        x = self.pool(F.relu(self.bn3(self.conv3(x))))
        return self.pool(F.relu(self.bn4(self.conv4(x))))


def measure(setting: dict[str, object]) -> float:
    """Photos per second over `STEPS` training steps."""
    torch.manual_seed(0)
    step = recipe_step(int(setting["recipe"])) if "recipe" in setting else plain_step(setting)
    for _ in range(2):
        step()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    return STEPS * BATCH / (time.perf_counter() - started)


def plain_step(setting: dict[str, object]) -> Callable[[], None]:
    """Forward pass, backward pass and AdamW on one batch of random photos."""
    if setting["keep"]:
        keep_freed_memory()
    side = int(setting["side"])
    model = SimpleCNN() if setting["pool_first"] else PlainCNN()
    photos, labels = torch.randn(BATCH, 3, side, side), torch.randint(2, (BATCH,))
    if setting["channels_last"]:
        model = model.to(memory_format=torch.channels_last)
        photos = photos.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        with autocast(CPU, enabled=bool(setting["bf16"])):
            maps = model.maps(photos)
            maps = F.interpolate(maps.float(), (14, 14)) if side != 224 else maps
            logits = model.fc3(model.dropout(model.embed(maps)))
            loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class NoPhotos:
    """The part of a split that `new_training` uses."""

    classes = ("cat", "dog")
    photos_sha256 = ""
    left_out = 0
    sources: tuple[str, ...] = ()
    photos: tuple[Photo, ...] = ()

    def __len__(self) -> int:
        return BATCH


def epochs_on(device: torch.device, rounds: int) -> dict[str, float]:
    """Photos per second over whole epochs on random photos, after a warm-up epoch."""
    speeds = {}
    with tempfile.TemporaryDirectory() as name:
        split = random_split(Path(name))
        for side, batch, room in product((224, 160), (64, 256), (None, 0)):
            small = {"epochs": rounds + 1, "small_epochs": (rounds + 1) * (side < 224)}
            params = replace(RECIPE, batch_size=batch, small_side=side, **small)
            training = new_training(params, split, device)
            loader, teacher = PixelLoader(split, device, room), no_stats(device)
            for _ in range(rounds + 1):
                training.history.append(train_one_epoch(training, loader, teacher))
            measured = training.history[1:]
            where = "on the GPU" if loader.kept is not None else "read ahead"
            loading = median(row["loading_share"] for row in measured)
            memory = measured[-1]["gpu_memory_gb"]
            row = (
                f"full recipe at {side} pixels, {batch} photos per step, photos {where} "
                f"(loading {loading:.0%}, {memory:.1f} GB)"
            )
            speeds[row] = round(median(row["photos_per_second"] for row in measured), 1)
    return speeds


def random_split(folder: Path) -> Split:
    """EPOCH noise photos for training, and one for validation."""
    numbers = range(EPOCH + 1)
    photos = [
        Photo(
            f"{n}.jpg", "cat" if n % 2 else "dog", 1, 224, 224, f"{n:064x}", 1, f"{n:016x}",
            "train" if n < EPOCH else "validation", "noise",
        )
        for n in numbers
    ]  # fmt: skip
    write_csv(folder / INDEX, Photo, photos)
    random = np.random.default_rng(0)
    with (folder / PIXELS).open("wb") as file:
        for _ in numbers:
            file.write(random.bytes(BYTES))
    return Split(folder, "train")


def no_stats(device: torch.device) -> Teacher:
    """A teacher with neutral statistics, which costs as much time as a real one."""
    zeros, ones = torch.zeros, torch.ones
    return Teacher(
        {
            "maps_mean": zeros(MAPS, 1, 1), "maps_std": ones(MAPS, 1, 1),
            "features_mean": zeros(FEATURES), "features_std": ones(FEATURES),
            "weight": zeros(2, FEATURES), "bias": zeros(2),
        },
        device,
    )  # fmt: skip


def recipe_step(side: int) -> Callable[[], None]:
    """A step of `train` without reading the batch from disk."""
    keep_freed_memory()
    training = new_training(RECIPE, cast(Split, NoPhotos()))
    teacher = no_stats(CPU)
    photos = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    targets = torch.eye(2)[torch.randint(2, (BATCH,))]

    def step() -> None:
        train_one_step(training, augment(photos, RECIPE, 1.0), targets, side, teacher)

    return step


if __name__ == "__main__":
    command_line.run(main)
