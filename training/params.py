"""The numbers of `params.yaml` as frozen dataclasses, one a section."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from training.errors import UsageError, one_line


@dataclass(frozen=True)
class DataParams:
    folder: str
    classes: list[str]  # folders to take; of none, all


@dataclass(frozen=True)
class PrepareParams:
    seed: int
    validation_share: float
    test_share: float
    minimum_side: int
    look_alike_distance: int


@dataclass(frozen=True)
class TeachParams:
    regularisation: float
    disputed_probability: float


@dataclass(frozen=True)
class TrainParams:
    seed: int
    excluded: str
    epochs: int
    small_epochs: int
    small_side: int
    batch_size: int
    learning_rate: float
    fc1_learning_rate_share: float
    warmup_share: float
    weight_decay: float
    label_smoothing: float
    ema_decay: float
    final_strength: float
    mixup: float
    crop_scale: float
    aspect: float
    tilt: float
    low_resolution: float
    smallest_side: int
    jpeg: float
    lowest_quality: int
    brightness: float
    contrast: float
    saturation: float
    tint: float
    greyscale: float
    teacher_labels: float
    teacher_maps: float
    teacher_features: float
    mean: list[float]
    std: list[float]

    @property
    def taught(self) -> bool:
        """Whether anything is learned from the teacher."""
        return bool(self.teacher_labels or self.teacher_maps or self.teacher_features)


@dataclass(frozen=True)
class EvaluateParams:
    certain_accuracy: float
    familiar_share: float
    range_photos: int


@dataclass(frozen=True)
class Params:
    data: DataParams
    prepare: PrepareParams
    teach: TeachParams
    train: TrainParams
    finetune: TrainParams
    evaluate: EvaluateParams


# What YAML may give for each type of field.
TYPES = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "list[str]": (list,),
    "list[float]": (list,),
}
# The least and the most that a field may be, where not any number will do.
RANGES = {
    "validation_share": (0.01, 0.4),
    "test_share": (0.01, 0.4),
    "minimum_side": (1, 10_000),
    "look_alike_distance": (0, 32),
    "regularisation": (1e-9, 1e9),
    "disputed_probability": (0, 1),
    "epochs": (1, 10_000),
    "small_epochs": (0, 10_000),
    "small_side": (64, 224),
    "batch_size": (1, 10_000),
    "learning_rate": (1e-9, 10),
    "fc1_learning_rate_share": (1e-6, 10),
    "warmup_share": (0.01, 0.99),
    "weight_decay": (0, 10),
    "label_smoothing": (0, 0.9),
    "ema_decay": (0, 0.99999),
    "final_strength": (0, 1),
    "mixup": (0, 1),
    "crop_scale": (0.01, 1),
    "aspect": (1, 4),
    "tilt": (0, 180),
    "low_resolution": (0, 1),
    "smallest_side": (8, 224),
    "jpeg": (0, 1),
    "lowest_quality": (1, 95),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "tint": (0, 1),
    "greyscale": (0, 1),
    "teacher_labels": (0, 1),
    "teacher_maps": (0, 1000),
    "teacher_features": (0, 1000),
    "mean": (0, 1),
    "std": (0.001, 1),
    "certain_accuracy": (0.5, 1),
}


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read `path`.

    Raises UsageError for a file that can't be read, and for a key that is missing or unknown or
    whose value has the wrong type or lies outside its range.
    """
    try:
        sections = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: can't be read: {one_line(error)}") from error
    _check_keys(sections, Params, str(path))
    return Params(
        data=_section(sections, "data", DataParams, path),
        prepare=_section(sections, "prepare", PrepareParams, path),
        teach=_section(sections, "teach", TeachParams, path),
        train=_section(sections, "train", TrainParams, path),
        finetune=_section(sections, "finetune", TrainParams, path),
        evaluate=_section(sections, "evaluate", EvaluateParams, path),
    )


def _section(sections: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    where = f"{path}, section {name}"
    _check_keys(sections[name], kind, where)
    for field in fields(kind):
        _check_value(field.name, str(field.type), sections[name][field.name], where)
    return kind(**sections[name])


def _check_value(name: str, type_name: str, value: Any, where: str) -> None:
    if type(value) not in TYPES[type_name]:
        raise UsageError(f"{where}: {name} is {value!r}; make it {type_name}")
    if type_name in ("str", "list[str]"):
        if not all(isinstance(item, str) for item in value):
            raise UsageError(f"{where}: {name} is {value!r}; make it {type_name}")
        return
    numbers = value if isinstance(value, list) else [value]
    if isinstance(value, list) and len(value) != 3:
        raise UsageError(f"{where}: {name} has {len(value)} numbers; give one for each channel")
    low, high = RANGES.get(name, (-float("inf"), float("inf")))
    for number in numbers:
        if type(number) not in TYPES["float"] or not low <= number <= high:
            raise UsageError(f"{where}: {name} is {value!r}; keep it from {low} to {high}")


def _check_keys(values: Any, kind: type, where: str) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: not a mapping")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(map(str, values.keys() - known)):
        names = ", ".join(sorted(known))
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known are {names}")
    if missing := sorted(known - values.keys()):
        raise UsageError(f"{where}: {missing[0]!r} is missing")
