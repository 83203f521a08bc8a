"""How well do the alerts detect shifted photos, and how good is the accuracy estimate?

python -m benchmarks.drift    # after `python -m training prepare`; needs promtool

Runs photos through the released model, and the metrics that the handler would export through the
rules of monitoring/, at one photo per second: 20 minutes of ordinary photos, then shifted ones.
Ordinary traffic is mixed as for the drift reference: half test photos, half foreign validation
photos (of prepare.validation_sources). Writes drift.json and the tables in docs/monitoring.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from benchmarks import command_line
from handler.drift_features import bin_of, drift_features
from handler.predictor import Predictor
from testing.repository import CARD, VERSION
from testing.traffic import PER_STEP, STEP, firing
from training.dataset import Split
from training.files import UsageError, write_json
from training.markdown import percent, table, write_between_marks
from training.predict import load_predictor

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
DOCUMENT = ROOT / "docs/monitoring.md"
SHIFTS = "alerts, written by `python -m benchmarks.drift`"
ESTIMATES = "estimates, written by `python -m benchmarks.drift`"
ORDINARY = 20  # minutes before a shift
SHIFTED = 20
SEEDS = 10
HOURS = 1  # of ordinary traffic per seed

Change = Callable[[np.ndarray], np.ndarray]  # of uint8 (224, 224, 3)


def darkened(share: float) -> Change:
    return lambda pixels: (pixels * share).astype(np.uint8)


def blurred(radius: float) -> Change:
    """Gaussian blur; `radius` in pixels of 224."""
    return lambda pixels: np.asarray(
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius))
    )


def noisy(deviation: float) -> Change:
    noise = np.random.default_rng(0).normal(0, deviation, (224, 224, 3))
    return lambda pixels: (pixels + noise).clip(0, 255).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "as they are": lambda pixels: pixels,
    "darkened to 60 %": darkened(0.6),
    "darkened to 30 %": darkened(0.3),
    "blurred by 1.5 pixels": blurred(1.5),
    "blurred by 4 pixels": blurred(4),
    "noise of 25 levels": noisy(25),
}
# Traffic: a change, and the only class that is sent (None: all).
SCENARIOS: dict[str, tuple[str, str | None]] = {
    "darkened to 30 %": ("darkened to 30 %", None),
    "darkened to 60 %": ("darkened to 60 %", None),
    "blurred by 1.5 pixels": ("blurred by 1.5 pixels", None),
    "blurred by 4 pixels": ("blurred by 4 pixels", None),
    "noise of 25 levels": ("noise of 25 levels", None),
    "cats only": ("as they are", "cat"),
    "dogs only": ("as they are", "dog"),
}

Seen = list[dict[str, Any]]  # of photos: drift features, "class_name" and the true "label"


def main() -> None:
    parser = command_line.parser(__doc__)
    parser.add_argument("--index", type=Path, default=Path("runs/index"))
    options = parser.parse_args()
    command_line.needs("promtool", "prometheus")
    test, validation = Split(options.index, "test"), Split(options.index, "validation")
    foreign = np.flatnonzero(validation.foreign)
    if not len(foreign):
        raise UsageError(
            f"{options.index} has no foreign validation photos, of which half of the release's "
            "reference is; name their sources in prepare.validation_sources"
        )
    predictor = load_predictor(ROOT / "models/catsdogs.pt", CARD)
    seen = {}
    for name, change in CHANGES.items():
        own = see(predictor, test, range(len(test)), change, name)
        others = see(predictor, validation, foreign, change, f"{name}, foreign")
        repeats = round(len(own) / len(others))
        seen[name] = own + others * repeats  # so that both have about the same weight
    result = {
        "release": VERSION,
        "photos": {"test": len(test), "foreign": len(foreign)},
        "shifts": {name: detection(seen, *sent) for name, sent in SCENARIOS.items()},
        "false_alarms": [false_alarms(seen["as they are"], seed) for seed in range(SEEDS)],
        "estimates": {name: estimate(photos) for name, photos in seen.items()},
    }
    write_json(RESULT, result)
    for mark, text in ((SHIFTS, shift_report(result)), (ESTIMATES, estimate_report(result))):
        write_between_marks(DOCUMENT, mark, text)
        print(text)


def see(
    predictor: Predictor, split: Split, numbers: Iterable[int], change: Change, name: str
) -> Seen:
    """What the handler would count for these photos of `split`, changed."""
    seen = []
    for number in tqdm(numbers, name):
        photo = split.photos[number]
        pixels = change(np.asarray(split.pixels[split.rows[number]]))
        (probabilities,), _ = predictor.infer([pixels])
        size = (photo.width, photo.height)
        counted = drift_features(pixels, size, float(probabilities.max()))
        answer = predictor.classes[int(probabilities.argmax())]
        seen.append(counted | {"class_name": answer, "label": photo.label})
    return seen


def detection(seen: dict[str, Seen], change: str, only: str | None) -> dict[str, Any]:
    """The alerts that fire after the shift, and the minutes until the first."""
    random = np.random.default_rng(0)
    shifted = [photo for photo in seen[change] if only in (None, photo["label"])]
    traffic = [
        *steps(seen["as they are"], ORDINARY, random),
        *steps(shifted, SHIFTED, random),
    ]
    fired = {minute: alerts for minute, alerts in firing(traffic).items() if alerts}
    after = {minute - ORDINARY: alerts for minute, alerts in fired.items() if minute > ORDINARY}
    return {
        "before": len(fired) - len(after),  # minutes
        "minutes": min(after, default=None),
        "alerts": sorted(set().union(*after.values())),
    }


def false_alarms(photos: Seen, seed: int) -> int:
    """Minutes of an hour of ordinary traffic in which an alert fires."""
    traffic = steps(photos, 60 * HOURS, np.random.default_rng(seed))
    return sum(bool(alerts) for alerts in firing(traffic).values())


def steps(photos: Seen, minutes: int, random: np.random.Generator) -> Iterator[Seen]:
    """Random photos, one per second, grouped by scrape interval."""
    for _ in range(minutes * PER_STEP):
        yield [photos[number] for number in random.integers(len(photos), size=STEP)]


def estimate(photos: Seen) -> dict[str, float]:
    """True accuracy, and its estimates by mean confidence and by confidence bins (as the rules)."""
    reference = CARD["reference"]
    edges, means = reference["drift_features"]["confidence"]["edges"], reference["confidence_means"]
    return {
        "accuracy": float(np.mean([photo["class_name"] == photo["label"] for photo in photos])),
        "by_confidence": float(np.mean([photo["confidence"] for photo in photos])),
        "by_bins": float(np.mean([means[bin_of(photo["confidence"], edges)] for photo in photos])),
    }


def shift_report(result: dict[str, Any]) -> str:
    rows = [
        [name, str(row["minutes"] or "none in time"), ", ".join(row["alerts"]) or "none"]
        for name, row in result["shifts"].items()
    ]
    alarms: Sequence[int] = result["false_alarms"]
    photos = result["photos"]
    return (
        f"{table(['photos', 'minutes to the first alert', 'alerts within 20 minutes'], rows)}\n\n"
        f"Release {result['release']}; half of the traffic is from {photos['test']:,} test photos, "
        f"half from {photos['foreign']:,} foreign validation photos. Ordinary photos, "
        f"{len(alarms)} times {HOURS} hour with other seeds: an alert fired in "
        f"{sum(map(bool, alarms))} of them. Before the shifts, an alert fired in "
        f"{sum(bool(row['before']) for row in result['shifts'].values())} of "
        f"{len(result['shifts'])} times {ORDINARY} minutes."
    )


def estimate_report(result: dict[str, Any]) -> str:
    rows = [
        [name, percent(row["accuracy"]), percent(row["by_confidence"]), percent(row["by_bins"])]
        for name, row in result["estimates"].items()
    ]
    return table(["photos", "accuracy", "mean confidence", "estimated by the rules"], rows)


if __name__ == "__main__":
    command_line.run(main)
