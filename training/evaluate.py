"""Calibrate a run on the validation split, then measure it on the test split.

python -m training evaluate runs/train

Meant for a run that is to be released: while parameters are being chosen, compare runs by the
validation accuracy that `train` prints, so that the test split stays unseen.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from handler.integrity import sha256_of
from handler.photo import SIDE
from training.checkpoint import BEST, CARD, read_run
from training.dataset import Split, excluded_photos, photos_of_each
from training.drift import reference
from training.errors import UsageError
from training.figures import certain_threshold, confidences, fit_temperature, reliability
from training.files import write_json
from training.hardware import CPU
from training.measure import figures_of_kinds, half_precision_cost, measure
from training.model import strangeness
from training.outputs import Outputs, split_outputs
from training.params import EvaluateParams, Params, TrainParams, photos_in_epoch
from training.plots import plot_confusion, plot_reliability
from training.predict import load_handler
from training.ranges import activation_ranges
from training.weights import FOREIGN, UNRELEASED, checked_network

METRICS = "metrics.json"  # the chief numbers of best.json


def evaluate(index: Path, run: Path, params: Params, device: torch.device = CPU) -> dict[str, Any]:
    """Write best.json, metrics.json and two plots into `run`; return what the first holds.

    Raises UsageError when the run has no weights or was trained on other photos than the index.
    """
    about, train_params, state = read_run(run)
    validation, test = Split(index, "validation"), Split(index, "test")
    if about["photos_sha256"] != test.photos_sha256:
        raise UsageError(f"{run}: was trained on other photos or splits than {index}")
    about = counted(about, index, train_params)
    network = checked_network(run / BEST, state, len(test.classes)).to(device)
    of_validation = split_outputs(network, validation, train_params, exact=True)
    of_test = split_outputs(network, test, train_params, exact=True)
    card: dict[str, Any] = {
        "version": UNRELEASED,
        "classes": about["classes"],
        "input_size": SIDE,
        "mean": train_params.mean,
        "std": train_params.std,
        **calibrate(validation, of_validation, params.evaluate),
        "activation_ranges": activation_ranges(
            network, Split(index, "train"), params.evaluate.range_photos, train_params
        ),
        "sha256": sha256_of(run / BEST),
    }
    handler, _ = load_handler(run / BEST, card)
    card["figures"] = {
        **figures_of_kinds(handler, validation, of_validation),
        "half_precision": half_precision_cost(run, validation, train_params, device),
        **measure(handler, test, of_test),
    }
    card |= {"training": about, "params": told(params)}
    write_json(run / CARD, card)
    write_json(run / METRICS, chief_figures(card))
    plot_confusion(card["figures"]["test"]["confusion"], test.classes, run / "confusion.png")
    plot_calibration(of_test, card["temperature"], run / "reliability.png")
    return card


def counted(about: dict[str, Any], index: Path, params: TrainParams) -> dict[str, Any]:
    """`about` with the number of photos that were trained on of each source.

    Runs of an earlier version didn't count them, and computed their duration as if each epoch took
    all photos. Nothing is added where other photos are excluded now than in training.
    """
    if "sources" in about:
        return about
    split = Split(index, "train", excluded_photos(params))
    if len(split) != about.get("photos"):
        return about
    share = photos_in_epoch(len(split), params.epoch_photos) / len(split)
    return about | {
        "sources": photos_of_each(split.sources),
        "seconds": share * about["seconds"],
    }


def calibrate(split: Split, outputs: Outputs, params: EvaluateParams) -> dict[str, Any]:
    """What tells the handler how far to trust the network, from its outputs for `split`.

    Foreign photos, where there are any, weigh as much as all others.
    """
    rows = split.half_and_half()
    outputs = Outputs(*(values[rows] for values in outputs))
    usual = (outputs.averages.mean(0).tolist(), outputs.averages.std(0).clamp_min(1e-6).tolist())
    strange = strangeness(outputs.averages, *usual).numpy()
    limit = float(np.quantile(strange, params.familiar_share))
    familiar = strange <= limit
    temperature = fit_temperature(outputs.logits, outputs.labels)
    calibrated = outputs.logits / temperature
    confidence, right = confidences(calibrated, outputs.labels)
    return {
        "temperature": temperature,
        "threshold": certain_threshold(
            confidence[familiar], right[familiar], params.certain_accuracy
        ),
        "strangeness": {"means": usual[0], "deviations": usual[1], "limit": limit},
        "reference": reference(split, rows, confidence, calibrated.argmax(1).tolist()),
    }


def told(params: Params) -> dict[str, Any]:
    """The parameters that the model card tells, beside those of training."""
    return {
        "data": {"about": params.data.about, "limits": params.data.limits},
        "prepare": asdict(params.prepare),
        "evaluate": asdict(params.evaluate),
    }


def chief_figures(card: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a card that one compares between runs."""
    measured = card["figures"]
    names = ("accuracy", "roc_auc", "cross_entropy", "calibration_error", "certain_share")
    splits = [name for name in ("validation", FOREIGN, "test") if name in measured]
    return {split: {name: measured[split][name] for name in names} for split in splits} | {
        "not_a_pet_certain_share": measured["not_a_pet"]["all"]["certain_share"]
    }


def plot_calibration(outputs: Outputs, temperature: float, picture: Path) -> None:
    """Draw the reliability of `outputs`, before and after the temperature."""
    logits, labels = outputs.logits, outputs.labels
    bins = {
        "as trained": reliability(*confidences(logits, labels)),
        "with temperature": reliability(*confidences(logits / temperature, labels)),
    }
    plot_reliability(bins, logits.shape[1], picture)


def doubt(test: dict[str, Any]) -> str | None:
    """What to say of a model that may as well guess, for all that the test photos tell."""
    name, row = max(test["classes"].items(), key=lambda item: item[1]["photos"])
    share = row["photos"] / test["photos"]
    if test["accuracy_interval"][0] > share:
        return None
    return (
        f"no better than guessing: `{name}` for each photo is right in {share:.1%}; "
        "try more photos, more epochs, or --finetune models/catsdogs.pt (START= of make train)"
    )


def format_figures(test: dict[str, Any]) -> str:
    """The figures of `figures` as lines for a terminal."""
    low, high = test["accuracy_interval"]
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
        f"accuracy {test['accuracy']:.4f} on {test['photos']} test photos, "
        f"95 % interval {low:.4f} to {high:.4f}",
        f"certain about {test['certain_share']:.1%} of them",
    ]
    return "\n".join(lines)
