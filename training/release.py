"""Turn the best epoch of a run into the released weights of `models/`.

python -m training release runs/train
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from handler.photo import SIDE
from training.checkpoint import BEST, write_atomically, write_json
from training.evaluate import EVALUATION, read_run
from training.model import load_network
from training.params import UsageError

WEIGHTS = Path("models/catsdogs.pt")


def release(run: Path, weights: Path, version: str | None) -> dict[str, Any]:
    """Write `weights` and, beside it, the JSON file that tells all about it; return the latter.

    Without `version`, the last number of the released version goes up by one, from 1.0 on. Raises
    UsageError when the run is not trained or not evaluated.
    """
    about, params = read_run(run)
    if not (run / EVALUATION).exists():
        raise UsageError(f"{run / EVALUATION}: missing; run `python -m training evaluate {run}`")
    evaluation = json.loads((run / EVALUATION).read_text())
    content = (run / BEST).read_bytes()
    card = {
        "version": version or next_version(weights.with_suffix(".json")),
        "classes": about["classes"],
        "input_size": SIDE,
        "mean": params.mean,
        "std": params.std,
        "temperature": evaluation["temperature"],
        "threshold": evaluation["threshold"],
        "sha256": hashlib.sha256(content).hexdigest(),
        "figures": {"validation_accuracy": about["best"]["validation_accuracy"]}
        | {"epoch": about["best"]["epoch"], "test": evaluation["test"]},
    }
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(weights, lambda path: path.write_bytes(content))
    write_json(weights.with_suffix(".json"), card)
    return card


def next_version(card: Path) -> str:
    """The released version with its last number raised by one; 1.0 when nothing is released."""
    if not card.exists():
        return "1.0"
    version: str = json.loads(card.read_text())["version"]
    return re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), version)


def check_weights(weights: Path) -> dict[str, Any]:
    """The JSON file beside `weights`, after checking the two against each other and the model.

    Raises UsageError for a missing file, another sha256, or tensors that SimpleCNN doesn't take.
    """
    card_file = weights.with_suffix(".json")
    for path in (weights, card_file):
        if not path.is_file():
            raise UsageError(f"{path}: missing; `python -m training release RUN` writes it")
    try:
        card: dict[str, Any] = json.loads(card_file.read_text())
        classes, sha256 = card["classes"], card["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{card_file}: not a model's description: {error!r}") from error
    if hashlib.sha256(weights.read_bytes()).hexdigest() != sha256:
        raise UsageError(f"{weights}: its sha256 is not the one in {card_file}; release both again")
    try:
        load_network(torch.load(weights, weights_only=True), len(classes))
    except Exception as error:  # an untrusted file makes torch.load raise nearly anything
        first_line = str(error).strip().splitlines()[0]
        raise UsageError(f"{weights}: not SimpleCNN's state dict: {first_line}") from error
    return card
