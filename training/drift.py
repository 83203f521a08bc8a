"""The drift reference from validation photos, and the Prometheus rules that compare with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from files.atomic import write_atomically
from handler.drift_features import bin_of, drift_features
from training.dataset import Split

BINS = 10
FLOOR = 0.001  # of a share, since the PSI takes its logarithm
# Windows of the rules and their evaluation intervals: a sudden shift shows in minutes, a slow one
# in a day. Keep intervals well below 5 minutes: Prometheus ignores older samples, and an alert
# without samples restarts its `for`. A day of 4 pods takes half a second to evaluate.
WINDOWS = {"10m": "15s", "1d": "1m"}


def reference(
    split: Split, numbers: np.ndarray, confidence: np.ndarray, predicted: Sequence[int]
) -> dict[str, Any]:
    """Deciles of each drift feature over photos of `split`, and the share of each predicted class.

    `numbers` (N,) selects photos, with repetitions as weights; `confidence` (N,) and `predicted`
    (class numbers, N) belong to them. The mean confidence of each bin serves to estimate accuracy
    without labels.
    """
    sure_of = dict(zip(numbers.tolist(), confidence.tolist(), strict=True))
    of_photo = {
        number: drift_features(
            split.pixels[split.rows[number]],
            (split.photos[number].width, split.photos[number].height),
            sure,
        )
        for number, sure in sure_of.items()
    }
    rows = [of_photo[number] for number in numbers.tolist()]
    bins = {name: deciles(np.array([row[name] for row in rows])) for name in rows[0]}
    edges = bins["confidence"]["edges"]
    number = np.array([bin_of(float(sure), edges) for sure in confidence])
    return {
        "photos": len(of_photo),
        "class_shares": {
            name: float(np.mean(np.asarray(predicted) == of_class))
            for of_class, name in enumerate(split.classes)
        },
        "confidence_means": [
            float(confidence[number == of_bin].mean()) for of_bin in range(len(edges) + 1)
        ],
        "drift_features": bins,
    }


def deciles(values: np.ndarray) -> dict[str, list[float]]:
    """The edges between ten bins with equally many `values`, and the share in each bin.

    Frequent values, such as a camera's picture size, make fewer bins and unequal shares.
    """
    cuts = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf")
    edges = [float(cut) for cut in np.unique(cuts) if cut < values.max()]
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)
    return {"edges": edges, "shares": [float(count / len(values)) for count in counts]}


def write_drift_rules(card: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(drift_rules(card)))


def drift_rules(card: dict[str, Any]) -> str:
    """Recording rules as YAML: the reference in `card`, and the distance of traffic from it."""
    known = card["reference"]
    groups = [{"name": "reference", "interval": "1m", "rules": list(constants(known))}]
    for window, interval in WINDOWS.items():
        rules = list(comparisons(window))
        groups.append({"name": f"drift over {window}", "interval": interval, "rules": rules})
    head = (
        "# Written by `python -m training release` from the reference in models/catsdogs.json;\n"
        "# don't edit it by hand. docs/monitoring.md explains it.\n"
    )
    return head + yaml.safe_dump({"groups": groups}, sort_keys=False, width=100)


def constants(known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The reference as constant series, for use in expressions."""

    def constant(name: str, value: float, **labels: str) -> dict[str, Any]:
        return {"record": name, "expr": f"vector({value:.6g})", "labels": labels}

    for quantity, row in known["drift_features"].items():
        for number, share in enumerate(row["shares"]):
            labels = {"quantity": quantity, "bin": str(number)}
            yield constant("photo_quantity:reference_share", share, **labels)
    for number, mean in enumerate(known["confidence_means"]):
        yield constant("prediction_confidence:reference_mean", mean, bin=str(number))
    for name, share in known["class_shares"].items():
        yield constant("predictions_by_class:reference_share", share, class_name=name)


def comparisons(window: str) -> Iterator[dict[str, str]]:
    """Rules for the distance of the photos in the last `window` from the reference.

    psi: the population stability index, the sum over bins of (share - reference) *
    ln(share / reference); Siddiqi 2006. accuracy_estimate: confidence-based performance estimation
    (CBPE), the mean confidence that photos of these bins had on validation.
    """
    counted = f"increase(photo_quantity_total[{window}])"
    answers = f"increase(predictions_by_class[{window}])"
    share = f"photo_quantity:share_{window}"
    floored = f"clamp_min({share}, {FLOOR})"
    known = f"clamp_min(photo_quantity:reference_share, {FLOOR})"
    rules = {
        f"photo_quantity:photos_{window}": f"sum by (quantity) ({counted})",
        share: (
            f"sum by (quantity, bin) ({counted})"
            f" / on (quantity) group_left () (photo_quantity:photos_{window} > 0)"
        ),
        f"photo_quantity:psi_{window}": (
            f"sum by (quantity) (({floored} - {known}) * ln({floored} / {known}))"
        ),
        f"predictions_by_class:share_{window}": (
            f"sum by (class_name) ({answers}) / on () group_left () (sum ({answers}) > 0)"
        ),
        f"predictions_by_class:shift_{window}": (
            f"predictions_by_class:share_{window} - predictions_by_class:reference_share"
        ),
        f"prediction:accuracy_estimate_{window}": (
            f'sum ({share}{{quantity="confidence"}}'
            " * on (bin) group_left () prediction_confidence:reference_mean)"
        ),
    }
    for name, expression in rules.items():
        yield {"record": name, "expr": expression}
