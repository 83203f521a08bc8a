"""What data, augmentation and distillation brought to release 2.0: short trainings, two seeds each.

python -m benchmarks.finetuning --start catsdogs-1.1.pt --index runs/index \\
    --teacher-stats runs/teacher [--device cuda]
    # adds to benchmarks/finetuning.json, row by row, and writes the table in docs/training.md

Each run continues release 1.1 (`git show d902587:models/catsdogs.pt`, and the .json) on 8,000
random photos at 160 x 160 pixels. Each row adds one thing to the row above. An interrupted run
resumes with the missing rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from benchmarks import command_line
from benchmarks.trained import trained
from training import markdown
from training.dataset import Split, excluded_photos
from training.devices import choose_device, machine
from training.files import write_json
from training.inference import split_logits
from training.params import TrainParams, load_params

REPOSITORY = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = REPOSITORY / "docs/training.md"
MARK = "finetuning, written by `python -m benchmarks.finetuning`"
SEEDS = (1, 2)
KINDS = ("validation", "foreign_validation")
COLLECTION = "photos"  # the source that has photos in all splits
BUDGET: dict[str, object] = {
    "epochs": 2, "epoch_photos": 4000, "small_epochs": 2, "batch_size": 64,
    "learning_rate": 0.0007, "warmup_share": 0.1, "ema_decay": 0.97, "final_strength": 0.4,
    "teacher_maps": 3.0, "teacher_features": 3.0,
}  # fmt: skip
# Each row adds its parameters to those of the rows above.
ROWS: dict[str, dict[str, object]] = {
    "photos of the collection only": {},
    "+ photos by other people": {},
    "+ zooming out": {"zoom_out": 0.3},
    "+ more stretch and tilt (1.3 to 1.6; 8° to 15°)": {"aspect": 1.6, "tilt": 15.0},
    "+ more weight of the teacher's probabilities (0.5 to 0.8)": {"teacher_labels": 0.8},
}
ALONE = next(iter(ROWS))


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--index", type=Path, default=Path("runs/index"))
    parser.add_argument("--teacher-stats", type=Path, default=Path("runs/teacher"))
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    ours = load_params(REPOSITORY / "params.yaml").finetune
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": {}}
    results["machine"] = machine(1, device)
    for name, params in planned(ours):
        runs = results["rows"].setdefault(name, {})
        if str(params.seed) not in runs:
            print(f"{name} (seed {params.seed})", file=sys.stderr)
            left_out = excluded_photos(params)
            if name == ALONE:
                left_out |= set(by_other_people(Split(options.index, "train")))
            runs[str(params.seed)] = run(options, params, left_out, device)
            write_json(RESULT, results)
    markdown.write_between_marks(DOCUMENT, MARK, report(results))


def planned(ours: TrainParams) -> Iterable[tuple[str, TrainParams]]:
    """Names and parameters of all runs, the first seed of all rows first."""
    for seed in SEEDS:
        changed = dict(BUDGET)
        for name, added in ROWS.items():
            changed |= added
            yield name, dataclasses.replace(ours, **(changed | {"seed": seed}))


def by_other_people(split: Split) -> list[str]:
    """The paths of training photos that are not of the collection."""
    return [photo.path for photo in split.photos if photo.source != COLLECTION]


def run(
    options: argparse.Namespace, params: TrainParams, left_out: set[str], device: torch.device
) -> dict[str, float]:
    """Accuracy on validation, by kind, of a training without the paths `left_out`."""
    network = trained(
        options.index, params, left_out,
        teacher_stats=options.teacher_stats, device=device, start=options.start,
    )  # fmt: skip
    validation = Split(options.index, "validation")
    logits, labels = split_logits(network.to(device), validation, params)
    right = (logits.argmax(1) == labels).numpy()
    of_kinds = (~validation.foreign, validation.foreign)
    return {name: float(np.mean(right[rows])) for name, rows in zip(KINDS, of_kinds, strict=True)}


def report(results: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """The means over seeds in Markdown, with what each row changed, or "none" within its spread."""
    rows, before = [], None
    for name in ROWS:
        row, runs = [name], list(results["rows"][name].values())
        for kind in KINDS:
            shares = [100 * one[kind] for one in runs]
            row.append(f"{mean(shares):.1f} %")
            if before:
                spread = max(max(s) - min(s) for s in (shares, before[kind]))
                step = mean(shares) - mean(before[kind])
                row.append(f"{step:+.1f}" if abs(step) > spread else "none")
            else:
                row.append("")
        before = {kind: [100 * one[kind] for one in runs] for kind in KINDS}
        rows.append(row)
    head = ["recipe", "validation", "change", "foreign validation", "change"]
    return f"""\
{markdown.table(head, rows)}

Means of {len(SEEDS)} seeds, measured on {results["machine"]}. A change is "none" if it is smaller
than the difference between two seeds of the same recipe."""


if __name__ == "__main__":
    command_line.run(main)
