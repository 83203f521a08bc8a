"""Calibrate a run on the validation split, then measure it on the test split.

python -m training evaluate runs/train

Meant for a run that is to be released: while parameters are being chosen, compare runs by the
validation accuracy that `train` prints, so that the test split stays unseen.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F

from handler.catsdogs_handler import CatsDogsHandler
from handler.integrity import sha256_of
from handler.photo import SIDE
from training.checkpoint import BEST, CARD, CHECKPOINT, read_run
from training.data import Split
from training.drift import reference
from training.errors import UsageError
from training.figures import (
    accuracy_of,
    agreement,
    calibration,
    certain_threshold,
    confidences,
    figures,
    fit_temperature,
    reliability,
)
from training.files import load_torch, write_json
from training.hardware import device
from training.model import half_precision, load_network, strangeness
from training.not_pets import not_pets
from training.outputs import split_logits, split_outputs
from training.params import Params, TrainParams
from training.plots import plot_confusion, plot_reliability
from training.predict import load_handler
from training.ranges import activation_ranges
from training.weights import checked_network

METRICS = "metrics.json"  # the chief numbers of best.json
UNRELEASED = "0.0"  # the version of weights that are not released


def evaluate(index: Path, run: Path, params: Params) -> dict[str, Any]:
    """Write best.json, metrics.json and two plots into `run`; return what the first holds.

    Raises UsageError when the run has no weights or was trained on other photos than the index.
    """
    about, train_params, state = read_run(run)
    validation, test = Split(index, "validation"), Split(index, "test")
    if about["photos_sha256"] != test.photos_sha256:
        raise UsageError(f"{run}: was trained on other photos or splits than {index}")
    network = checked_network(run / BEST, state, len(test.classes)).to(device())

    averages, logits, labels = split_outputs(network, validation, train_params, exact=True)
    usual = [row.tolist() for row in (averages.mean(0), averages.std(0).clamp_min(1e-6))]
    strange = strangeness(averages, *usual).numpy()
    limit = float(np.quantile(strange, params.evaluate.familiar_share))
    temperature = fit_temperature(logits, labels)
    calibrated = logits / temperature
    confidence, right = confidences(calibrated, labels)
    familiar = strange <= limit
    threshold = certain_threshold(
        confidence[familiar], right[familiar], params.evaluate.certain_accuracy
    )
    card: dict[str, Any] = {
        "version": UNRELEASED,
        "classes": about["classes"],
        "input_size": SIDE,
        "mean": train_params.mean,
        "std": train_params.std,
        "temperature": temperature,
        "threshold": threshold,
        "strangeness": {"means": usual[0], "deviations": usual[1], "limit": limit},
        "activation_ranges": activation_ranges(
            network, Split(index, "train"), params.evaluate.range_photos, train_params
        ),
        "reference": reference(validation, confidence, calibrated.argmax(1).tolist()),
        "sha256": sha256_of(run / BEST),
    }
    handler, _ = load_handler(run / BEST, card)
    certain = handler.certain(confidence, strange)
    measured: dict[str, Any] = {
        "validation": figures(calibrated, labels, test.classes, certain),
        "half_precision": half_precision_cost(run, validation, train_params),
    }

    averages, logits, labels = split_outputs(network, test, train_params, exact=True)
    calibrated = logits / temperature
    confidence, right = confidences(calibrated, labels)
    certain = handler.certain(confidence, strangeness(averages, *usual).numpy())
    measured |= {
        "test": figures(calibrated, labels, test.classes, certain),
        "uncalibrated": calibration(logits, labels),
        "slices": {name: accuracy_of(right[rows]) for name, rows in slices(test).items()},
    }
    served, _ = handler.infer(list(test.pixels[test.rows]))
    measured["served"] = agreement(served, F.softmax(calibrated, dim=1).numpy()) | {
        "accuracy": float((served.argmax(1) == labels.numpy()).mean()),
        "backend": handler.backend,
    }
    measured["not_a_pet"] = not_a_pet(handler)
    card |= {"figures": measured, "training": about, "params": told(params)}
    write_json(run / CARD, card)
    write_json(run / METRICS, chief_figures(card))
    plot_confusion(measured["test"]["confusion"], test.classes, run / "confusion.png")
    plot_reliability(
        {
            "as trained": reliability(*confidences(logits, labels)),
            "with temperature": reliability(*confidences(calibrated, labels)),
        },
        run / "reliability.png",
    )
    return card


def told(params: Params) -> dict[str, Any]:
    """The parameters that the model card tells, beside those of training."""
    return {
        "data": {"about": params.data.about, "limits": params.data.limits},
        "prepare": asdict(params.prepare),
        "evaluate": asdict(params.evaluate),
    }


def half_precision_cost(run: Path, split: Split, params: TrainParams) -> dict[str, Any] | None:
    """The last epoch's averaged weights in half precision against the same in float32.

    None for a run without its checkpoint, which alone has them in float32.
    """
    if not (run / CHECKPOINT).is_file():
        return None
    average = {
        name.removeprefix("module."): tensor
        for name, tensor in load_torch(run / CHECKPOINT)["average"].items()
        if name.startswith("module.")
    }
    probabilities, accuracy = [], []
    for state in (half_precision(average), average):
        network = load_network(state, len(split.classes)).to(device())
        logits, labels = split_logits(network, split, params, exact=True)
        probabilities.append(F.softmax(logits, dim=1).numpy())
        accuracy.append(float((logits.argmax(1) == labels).float().mean()))
    return agreement(*probabilities) | {"accuracy": accuracy[0], "accuracy_float32": accuracy[1]}


def slices(split: Split) -> dict[str, np.ndarray]:
    """Masks (N,) of the photos on which such networks are known to be worse."""
    photos = split.photos
    sides = np.array([(photo.width, photo.height) for photo in photos])
    means = np.array([split.pixels[row].mean((0, 1)) for row in split.rows])
    spread = [np.ptp(split.pixels[row].astype(np.int16), axis=2).mean() for row in split.rows]
    return {
        "short side under 100 pixels": sides.min(1) < 100,
        "short side of 250 pixels and more": sides.min(1) >= 250,
        "one side twice the other and more": sides.max(1) >= 2 * sides.min(1),
        "dark (mean brightness under 60 of 255)": means.mean(1) < 60,
        "grey-looking (channels under 8 of 255 apart)": np.array(spread) < 8,
        "turned by EXIF": np.array([photo.orientation != 1 for photo in photos]),
    }


def not_a_pet(handler: CatsDogsHandler) -> dict[str, Any]:
    """How many pictures that show no pet the model is certain about, by group and in all."""
    groups = defaultdict(list)
    for group, picture in not_pets():
        groups[group].append(picture)
    certain = {}
    for group, pictures in groups.items():
        probabilities, strange = handler.infer(pictures)
        certain[group] = handler.certain(probabilities.max(axis=1), strange)
    certain["all"] = np.concatenate(list(certain.values()))
    return {
        group: {"pictures": len(mask), "certain_share": float(mask.mean())}
        for group, mask in certain.items()
    }


def chief_figures(card: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a card that one compares between runs."""
    measured = card["figures"]
    names = ("accuracy", "roc_auc", "cross_entropy", "calibration_error", "certain_share")
    return {
        split: {name: measured[split][name] for name in names} for split in ("validation", "test")
    } | {"not_a_pet_certain_share": measured["not_a_pet"]["all"]["certain_share"]}


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
