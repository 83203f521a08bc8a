"""Plots of a run: loss curve, confusion matrix, reliability diagram, worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from files.atomic import write_atomically


def save(figure: Figure, picture: Path) -> None:
    write_atomically(picture, lambda path: figure.savefig(path, dpi=100, format="png"))


def plot_history(history: Path, picture: Path) -> None:
    """Draw loss and accuracy of training and validation over the epochs of history.csv."""
    rows = np.atleast_1d(np.genfromtxt(history, delimiter=",", names=True))
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        axes.plot(rows["epoch"], rows[name], label="training, augmented")
        axes.plot(rows["epoch"], rows[f"validation_{name}"], label="validation, averaged weights")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, picture)


def plot_confusion(confusion: list[list[int]], classes: Sequence[str], picture: Path) -> None:
    """Draw the confusion matrix: rows true, columns predicted."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    display = ConfusionMatrixDisplay(np.array(confusion), display_labels=classes)
    display.plot(ax=figure.subplots(), colorbar=False, cmap="Blues")
    save(figure, picture)


def plot_reliability(bins: dict[str, list[dict[str, Any]]], classes: int, picture: Path) -> None:
    """Draw accuracy against confidence, one line per entry of `bins`."""
    figure = Figure(figsize=(5, 4.5), layout="constrained")
    axes = figure.subplots()
    least = 1 / classes  # the lowest possible value of the highest probability
    axes.plot([least, 1], [least, 1], color="grey", linestyle=":", label="perfect")
    for name, rows in bins.items():
        axes.plot(
            [row["confidence"] for row in rows],
            [row["accuracy"] for row in rows],
            marker="o",
            label=name,
        )
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, picture)


def plot_mistakes(photos: Sequence[np.ndarray], titles: Sequence[str], picture: Path) -> None:
    """Draw a contact sheet of photos, each uint8 (H, W, 3), five per row."""
    rows = -(-len(photos) // 5) or 1
    figure = Figure(figsize=(10, 2.3 * rows), layout="constrained")
    for number, axes in enumerate(figure.subplots(rows, 5, squeeze=False).flat):
        axes.axis("off")
        if number < len(photos):
            axes.imshow(photos[number])
            title = titles[number].encode(errors="replace").decode()  # not all names are UTF-8
            axes.set_title(title, fontsize=8, parse_math=False)  # nor is $1_$2 a formula
    save(figure, picture)
