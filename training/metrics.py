"""Evaluation metrics: pure functions of logits and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn import metrics

BINS = 15  # of confidence, for calibration error and reliability diagram


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The T that minimises the cross-entropy of softmax(logits / T); Guo and others 2017."""

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / np.exp(log_temperature), labels).item()

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def confidences(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The highest probability of each photo, and whether its class is correct; both (N,)."""
    confidence, predicted = F.softmax(logits, dim=1).max(dim=1)
    return confidence.numpy(), (predicted == labels).numpy()


def certain_threshold(confidence: np.ndarray, right: np.ndarray, accuracy: float) -> float:
    """The lowest threshold of confidence from which on photos have at least this `accuracy`.

    1.0 if there is none.
    """
    order = np.argsort(-confidence, kind="stable")
    so_far = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
    # Photos of equal confidence belong together: only after the last of them can the cut be.
    last = np.append(np.diff(confidence[order]) != 0, True)
    enough = np.flatnonzero((so_far >= accuracy) & last)
    return float(confidence[order][enough[-1]]) if len(enough) else 1.0


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Photos, mean confidence and accuracy of each non-empty bin, of 15 equally wide ones."""
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "photos": int((bin_of == number).sum()),
            "confidence": float(confidence[bin_of == number].mean()),
            "accuracy": float(right[bin_of == number].mean()),
        }
        for number in np.unique(bin_of)
    ]


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (ECE) over 15 bins; Guo and others 2017."""
    gaps = [
        row["photos"] * abs(row["confidence"] - row["accuracy"])
        for row in reliability(confidence, right)
    ]
    return float(sum(gaps) / len(right))


def calibration(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Quality of the probabilities softmax(logits): cross-entropy, Brier score and ECE."""
    probabilities = F.softmax(logits, dim=1)
    wanted = F.one_hot(labels, logits.shape[1])
    return {
        "cross_entropy": F.cross_entropy(logits, labels).item(),
        # Half the sum over classes: with two classes, the squared error of either probability.
        "brier_score": (probabilities - wanted).square().sum(1).mean().item() / 2,
        "calibration_error": calibration_error(*confidences(logits, labels)),
    }


def accuracy_of(right: np.ndarray) -> dict[str, Any]:
    """Number of photos, accuracy, and its 95 % CI (Wilson)."""
    photos, count = len(right), int(right.sum())
    if not photos:
        return {"photos": 0, "accuracy": None, "accuracy_interval": None}
    interval = binomtest(count, photos).proportion_ci(method="wilson")
    return {
        "photos": photos,
        "accuracy": count / photos,
        "accuracy_interval": [float(interval.low), float(interval.high)],
    }


def classification_metrics(
    logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str], certain: np.ndarray
) -> dict[str, Any]:
    """Accuracy, ROC AUC, calibration, share marked `certain` (a mask (N,)); precision, recall and
    F1 per class; and the confusion matrix (rows true, columns predicted)."""
    predicted = logits.argmax(dim=1)
    right = (predicted == labels).numpy()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return {
        **accuracy_of(right),
        "roc_auc": roc_auc(logits, labels),
        **calibration(logits, labels),
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
        "confusion": confusion(logits, labels),
    }


def confusion(logits: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
    """The confusion matrix: photos per true class (rows) and predicted class (columns)."""
    numbers = range(logits.shape[1])
    counts: list[list[int]] = metrics.confusion_matrix(
        labels, logits.argmax(dim=1), labels=numbers
    ).tolist()
    return counts


def roc_auc(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Area under the ROC curve, one class against the rest, averaged over the classes that occur.

    None if only one class occurs.
    """
    present = sorted(set(labels.tolist()))
    if len(present) < 2:
        return None
    # Log-odds keep their order where probabilities round to 1.
    areas = [metrics.roc_auc_score(labels == n, log_odds(logits, n)) for n in present]
    return float(np.mean(areas))


def log_odds(logits: torch.Tensor, number: int) -> torch.Tensor:
    """Log-odds of class `number` against all others, (N,)."""
    others = [column for column in range(logits.shape[1]) if column != number]
    return logits[:, number] - logits[:, others].logsumexp(dim=1)


def agreement(probabilities: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Difference between two computations of the same probabilities (N, classes)."""
    return {
        "photos": len(reference),
        "same_label": float((probabilities.argmax(1) == reference.argmax(1)).mean()),
        "largest_difference": float(np.abs(probabilities - reference).max()),
    }
