"""Calibrate a run on the validation split, then measure it on the test split.

python -m training evaluate runs/train

Use it only for a run that you want to release. To choose parameters, compare runs by the validation
accuracy that `train` prints, so that the test split stays unseen.
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
from training.dataset import FOREIGN, Split, excluded_photos, photos_of_each
from training.devices import CPU
from training.drift import reference
from training.files import UsageError, write_json
from training.inference import Outputs, activation_ranges, split_outputs
from training.measure import half_precision_cost, measure, validation_metrics
from training.metrics import certain_threshold, confidences, fit_temperature, reliability
from training.model import ood_score
from training.params import EvaluateParams, Params, TrainParams, photos_in_epoch
from training.plots import plot_confusion, plot_reliability
from training.predict import load_predictor
from training.weights import UNRELEASED, checked_network

METRICS = "metrics.json"  # the most important metrics of best.json


def evaluate(index: Path, run: Path, params: Params, device: torch.device = CPU) -> dict[str, Any]:
    """Write best.json, metrics.json and two plots into `run`; return the content of best.json.

    Raises UsageError if the run has no weights, or was trained on other photos than the index.
    """
    about, train_params, state = read_run(run)
    validation, test = Split(index, "validation"), Split(index, "test")
    if about["photos_sha256"] != test.photos_sha256:
        raise UsageError(
            f"{run}: was trained on other photos or splits than {index}; name their --index"
        )
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
    predictor = load_predictor(run / BEST, card)
    card["metrics"] = {
        **validation_metrics(predictor, validation, of_validation),
        "half_precision": half_precision_cost(run, validation, train_params, device),
        **measure(predictor, test, of_test),
    }
    card |= {"training": about, "params": card_params(params)}
    write_json(run / CARD, card)
    write_json(run / METRICS, chief_metrics(card))
    plot_confusion(card["metrics"]["test"]["confusion"], test.classes, run / "confusion.png")
    plot_calibration(of_test, card["temperature"], run / "reliability.png")
    return card


def counted(about: dict[str, Any], index: Path, params: TrainParams) -> dict[str, Any]:
    """`about` with the number of training photos per source.

    Runs of an earlier version didn't count them, and computed their duration as if each epoch used
    all photos. Nothing is added if training excluded other photos than `params` do now.
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
    """Temperature, threshold, OOD score and drift reference, from the outputs for `split`.

    Foreign photos, if any, have half of the total weight: some photos count several times. The
    threshold of `certain` reaches its accuracy on foreign photos and on the others, once each.
    """
    rows = split.half_and_half()
    weighted = Outputs(*(values[rows] for values in outputs))
    means = weighted.averages.mean(0).tolist()
    deviations = weighted.averages.std(0).clamp_min(1e-6).tolist()
    scores = ood_score(outputs.averages, means, deviations).numpy()
    limit = float(np.quantile(scores[rows], params.in_distribution_share))
    in_distribution = scores <= limit
    temperature = fit_temperature(weighted.logits, weighted.labels)
    calibrated = outputs.logits / temperature
    confidence, right = confidences(calibrated, outputs.labels)
    kinds = [split.foreign & in_distribution, ~split.foreign & in_distribution]
    return {
        "temperature": temperature,
        "threshold": max(
            certain_threshold(confidence[kind], right[kind], params.certain_accuracy)
            for kind in kinds
            if kind.any()
        ),
        "ood_score": {"means": means, "deviations": deviations, "limit": limit},
        "reference": reference(split, rows, confidence[rows], calibrated[rows].argmax(1).tolist()),
    }


def card_params(params: Params) -> dict[str, Any]:
    """The parameters for the model card, besides those of training."""
    return {
        "data": {"about": params.data.about, "limits": params.data.limits},
        "prepare": asdict(params.prepare),
        "evaluate": asdict(params.evaluate),
    }


def chief_metrics(card: dict[str, Any]) -> dict[str, Any]:
    """The metrics by which runs are compared."""
    measured = card["metrics"]
    names = ("accuracy", "roc_auc", "cross_entropy", "calibration_error", "certain_share")
    splits = [name for name in ("validation", FOREIGN, "test") if name in measured]
    return {split: {name: measured[split][name] for name in names} for split in splits} | {
        "not_a_pet_certain_share": measured["not_a_pet"]["all"]["certain_share"]
    }


def plot_calibration(outputs: Outputs, temperature: float, picture: Path) -> None:
    """Draw the reliability diagram of `outputs`, without and with the temperature."""
    logits, labels = outputs.logits, outputs.labels
    bins = {
        "as trained": reliability(*confidences(logits, labels)),
        "with temperature": reliability(*confidences(logits / temperature, labels)),
    }
    plot_reliability(bins, logits.shape[1], picture)


def guessing_warning(test: dict[str, Any]) -> str | None:
    """A warning if the test photos don't show that the model beats guessing; else None."""
    name, row = max(test["classes"].items(), key=lambda item: item[1]["photos"])
    share = row["photos"] / test["photos"]
    if test["accuracy_interval"][0] > share:
        return None
    return (
        f"no better than guessing: `{name}` for each photo has an accuracy of {share:.1%}; "
        "try more photos, more epochs, or --finetune models/catsdogs.pt (START= with make train)"
    )


def format_metrics(test: dict[str, Any]) -> str:
    """The result of `classification_metrics`, as lines for a terminal."""
    low, high = test["accuracy_interval"]
    lines = [
        f"{'':12}{'precision':>10}{'recall':>10}{'F1':>10}{'photos':>10}",
        *(
            f"{name:12}{row['precision']:10.4f}{row['recall']:10.4f}{row['f1']:10.4f}{row['photos']:10}"
            for name, row in test["classes"].items()
        ),
        "confusion matrix (rows: true, columns: predicted)",
        *(
            f"{name:12}" + "".join(f"{count:10}" for count in row)
            for name, row in zip(test["classes"], test["confusion"], strict=True)
        ),
        f"accuracy {test['accuracy']:.4f} on {test['photos']} test photos, "
        f"95 % CI {low:.4f} to {high:.4f}",
        f"marked certain: {test['certain_share']:.1%}",
    ]
    return "\n".join(lines)
