"""The content of `params.yaml`, as one frozen dataclass per section."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from training.compat import PARAMS, renamed
from training.files import UsageError, one_line


def within(low: float, high: float) -> dict[str, tuple[float, float]]:
    """Metadata of a field: the minimum and maximum of a number, or of each number in a list."""
    return {"range": (low, high)}


@dataclass(frozen=True)
class DataParams:
    folder: str
    classes: list[str]  # folders to use; empty: all
    about: str  # where the photos come from, for the model card
    limits: str  # what a model trained on them can't know, for the model card


@dataclass(frozen=True)
class PrepareParams:
    seed: int = field(metadata=within(0, 1_000_000_000))
    validation_share: float = field(metadata=within(0.01, 0.4))
    test_share: float = field(metadata=within(0.01, 0.4))
    minimum_side: int = field(metadata=within(1, 10_000))
    look_alike_distance: int = field(metadata=within(0, 32))
    validation_sources: list[str]  # sources that go to validation as a whole


@dataclass(frozen=True)
class TeachParams:
    regularisation: float = field(metadata=within(1e-9, 1e9))
    label_issue_probability: float = field(metadata=within(0, 1))
    head_photos: int = field(metadata=within(10, 1_000_000))


@dataclass(frozen=True, kw_only=True)
class TrainParams:
    """Fields with a default are newer than some runs, which are read and resumed with it."""

    seed: int = field(metadata=within(0, 1_000_000_000))
    excluded: str
    epochs: int = field(metadata=within(1, 10_000))
    epoch_photos: int = field(default=0, metadata=within(0, 100_000_000))
    small_epochs: int = field(metadata=within(0, 10_000))
    small_side: int = field(metadata=within(64, 224))
    batch_size: int = field(metadata=within(1, 10_000))
    learning_rate: float = field(metadata=within(1e-9, 10))
    fc1_learning_rate_share: float = field(metadata=within(1e-6, 10))
    warmup_share: float = field(metadata=within(0.01, 0.99))
    weight_decay: float = field(metadata=within(0, 10))
    label_smoothing: float = field(metadata=within(0, 0.9))
    ema_decay: float = field(metadata=within(0, 0.99999))
    final_strength: float = field(metadata=within(0, 1))
    mixup: float = field(metadata=within(0, 1))
    crop_scale: float = field(metadata=within(0.01, 1))
    zoom_out: float = field(default=0.0, metadata=within(0, 1))
    smallest_zoom: float = field(default=1.0, metadata=within(0.1, 1))
    aspect: float = field(metadata=within(1, 4))
    tilt: float = field(metadata=within(0, 180))
    low_resolution: float = field(metadata=within(0, 1))
    smallest_side: int = field(metadata=within(8, 224))
    jpeg: float = field(metadata=within(0, 1))
    lowest_quality: int = field(metadata=within(1, 95))
    brightness: float = field(metadata=within(0, 1))
    contrast: float = field(metadata=within(0, 1))
    saturation: float = field(metadata=within(0, 1))
    tint: float = field(metadata=within(0, 1))
    greyscale: float = field(metadata=within(0, 1))
    teacher_labels: float = field(metadata=within(0, 1))
    teacher_maps: float = field(metadata=within(0, 1000))
    teacher_features: float = field(metadata=within(0, 1000))
    mean: list[float] = field(metadata=within(0, 1))
    std: list[float] = field(metadata=within(0.001, 1))

    @property
    def uses_teacher(self) -> bool:
        """Whether anything is learned from the teacher."""
        return bool(self.teacher_labels or self.teacher_maps or self.teacher_features)


@dataclass(frozen=True)
class EvaluateParams:
    certain_accuracy: float = field(metadata=within(0.5, 1))
    in_distribution_share: float = field(metadata=within(0.5, 1))
    range_photos: int = field(metadata=within(1, 10_000_000))


@dataclass(frozen=True)
class Params:
    data: DataParams
    prepare: PrepareParams
    teach: TeachParams
    train: TrainParams
    finetune: TrainParams
    evaluate: EvaluateParams


# The Python types that YAML may give for each type of field.
TYPES = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "list[str]": (list,),
    "list[float]": (list,),
}


def photos_in_epoch(photos: int, epoch_photos: int) -> int:
    """How many of `photos` an epoch may take, by the parameter `epoch_photos`."""
    return min(photos, epoch_photos or photos)


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read `path`. Values missing in section finetune are those of section train.

    Raises UsageError for an unreadable file, a missing or unknown key, and a value of the wrong
    type or outside its range.
    """
    try:
        sections = renamed(yaml.safe_load(path.read_text()), PARAMS)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: can't be read: {one_line(error)}; fix the file") from error
    _check_keys(sections, Params, str(path))
    if all(isinstance(sections[name], dict) for name in ("train", "finetune")):
        _check_known(sections["finetune"], TrainParams, f"{path}, section finetune")
        sections["finetune"] = sections["train"] | sections["finetune"]
    kinds = get_type_hints(Params)
    return Params(
        **{name: _section(sections[name], kinds[name], f"{path}, section {name}") for name in kinds}
    )


def _section(values: Any, kind: type, where: str) -> Any:
    _check_keys(values, kind, where)
    for known in fields(kind):
        _check_value(known, values[known.name], where)
    return kind(**values)


def _check_value(known: Field[Any], value: Any, where: str) -> None:
    name, type_name = known.name, str(known.type)
    if type(value) not in TYPES[type_name]:
        raise UsageError(f"{where}: {name} is {value!r}; make it {type_name}")
    if type_name in ("str", "list[str]"):
        if not all(isinstance(item, str) for item in value):
            raise UsageError(f"{where}: {name} is {value!r}; make it {type_name}")
        return
    numbers = value if isinstance(value, list) else [value]
    if isinstance(value, list) and len(value) != 3:
        raise UsageError(f"{where}: {name} has {len(value)} numbers; give 3, one per channel")
    low, high = known.metadata["range"]
    for number in numbers:
        if type(number) not in TYPES["float"] or not low <= number <= high:
            raise UsageError(f"{where}: {name} is {value!r}; give a number from {low} to {high}")


def _check_keys(values: Any, kind: type, where: str) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: not a mapping; write one `key: value` per line")
    _check_known(values, kind, where)
    known = {entry.name for entry in fields(kind)}
    if missing := sorted(known - values.keys()):
        raise UsageError(f"{where}: {missing[0]!r} is missing; add it")


def _check_known(values: dict[str, Any], kind: type, where: str) -> None:
    known = {entry.name for entry in fields(kind)}
    if unknown := sorted(map(str, values.keys() - known)):
        names = ", ".join(sorted(known))
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known keys are {names}")
