"""The numbers of `params.yaml` as frozen dataclasses, one a section."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

# What YAML may give for each type of field.
TYPES = {"int": (int,), "float": (int, float), "list[float]": (list,)}


class UsageError(Exception):
    """Something the user gave is wrong; the message names it and the remedy."""


@dataclass(frozen=True)
class PrepareParams:
    seed: int
    validation_share: float
    test_share: float
    minimum_side: int
    look_alike_distance: int


@dataclass(frozen=True)
class TrainParams:
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    fc1_learning_rate_share: float
    warmup_share: float
    weight_decay: float
    label_smoothing: float
    crop_scale: float
    brightness: float
    contrast: float
    saturation: float
    greyscale: float
    mean: list[float]
    std: list[float]
    loader_workers: int


@dataclass(frozen=True)
class EvaluateParams:
    certain_accuracy: float


@dataclass(frozen=True)
class Params:
    prepare: PrepareParams
    train: TrainParams
    evaluate: EvaluateParams


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read `path`. Raises UsageError for a missing file, a missing, unknown or mistyped key."""
    try:
        sections = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: can't be read: {error}") from error
    _check_keys(sections, Params, str(path))
    return Params(
        prepare=_section(sections, "prepare", PrepareParams, path),
        train=_section(sections, "train", TrainParams, path),
        evaluate=_section(sections, "evaluate", EvaluateParams, path),
    )


def _section(sections: dict[str, Any], name: str, kind: type, path: Path) -> Any:
    values = sections[name]
    _check_keys(values, kind, f"{path}, section {name}")
    for field in fields(kind):
        value = values[field.name]
        if type(value) not in TYPES[str(field.type)]:
            raise UsageError(
                f"{path}, section {name}: {field.name} is {value!r}; make it {field.type}"
            )
    return kind(**values)


def _check_keys(values: Any, kind: type, where: str) -> None:
    if not isinstance(values, dict):
        raise UsageError(f"{where}: not a mapping")
    known = {field.name for field in fields(kind)}
    if unknown := sorted(set(values) - known):
        names = ", ".join(sorted(known))
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known are {names}")
    if missing := sorted(known - set(values)):
        raise UsageError(f"{where}: {missing[0]!r} is missing")
