"""The released weights and the JSON file beside them: writing both, and checking them.

python -m training release runs/train
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from handler.integrity import sha256_of
from training.checkpoint import BEST, CARD
from training.errors import UsageError, one_line
from training.files import load_torch, read_json, write_atomically, write_json
from training.model import SimpleCNN, State, load_network

FOREIGN = "foreign_validation"  # figures of photos of sources that validate as a whole
UNRELEASED = "0.0"  # the version of weights that are not released
MODEL_NAME = "catsdogs"  # under which they are archived and served
CARD_KEYS = {
    "version", "classes", "input_size", "mean", "std", "temperature", "threshold", "strangeness",
    "activation_ranges", "reference", "sha256",
}  # fmt: skip
RELEASE_KEYS = {"figures", "training", "params"}  # what the model card is written from


def release(run: Path, weights: Path, version: str | None) -> dict[str, Any]:
    """Copy the best weights of `run` to `weights`, with the JSON file that tells all about them
    beside them; return what the latter holds.

    Without `version`, the last number of the released version goes up by one, from 1.0 on. Raises
    UsageError when the run is not trained, or not evaluated since, or `version` is no version.
    """
    if not (run / CARD).is_file():
        raise UsageError(f"{run / CARD}: missing; run `python -m training evaluate {run}`")
    card = check_weights(run / BEST)
    if not card.keys() >= RELEASE_KEYS:
        raise UsageError(f"{run / CARD}: of another version; `python -m training evaluate {run}`")
    card_file = weights.with_suffix(".json")
    card["version"] = check_version(version) if version is not None else next_version(card_file)
    weights.parent.mkdir(parents=True, exist_ok=True)
    content = (run / BEST).read_bytes()
    write_atomically(weights, lambda path: path.write_bytes(content))
    write_json(card_file, card)
    return card


def check_weights(weights: Path) -> dict[str, Any]:
    """The JSON file beside `weights`, after checking the two against each other and the model.

    Raises UsageError for a missing file, another sha256, or tensors that SimpleCNN doesn't take.
    """
    card_file = weights.with_suffix(".json")
    for path in (weights, card_file):
        if not path.is_file():
            raise UsageError(f"{path}: missing; `python -m training release RUN` writes it")
    card = read_json(card_file, CARD_KEYS)
    if sha256_of(weights) != card["sha256"]:
        raise UsageError(f"{weights}: its sha256 is not the one in {card_file}; make both again")
    checked_network(weights, load_torch(weights), len(card["classes"]))
    return card


def checked_network(path: Path, state: State, classes: int) -> SimpleCNN:
    """The network with the weights `state`, read from `path`, in evaluation mode.

    Raises UsageError, naming `path`, when SimpleCNN with `classes` classes can't take them, and
    when the training diverged.
    """
    try:
        network = load_network(state, classes)
    except Exception as error:  # `state` may be anything that torch.save writes
        raise UsageError(f"{path}: not SimpleCNN's state dict: {one_line(error)}") from error
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UsageError(f"{path}: not all numbers; the training diverged: lower its learning_rate")
    return network


def check_version(version: str) -> str:
    """`version`, as it may stand in a URL. Raises UsageError for anything but numbers and dots."""
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise UsageError(f"version {version!r}: give numbers with dots between them, like 1.2")
    return version


def next_version(card_file: Path) -> str:
    """The released version with its last number raised by one; 1.0 when nothing is released."""
    if not card_file.exists():
        return "1.0"
    version = check_version(str(read_json(card_file, {"version"})["version"]))
    return re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), version)
