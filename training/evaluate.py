"""Calibrate a run on the validation split, then measure it on the test split.

python -m training evaluate runs/train
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from sklearn import metrics

from training.checkpoint import BEST, EVALUATION, read_run, write_atomically, write_json
from training.data import Split
from training.params import EvaluateParams, UsageError
from training.train import device, split_logits
from training.weights import checked_network, sha256_of

CONFUSION = "confusion.png"


def evaluate(index: Path, run: Path, params: EvaluateParams) -> dict[str, Any]:
    """Write evaluation.json and confusion.png into `run` and return what the first one holds.

    Raises UsageError when the run has no weights or was trained on other photos than the index.
    """
    about, train_params, state = read_run(run)
    validation, test = Split(index, "validation"), Split(index, "test")
    if about["index_sha256"] != test.index_sha256:
        raise UsageError(f"{run}: was trained on other photos or splits than {index}")
    network = checked_network(run / BEST, state, len(test.classes)).to(device())
    logits, labels = split_logits(network, validation, train_params, exact=True)
    temperature = fit_temperature(logits, labels)
    threshold = certain_threshold(
        *confidences(logits / temperature, labels), params.certain_accuracy
    )
    logits, labels = split_logits(network, test, train_params, exact=True)
    result: dict[str, Any] = {
        "sha256": sha256_of(run / BEST),
        "temperature": temperature,
        "threshold": threshold,
        "test": figures(logits / temperature, labels, test.classes, threshold),
    }
    write_json(run / EVALUATION, result)
    plot_confusion(result["test"]["confusion"], test.classes, run / CONFUSION)
    return result


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The T that minimises the cross-entropy of softmax(logits / T); Guo and others 2017."""

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / np.exp(log_temperature), labels).item()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def confidences(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each photo, and whether its class is right; both (N,)."""
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    return confidence.numpy(), (predicted == labels).numpy()


def certain_threshold(confidence: np.ndarray, right: np.ndarray, accuracy: float) -> float:
    """The lowest confidence at and above which at least `accuracy` of the photos are right.

    1.0 when there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    so_far = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
    # Photos of equal confidence stand or fall together: only the last of each can be the cut.
    last = np.append(np.diff(confidence[order]) != 0, True)
    enough = np.flatnonzero((so_far >= accuracy) & last)
    return float(confidence[order][enough[-1]]) if len(enough) else 1.0


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Mean distance of confidence from accuracy over equally wide bins; Guo and others 2017."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence - right)[bin_of == n].sum()) for n in range(bins)]
    return float(sum(gaps) / len(right))


def figures(
    logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], threshold: float
) -> dict[str, Any]:
    """Accuracy, precision, recall, F1, confusion matrix (rows true, columns predicted) and more."""
    predicted = logits.argmax(dim=1)
    confidence, right = confidences(logits, labels)
    certain = confidence >= threshold
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return {
        "photos": len(labels),
        "accuracy": float(right.mean()),
        "cross_entropy": F.cross_entropy(logits, labels).item(),
        "calibration_error": calibration_error(confidence, right),
        "certain_share": float(certain.mean()),
        "certain_accuracy": float(right[certain].mean()) if certain.any() else None,
        "classes": {
            name: {
                "precision": float(precision[number]),
                "recall": float(recall[number]),
                "f1": float(f1[number]),
                "photos": int(support[number]),
            }
            for number, name in enumerate(classes)
        },
        "confusion": metrics.confusion_matrix(
            labels, predicted, labels=range(len(classes))
        ).tolist(),
    }


def plot_confusion(confusion: list[list[int]], classes: Sequence[str], picture: Path) -> None:
    """Draw the confusion matrix into `picture`."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    display = metrics.ConfusionMatrixDisplay(np.array(confusion), display_labels=classes)
    display.plot(ax=figure.subplots(), colorbar=False, cmap="Blues")
    write_atomically(picture, lambda path: figure.savefig(path, dpi=100, format="png"))


def format_figures(test: dict[str, Any]) -> str:
    """The figures of `figures` as lines for a terminal."""
    lines = [
        f"{'':12}{'precision':>10}{'recall':>10}{'F1':>10}{'photos':>10}",
        *(
            f"{name:12}{row['precision']:10.4f}{row['recall']:10.4f}{row['f1']:10.4f}{row['photos']:10}"
            for name, row in test["classes"].items()
        ),
        "confusion (rows: true, columns: called)",
        *(
            f"{name:12}" + "".join(f"{count:10}" for count in row)
            for name, row in zip(test["classes"], test["confusion"], strict=True)
        ),
        f"accuracy {test['accuracy']:.4f} on {test['photos']} test photos",
        f"certain about {test['certain_share']:.1%} of them",
    ]
    return "\n".join(lines)
