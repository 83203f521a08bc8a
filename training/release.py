"""Publish the weights of a run, and update each file that describes them.

python -m training release runs/train-finetuned
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files.atomic import write_atomically
from training.checkpoint import BEST, CARD
from training.drift import drift_rules, write_drift_rules
from training.files import UsageError, read_json, write_json
from training.markdown import write_between_marks
from training.model_card import FIGURES, interval, model_card, summary, write_model_card
from training.weights import check_version, check_weights, read_card

RELEASE_KEYS = {"metrics", "training", "params"}  # needed for the model card


@dataclass(frozen=True)
class Homes:
    """The files of the released model, and those that describe it."""

    weights: Path  # its JSON file is in the same folder
    model_card: Path
    readme: Path
    rules: Path
    chart: Path


def publish(run: Path, homes: Homes, version: str | None) -> str:
    """Release `run` to the files of `homes`; return lines on what changed and how to undo it."""
    before = released(homes.weights.with_suffix(".json"))
    card = card_of(run, homes.weights, version)
    for describe in (model_card, drift_rules, summary):
        describe(card)  # an error must not leave new weights beside old words
    write(run, homes.weights, card)
    write_model_card(card, homes.model_card)
    write_drift_rules(card, homes.rules)
    written = [homes.weights, homes.weights.with_suffix(".json"), homes.model_card, homes.rules]
    if write_between_marks(homes.readme, FIGURES, summary(card)):
        written.append(homes.readme)
    if write_app_version(homes.chart, card["version"]):
        written.append(homes.chart)
    files = shlex.join(map(str, written))
    lines = [f"{homes.weights}: version {card['version']}", f"written: {files}"]
    if before is None:
        return "\n".join([*lines, accuracy_line(card)])
    lines += [
        f"{accuracy_line(card)}; before: {accuracy_line(before)}",
        f"to undo: git checkout {files}",
    ]
    if other_photos_by_the_same_words(card, before):
        lines.append(
            f"{homes.model_card}: the photos have changed, but not their description; if it is "
            "wrong, change data.about and data.limits in params.yaml, then evaluate and release "
            "again"
        )
    return "\n".join(lines)


def card_of(run: Path, weights: Path, version: str | None) -> dict[str, Any]:
    """The content of the JSON file of `run`, once it is released to `weights`.

    Without `version`, the last number of the released version increases by 1; the first one is 1.0.
    Raises UsageError if the run was not trained, or not evaluated after that, and for an invalid
    `version`.
    """
    if not (run / CARD).is_file():
        raise UsageError(f"{run / CARD}: missing; run `python -m training evaluate {run}`")
    card = check_weights(run / BEST)
    if not card.keys() >= RELEASE_KEYS:
        raise UsageError(
            f"{run / CARD}: of another version; run `python -m training evaluate {run}`"
        )
    card_file = weights.with_suffix(".json")
    card["version"] = check_version(version) if version is not None else next_version(card_file)
    return card


def write(run: Path, weights: Path, card: dict[str, Any]) -> None:
    weights.parent.mkdir(parents=True, exist_ok=True)
    content = (run / BEST).read_bytes()
    write_atomically(weights, lambda path: path.write_bytes(content))
    write_json(weights.with_suffix(".json"), card)


def next_version(card_file: Path) -> str:
    """The released version with its last number plus 1; 1.0 if nothing was released."""
    if not card_file.exists():
        return "1.0"
    version = check_version(str(read_json(card_file, {"version"})["version"]))
    return re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), version)


def released(card_file: Path) -> dict[str, Any] | None:
    """The content of `card_file`; None if it is missing, not of a release, or has no metrics."""
    try:
        card = read_card(card_file, RELEASE_KEYS)
    except UsageError:
        return None
    return card if "test" in card["metrics"] else None


def other_photos_by_the_same_words(card: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the model card probably still describes the previous photos."""
    photos, photos_before = (a["training"]["photos_sha256"] for a in (card, before))
    words, words_before = (a["params"].get("data") for a in (card, before))
    return bool(photos != photos_before and words == words_before)


def accuracy_line(card: dict[str, Any]) -> str:
    test = card["metrics"]["test"]
    return f"accuracy {interval(test)} on {test['photos']:,} test photos"


def write_app_version(chart: Path, version: str) -> bool:
    """Update the line `appVersion` of Chart.yaml, the default tag of the chart's image.

    Return whether it was written: a file that is missing or lacks the line stays as it is.
    """
    if not chart.is_file():
        return False
    line = re.compile(r"^appVersion:.*$", re.MULTILINE)
    text, lines = line.subn(f'appVersion: "{version}"', chart.read_text())
    if lines:
        write_atomically(chart, lambda partial: partial.write_text(text))
    return bool(lines)
