"""Make a run's weights the released ones, and renew each file that tells of them.

python -m training release runs/train-finetuned
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.card import FIGURES, interval, summary, write_model_card
from training.drift import write_drift_rules
from training.errors import UsageError
from training.files import read_json, write_atomically
from training.markdown import write_between_marks
from training.weights import RELEASE_KEYS, release


@dataclass(frozen=True)
class Homes:
    """Where the released model and what tells of it live."""

    weights: Path  # with its JSON file beside it
    model_card: Path
    readme: Path
    rules: Path
    chart: Path


def publish(run: Path, homes: Homes, version: str | None) -> str:
    """Release `run` with all files of `homes`; lines that tell what changed, and the way back."""
    before = released(homes.weights.with_suffix(".json"))
    card = release(run, homes.weights, version)
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
        return "\n".join([*lines, told(card)])
    lines += [f"{told(card)}; before, {told(before)}", f"back: git checkout {files}"]
    if other_photos_by_the_same_words(card, before):
        lines.append(
            f"{homes.model_card}: trained on other photos than before, told of in the same words; "
            "if they no longer hold, change data.about and data.limits in params.yaml, then "
            "evaluate and release again"
        )
    return "\n".join(lines)


def released(card_file: Path) -> dict[str, Any] | None:
    """What `card_file` holds; None where it is missing, no release's, or not measured."""
    try:
        card = read_json(card_file, RELEASE_KEYS)
    except UsageError:
        return None
    return card if "test" in card["figures"] else None


def other_photos_by_the_same_words(card: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether the model card most likely tells of somebody else's photos."""
    photos, photos_before = (a["training"]["photos_sha256"] for a in (card, before))
    words, words_before = (a["params"].get("data") for a in (card, before))
    return bool(photos != photos_before and words == words_before)


def told(card: dict[str, Any]) -> str:
    test = card["figures"]["test"]
    return f"accuracy {interval(test)} on {test['photos']:,} test photos"


def write_app_version(chart: Path, version: str) -> bool:
    """Renew the line `appVersion` of Chart.yaml, by which the chart takes an image.

    A file that is missing or lacks the line stays as it is; whether it was written.
    """
    if not chart.is_file():
        return False
    line = re.compile(r"^appVersion:.*$", re.MULTILINE)
    text, lines = line.subn(f'appVersion: "{version}"', chart.read_text())
    if lines:
        write_atomically(chart, lambda partial: partial.write_text(text))
    return bool(lines)
