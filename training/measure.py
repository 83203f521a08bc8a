"""The figures of the model card: how good the answers of a calibrated run are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from handler.catsdogs_handler import CatsDogsHandler
from training.checkpoint import CHECKPOINT
from training.dataset import Split
from training.figures import accuracy_of, agreement, calibration, confidences, figures
from training.files import load_torch
from training.model import half_precision, load_network, strangeness
from training.not_pets import not_pets
from training.outputs import Outputs, split_logits
from training.params import TrainParams
from training.weights import FOREIGN


def measure(handler: CatsDogsHandler, split: Split, outputs: Outputs) -> dict[str, Any]:
    """Figures of the network's `outputs` for the test split, and of what `handler` makes of it."""
    calibrated = outputs.logits / handler.card["temperature"]
    _, right = confidences(calibrated, outputs.labels)
    served = np.concatenate([handler.infer(photos)[0] for photos in blocks(split)])
    return {
        "test": split_figures(handler, outputs),
        "uncalibrated": calibration(outputs.logits, outputs.labels),
        "slices": {name: accuracy_of(right[rows]) for name, rows in slices(split).items()},
        "served": {
            **agreement(served, F.softmax(calibrated, dim=1).numpy()),
            "accuracy": float((served.argmax(1) == outputs.labels.numpy()).mean()),
            "backend": handler.backend,
        },
        "not_a_pet": not_a_pet(handler),
    }


def split_figures(handler: CatsDogsHandler, outputs: Outputs) -> dict[str, Any]:
    """`figures` of the network's `outputs`, calibrated and called certain as `handler` does it."""
    usual = handler.card["strangeness"]
    strange = strangeness(outputs.averages, usual["means"], usual["deviations"]).numpy()
    calibrated = outputs.logits / handler.card["temperature"]
    confidence, _ = confidences(calibrated, outputs.labels)
    certain = handler.certain(confidence, strange)
    return figures(calibrated, outputs.labels, handler.classes, certain)


def figures_of_kinds(
    handler: CatsDogsHandler, split: Split, outputs: Outputs
) -> dict[str, dict[str, Any]]:
    """Figures of the main collection's validation photos, and of the foreign ones with their
    sources, where there are any."""
    foreign = split.foreign
    kinds = {}
    for name, rows in (("validation", ~foreign), (FOREIGN, foreign)):
        if rows.any():
            kinds[name] = split_figures(handler, Outputs(*(part[rows] for part in outputs)))
    if foreign.any():
        right = (outputs.logits.argmax(1) == outputs.labels).numpy()
        sources = np.array(split.sources)
        kinds[FOREIGN]["sources"] = {
            name: accuracy_of(right[sources == name]) for name in sorted(set(sources[foreign]))
        }
    return kinds


def half_precision_cost(
    run: Path, split: Split, params: TrainParams, device: torch.device
) -> dict[str, Any] | None:
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
        network = load_network(state, len(split.classes)).to(device)
        logits, labels = split_logits(network, split, params, exact=True)
        probabilities.append(F.softmax(logits, dim=1).numpy())
        accuracy.append(float((logits.argmax(1) == labels).float().mean()))
    return agreement(*probabilities) | {"accuracy": accuracy[0], "accuracy_float32": accuracy[1]}


def blocks(split: Split) -> Iterator[list[np.ndarray]]:
    """All photos of `split` as `decode_photo` gives them, uint8 (224, 224, 3), many at once."""
    for photos in split.batches():
        yield list(photos.permute(0, 2, 3, 1).numpy())


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
