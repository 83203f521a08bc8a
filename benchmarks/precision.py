"""Latency on one core and accuracy of each backend and precision.

python -m benchmarks.precision --index runs/index

Writes precision.json, with an entry per machine, and their tables in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from benchmarks import command_line
from benchmarks.machine import processor
from benchmarks.report import DOCUMENT
from handler.backend import Backend, load_backend
from testing.repository import VERSION
from training import markdown
from training.dataset import Split
from training.files import write_json
from training.model import load_classifier
from training.weights import read_card

RESULT = Path(__file__).with_suffix(".json")
MARK = "precision, written by `python -m benchmarks.precision`"
WEIGHTS = Path(__file__).parent.parent / "models/catsdogs.pt"
REPEATS = 20
BATCH = 8


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--index", type=Path, default=Path("runs/index"))
    split = Split(parser.parse_args().index, "validation")
    pixels, labels = split.pixels[split.rows], np.array(split.labels)
    rows, exact = {}, None
    for name, run in backends().items():
        parts = [run(pixels[start : start + BATCH])[0] for start in range(0, len(pixels), BATCH)]
        probabilities = np.concatenate(parts)
        exact = probabilities if exact is None else exact
        distance = np.abs(probabilities - exact)
        rows[name] = [
            f"{milliseconds(run, pixels[:1]):.1f}",
            f"{milliseconds(run, pixels[:BATCH]) / BATCH:.1f}",
            f"{100 * (probabilities.argmax(1) == labels).mean():.2f} %",
            f"{distance.mean():.4f} / {distance.max():.4f}",
        ]
        print(name, *rows[name])
    machines = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    machines.pop(processor(), None)
    machines = {
        processor(): {"release": VERSION, "photos": len(labels), "rows": rows},
        **machines,
    }
    write_json(RESULT, machines)
    markdown.write_between_marks(DOCUMENT, MARK, report(machines))


def report(machines: dict[str, dict[str, Any]]) -> str:
    return "\n\n".join(table(machine, **figures) for machine, figures in machines.items())


def table(machine: str, release: str, photos: int, rows: dict[str, list[str]]) -> str:
    head = [
        "",
        "ms, 1 photo",
        f"ms per photo, batch of {BATCH}",
        "validation",
        "mean / largest distance",
    ]
    text = markdown.table(head, [[name, *row] for name, row in rows.items()])
    note = (
        f"Release {release}, minimum of {REPEATS} runs on one of {machine}; {photos:,} validation "
        "photos."
    )
    return f"{note}\n\n{text}"


def backends() -> dict[str, Backend]:
    """All backends; PyTorch first, as the reference for the others."""
    card = read_card(WEIGHTS.with_suffix(".json"))
    bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    choices = [{"backend": "pytorch"}, {"precision": "f32"}, {"precision": "int8"}]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for options in choices + [{"precision": "bf16"}] * bf16:
            name, run = load_backend(
                lambda: load_classifier(WEIGHTS, card),
                card["activation_ranges"], Path(folder), None, options,
            )  # fmt: skip
            found[name] = run
    return found


def milliseconds(run: Backend, pixels: np.ndarray) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run(pixels)
        seconds.append(time.perf_counter() - started)
    return 1e3 * min(seconds)


if __name__ == "__main__":
    command_line.run(main)
