"""The metrics of the model card, for a calibrated run.

They include the share of out-of-distribution pictures that are wrongly marked `certain`. These
pictures, without a cat or dog, come from installed packages or are generated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import skimage
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from handler.photo import SIDE, resized
from handler.predictor import Predictor
from training.checkpoint import CHECKPOINT
from training.dataset import FOREIGN, Split
from training.files import load_torch
from training.inference import Outputs, split_logits
from training.metrics import (
    accuracy_of,
    agreement,
    calibration,
    classification_metrics,
    confidences,
)
from training.model import half_precision, load_network, ood_score
from training.params import TrainParams

PETS = {"chelsea.png"}  # scikit-image's cat
FORMATS = {".png", ".jpg", ".jpeg"}  # its TIFFs are stacks of slices
CROPS = 4  # per picture
TEXTURES = 80
DIGITS = 40


def measure(predictor: Predictor, split: Split, outputs: Outputs) -> dict[str, Any]:
    """Metrics of the network's `outputs` for the test split, and of the served predictor."""
    calibrated = outputs.logits / predictor.card["temperature"]
    _, right = confidences(calibrated, outputs.labels)
    return {
        "test": split_metrics(predictor, outputs),
        "uncalibrated": calibration(outputs.logits, outputs.labels),
        "slices": {name: accuracy_of(right[rows]) for name, rows in slices(split).items()},
        "served": served_metrics(predictor, split, outputs, np.ones(len(split), bool)),
        "not_a_pet": not_a_pet(predictor),
    }


def split_metrics(predictor: Predictor, outputs: Outputs) -> dict[str, Any]:
    """Metrics of the network's `outputs`, calibrated and marked certain as in answers."""
    known = predictor.card["ood_score"]
    scores = ood_score(outputs.averages, known["means"], known["deviations"]).numpy()
    calibrated = outputs.logits / predictor.card["temperature"]
    confidence, _ = confidences(calibrated, outputs.labels)
    certain = predictor.certain(confidence, scores)
    return classification_metrics(calibrated, outputs.labels, predictor.classes, certain)


def served_metrics(
    predictor: Predictor, split: Split, outputs: Outputs, chosen: np.ndarray
) -> dict[str, Any]:
    """The served predictor on the `chosen` photos (a mask), compared with the network's outputs."""
    served = np.concatenate([predictor.infer(photos)[0] for photos in blocks(split, chosen)])
    calibrated = F.softmax(outputs.logits[chosen] / predictor.card["temperature"], dim=1)
    return {
        **agreement(served, calibrated.numpy()),
        "accuracy": float((served.argmax(1) == outputs.labels[chosen].numpy()).mean()),
        "backend": predictor.backend,
    }


def validation_metrics(
    predictor: Predictor, split: Split, outputs: Outputs
) -> dict[str, dict[str, Any]]:
    """Metrics of the validation photos without foreign ones, and of the foreign ones, if any, with
    accuracy per source, and of the served predictor."""
    foreign = split.foreign
    kinds = {}
    for name, rows in (("validation", ~foreign), (FOREIGN, foreign)):
        if rows.any():
            kinds[name] = split_metrics(predictor, Outputs(*(part[rows] for part in outputs)))
    if foreign.any():
        kinds[FOREIGN]["served"] = served_metrics(predictor, split, outputs, foreign)
        right = (outputs.logits.argmax(1) == outputs.labels).numpy()
        sources = np.array(split.sources)
        kinds[FOREIGN]["sources"] = {
            name: accuracy_of(right[sources == name]) for name in sorted(set(sources[foreign]))
        }
    return kinds


def half_precision_cost(
    run: Path, split: Split, params: TrainParams, device: torch.device
) -> dict[str, Any] | None:
    """The last epoch's averaged weights in half precision, compared with float32.

    None for a run without checkpoint, since only the checkpoint has float32 weights.
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


def blocks(split: Split, chosen: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The `chosen` photos (a mask) in batches, as from `decode_photo`: uint8 (224, 224, 3)."""
    start = 0
    for photos in split.batches():
        yield list(photos.permute(0, 2, 3, 1).numpy()[chosen[start : start + len(photos)]])
        start += len(photos)


def slices(split: Split) -> dict[str, np.ndarray]:
    """Masks (N,) of photos on which such networks are known to perform worse."""
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
        "rotated by EXIF": np.array([photo.orientation != 1 for photo in photos]),
    }


def not_a_pet(predictor: Predictor) -> dict[str, Any]:
    """The share of pictures without a pet that are marked certain, by group and overall."""
    groups = defaultdict(list)
    for group, picture in not_pets():
        groups[group].append(picture)
    certain = {}
    for group, pictures in groups.items():
        probabilities, scores = predictor.infer(pictures)
        certain[group] = predictor.certain(probabilities.max(axis=1), scores)
    certain["all"] = np.concatenate(list(certain.values()))
    return {
        group: {"pictures": len(mask), "certain_share": float(mask.mean())}
        for group, mask in certain.items()
    }


def not_pets() -> Iterator[tuple[str, np.ndarray]]:
    """(group, picture uint8 (224, 224, 3)); always the same pictures."""
    random = np.random.default_rng(0)
    for picture in whole_pictures():
        yield "pictures of packages", squashed(picture)
    for picture in whole_pictures():
        for _ in range(CROPS):
            yield "parts of these", squashed(crop(picture, random))
    for digit in load_digits().images[:DIGITS]:
        yield "handwritten digits", squashed(Image.fromarray((255 - digit * 15.9).astype(np.uint8)))
    for _ in range(TEXTURES):
        yield "generated textures", squashed(texture(random))


def whole_pictures() -> Iterator[Image.Image]:
    """The pictures in scikit-image, scikit-learn and matplotlib, without the cat."""
    folders = (Path(skimage.__file__).parent / "data", Path(matplotlib.get_data_path()))
    for file in sorted(path for folder in folders for path in folder.rglob("*.*")):
        if file.suffix.lower() in FORMATS and file.name not in PETS:
            with Image.open(file) as picture:
                if min(picture.size) >= 64:  # not an icon
                    yield picture.convert("RGB")
    for pixels in load_sample_images().images:
        yield Image.fromarray(pixels)


def crop(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """A random square, with a third to two thirds of the picture's shorter side."""
    side = int(min(picture.size) * random.uniform(0.33, 0.67))
    left, top = (int(random.integers(0, size - side + 1)) for size in picture.size)
    return picture.crop((left, top, left + side, top + side))


def texture(random: np.random.Generator) -> Image.Image:
    """Noise at a random scale, coloured; from static over clouds to nearly plain."""
    cells = int(2 ** random.uniform(0.5, 7.5))
    noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), np.uint8))
    cloud = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    tint, low = random.uniform(0.3, 1, 3), random.uniform(0, 80)
    return Image.fromarray((low + cloud * tint * (1 - low / 255)).clip(0, 255).astype(np.uint8))


def squashed(picture: Image.Image) -> np.ndarray:
    """uint8 (224, 224, 3), cropped and resized as `decode_photo` does it."""
    return np.asarray(resized(picture.convert("RGB")))
