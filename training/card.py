"""The model card and the README's figures, written from the JSON file beside the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.files import write_atomically
from training.markdown import percent, table, wrapped
from training.model import count_parameters
from training.procedure import procedure, reproduce
from training.sources import photos
from training.weights import FOREIGN

FIGURES = "figures, written by `python -m training release`"  # the README's marks


def write_model_card(card: dict[str, Any], path: Path) -> None:
    """Write docs/MODEL_CARD.md: data, procedure, figures, limits, how to reproduce."""
    text = wrapped("\n\n".join(filter(None, (section(card) for section in SECTIONS)))) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(text))


def interval(figures: dict[str, Any]) -> str:
    """Accuracy with its 95 % interval."""
    if not figures["photos"]:
        return "–"
    low, high = figures["accuracy_interval"]
    return f"{percent(figures['accuracy'])} ({100 * low:.1f} to {100 * high:.1f})"


def class_table(corner: str, split: dict[str, Any]) -> str:
    """Precision, recall and F1 of each class in the figures of a split."""
    rows = [
        [name, *(percent(row[figure]) for figure in ("precision", "recall", "f1"))]
        + [f"{row['photos']:,}"]
        for name, row in split["classes"].items()
    ]
    return table([corner, "precision", "recall", "F1", "photos"], rows)


def summary(card: dict[str, Any]) -> str:
    """A paragraph and a table for the README."""
    test = card["figures"]["test"]
    return wrapped(f"""\
Version {card["version"]}, on the {test["photos"]:,} photos of the test split, which training never
saw: **{interval(test)}** accuracy, with the 95 % interval.

{class_table("", test)}

It calls itself certain about {percent(test["certain_share"])} of them, and is then right in
{percent(test["certain_accuracy"])}; the mean distance of confidence from accuracy (ECE) is
{percent(test["calibration_error"])}.{strangers(card)}""")


def strangers(card: dict[str, Any]) -> str:
    """The lower number, where it is known."""
    if FOREIGN not in card["figures"]:
        return ""
    split = card["figures"][FOREIGN]
    return f"""

On {split["photos"]:,} photos of other people and cameras (validation; no photo of these sources was
trained on): **{interval(split)}**, certain about {percent(split["certain_share"])}, of which
{percent(split["certain_accuracy"])} are right."""


def head(card: dict[str, Any]) -> str:
    return f"""# Model card: catsdogs {card["version"]}

Written by `python -m training release` from `models/catsdogs.json`; don't edit it by hand.

SimpleCNN, four convolutions and three linear layers,
{count_parameters(len(card["classes"])) / 1e6:.1f} million parameters, trained from random weights.
It tells {" from ".join(card["classes"])} in the middle of a photo, at most 4:3, squashed to
{card["input_size"]} x {card["input_size"]} pixels. Licence: Apache-2.0. sha256 of the weights:
`{card["sha256"]}`."""


def data(card: dict[str, Any]) -> str:
    training, figures, params = card["training"], card["figures"], card["params"]
    listed = training["params"]["excluded"]
    cleaned = (
        f"Photos with a wrong label, several classes or none were left out of training: `{listed}`."
        if listed and training.get("left_out", True)  # 1.1 didn't count them, but there were some
        else "Wrong labels were left in."
    )
    return f"""## Data

{params["data"]["about"]} {training["photos"]:,} were trained on,
{figures["validation"]["photos"]:,} chose the epoch, temperature and threshold, and
{figures["test"]["photos"]:,} were kept for this card. Look-alikes (perceptual hashes at most
{params["prepare"]["look_alike_distance"]} of 64 bits apart) are never parted between splits.
{cleaned} Validation and test photos were not cleaned."""


def measured(card: dict[str, Any]) -> str:
    figures = card["figures"]
    names = {"validation": "validation", "test": "test", FOREIGN: "foreign validation"}
    splits = {text: figures[name] for name, text in names.items() if name in figures}
    lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("photos", lambda split: f"{split['photos']:,}"),
        ("accuracy (95 % interval, Wilson)", interval),
        ("ROC AUC", lambda split: f"{split['roc_auc']:.4f}"),
        ("cross-entropy (NLL)", lambda split: f"{split['cross_entropy']:.4f}"),
        ("Brier score", lambda split: f"{split['brier_score']:.4f}"),
        ("calibration error (ECE, 15 bins)", lambda split: percent(split["calibration_error"], 2)),
        ("called certain", lambda split: percent(split["certain_share"])),
        ("right where certain", lambda split: percent(split["certain_accuracy"])),
    ]
    before, params = figures["uncalibrated"], card["params"]["evaluate"]
    return f"""## Figures

{table(["", *splits], [[text, *map(show, splits.values())] for text, show in lines])}

{class_table("test", figures["test"])}{foreign(figures)}

Confidence is divided by the temperature {card["temperature"]:.3f} in the logits, fitted on
validation. Before that, on test: cross-entropy {before["cross_entropy"]:.4f}, Brier score
{before["brier_score"]:.4f}, calibration error {percent(before["calibration_error"], 2)}. `certain`
means a confidence of {card["threshold"]:.3f} and more, from which on
{100 * params["certain_accuracy"]:g} % of the validation photos were right, about a photo that is
not too strange: strangeness is the mean squared distance, in standard deviations, of the averages
of the 256 last maps from those of the validation photos (Mahalanobis' distance without covariances;
Lee and others 2018), and at most {card["strangeness"]["limit"]:.2f}, as
{100 * params["familiar_share"]:g} % of the validation photos have it."""


def foreign(figures: dict[str, Any]) -> str:
    """A paragraph and two tables about photos of other sources, where some validated."""
    if FOREIGN not in figures:
        return ""
    split = figures[FOREIGN]
    rows = [[name, f"{row['photos']:,}", interval(row)] for name, row in split["sources"].items()]
    return f"""

{class_table("foreign validation", split)}

Foreign photos come from other people, cameras and framings than the collection that was trained
on; none of these sources was trained on, but they chose epoch, temperature and threshold, together
with the validation split and with the same weight. So they are validation, and no test:

{table(["source", "photos", "accuracy (95 % interval)"], rows)}"""


def parts(card: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['photos']:,}", interval(row)]
        for name, row in card["figures"]["slices"].items()
    ]
    return f"""## Kinds of test photos

{table(["photos", "n", "accuracy (95 % interval)"], rows)}"""


def same_answers(card: dict[str, Any]) -> str:
    half, served = card["figures"]["half_precision"], card["figures"]["served"]
    cost = (
        "not measured: the run's checkpoint was gone"
        if half is None
        else f"{percent(half['accuracy_float32'], 2)} in float32 and "
        f"{percent(half['accuracy'], 2)} in half precision on validation, the same label for "
        f"{percent(half['same_label'], 2)}, probabilities at most "
        f"{half['largest_difference']:.4f} apart"
    )
    here, there = (
        percent(accuracy, 2)
        for accuracy in (served["accuracy"], card["figures"]["test"]["accuracy"])
    )
    right = f"{here} right instead of {there}" if here != there else f"{here} right in both"
    return f"""## Stored and served

Half-precision weights (measured on the last epoch's): {cost}. What the handler answers to the
test photos ({served["backend"]}), against PyTorch in float32: the same label for
{percent(served["same_label"], 2)}, probabilities at most {served["largest_difference"]:.4f} apart,
{right}."""


def limits(card: dict[str, Any]) -> str:
    rows = [
        [group, str(row["pictures"]), percent(row["certain_share"])]
        for group, row in card["figures"]["not_a_pet"].items()
    ]
    return f"""## Limits

It knows {" and ".join(card["classes"])} alone and calls everything one of them. Of pictures that
show neither it is `certain` about these shares, wrongly:

{table(["pictures without a pet", "n", "certain"], rows)}

{card["params"]["data"]["limits"]} Don't use it where a wrong answer does harm."""


SECTIONS = (head, data, photos, procedure, measured, parts, same_answers, limits, reproduce)
