"""What each step of the recipe brings: short trainings of equal budget, and their spread.

python -m benchmarks.ablation --index runs/index --teacher-stats runs/teacher
    # adds to benchmarks/ablation.json, row by row, and writes the table in docs/training.md

Each row trains for 6 epochs, the first 4 on 160 x 160 pixels, on the same 4,000 training photos. It
adds one thing to the row above. Accuracy is measured on the validation photos, clean and degraded
(64 pixels wide, JPEG quality 25). An interrupted run resumes with the missing rows.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import command_line
from benchmarks.trained import trained
from training import markdown
from training.augment import recompress
from training.dataset import Split, excluded_photos
from training.devices import CPU, autocast
from training.files import UsageError, write_json
from training.inference import split_logits
from training.model import SimpleCNN, normalise
from training.params import TrainParams, load_params

REPOSITORY = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = REPOSITORY / "docs/training.md"
MARK = "ablation, written by `python -m benchmarks.ablation`"
PHOTOS = 4000
SEEDS = (1, 2, 3)
BUDGET = {"epochs": 6, "small_epochs": 4}
PLAIN: dict[str, object] = {
    "ema_decay": 0.0, "final_strength": 1.0, "mixup": 0.0, "crop_scale": 0.5, "aspect": 1.33,
    "tilt": 0.0, "low_resolution": 0.0, "jpeg": 0.0, "brightness": 0.3, "contrast": 0.3,
    "saturation": 0.3, "tint": 0.0, "teacher_labels": 0.0, "teacher_maps": 0.0,
    "teacher_features": 0.0, "excluded": "",
}  # fmt: skip
# The parameters that each row takes from params.yaml, in addition to those of the rows above.
ROWS = {
    "crop, mirror and colour; one-cycle (cosine) schedule": (),
    "+ moving average of the weights": ("ema_decay",),
    "+ stretch, tilt, tint, thumbnails, JPEG; less of it towards the end": (
        "final_strength", "crop_scale", "aspect", "tilt", "low_resolution", "jpeg", "brightness",
        "contrast", "saturation", "tint",
    ),
    "+ reviewed labels left out": ("excluded",),
    "+ mixup": ("mixup",),
    "+ teacher": ("teacher_labels", "teacher_maps", "teacher_features"),
}  # fmt: skip
WHOLE = list(ROWS)[-1]

Results = dict[str, dict[str, Any]]  # by row: two accuracies, and which photos it was measured on


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--index", type=Path, default=Path("runs/index"))
    parser.add_argument("--teacher-stats", type=Path, default=Path("runs/teacher"))
    options = parser.parse_args()
    ours = load_params(REPOSITORY / "params.yaml").train
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, params in planned(ours):
        if name not in results:
            check_photos(results, Split(options.index, "train").photos_sha256)
            print(f"{name} (seed {params.seed})", file=sys.stderr)
            results[name] = run(options.index, options.teacher_stats, params)
            write_json(RESULT, results)
    markdown.write_between_marks(DOCUMENT, MARK, table(results))


def check_photos(results: Results, photos_sha256: str) -> None:
    """Raise UsageError if a row was measured on other photos. Old rows didn't note them."""
    for name, row in results.items():
        if row.get("photos_sha256", photos_sha256) != photos_sha256:
            raise UsageError(
                f"{RESULT}: {name!r} was measured on other photos; prepare those, or delete the row"
            )


def planned(ours: TrainParams) -> list[tuple[str, TrainParams]]:
    """Names and parameters of the rows, and of the last one with the other seeds."""
    runs, taken = [], dict(PLAIN)
    for name, fields in ROWS.items():
        taken |= {field: getattr(ours, field) for field in fields}
        runs.append((name, dataclasses.replace(ours, **(taken | BUDGET | {"seed": SEEDS[0]}))))
    whole = runs[-1][1]
    return runs + [
        (f"{WHOLE}, seed {seed}", dataclasses.replace(whole, seed=seed)) for seed in SEEDS[1:]
    ]


def run(index: Path, teacher_stats: Path, params: TrainParams) -> dict[str, float | str]:
    """Train on 4,000 photos in a temporary folder; accuracy on validation, clean and degraded."""
    split = Split(index, "train")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0)).tolist()
    left_out = {split.photos[number].path for number in order[PHOTOS:]} | excluded_photos(params)
    network = trained(index, params, left_out, teacher_stats=teacher_stats)
    validation = Split(index, "validation")
    logits, labels = split_logits(network, validation, params)
    return {
        "accuracy": float((logits.argmax(1) == labels).float().mean()),
        "degraded_accuracy": degraded_accuracy(network, validation, params),
        "photos_sha256": split.photos_sha256,
    }


@torch.inference_mode()
def degraded_accuracy(network: SimpleCNN, split: Split, params: TrainParams) -> float:
    """Accuracy on photos that were shrunk to 64 pixels and compressed at quality 25."""
    right = 0
    for start in range(0, len(split), params.batch_size):
        numbers = range(start, min(start + params.batch_size, len(split)))
        photos = split.pixel_batch(numbers).float()
        small = F.interpolate(photos, (64, 64), mode="bilinear", antialias=True)
        degraded = F.interpolate(recompress(small, 1.0, (25, 25)), (224, 224), mode="bilinear")
        with autocast(CPU):
            logits = network(normalise(degraded, params.mean, params.std))
        labels = torch.tensor(split.labels[numbers.start : numbers.stop])
        right += int((logits.argmax(1) == labels).sum())
    return right / len(split)


def table(results: Results) -> str:
    """The rows in Markdown, and the spread over seeds below them."""
    of_seeds = [WHOLE, *(f"{WHOLE}, seed {seed}" for seed in SEEDS[1:])]
    for name in [*ROWS, *of_seeds]:
        if name not in results:
            raise UsageError(f"{RESULT}: lacks {name!r}; run `python -m benchmarks.ablation`")
    keys = ("accuracy", "degraded_accuracy")
    rows = [[name, *(markdown.percent(results[name][key]) for key in keys)] for name in ROWS]
    seeds = [results[name] for name in of_seeds]
    spreads = []
    for key in keys:
        shares = [100 * row[key] for row in seeds]
        spreads.append(f"{mean(shares):.1f} ± {stdev(shares):.1f} %")
    return f"""\
{markdown.table(["recipe", "validation", "degraded"], rows)}

The last row over {len(seeds)} seeds, mean ± standard deviation: {spreads[0]} on
validation, {spreads[1]} on degraded photos."""


if __name__ == "__main__":
    command_line.run(main)
