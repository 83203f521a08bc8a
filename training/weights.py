"""Check weights and their JSON file, and start a training run from them.

python -m training train --run runs/mine --finetune models/catsdogs.pt
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from handler.integrity import check_input_size, sha256_of
from training.checkpoint import BEST, Training, read_run
from training.compat import CARD as CARD_NAMES
from training.compat import renamed
from training.devices import rank
from training.files import UsageError, load_torch, one_line, read_json
from training.model import SimpleCNN, State, load_network

UNRELEASED = "0.0"  # the version of unreleased weights
MODEL_NAME = "catsdogs"  # in the archive and in TorchServe
CARD_KEYS = {
    "version", "classes", "input_size", "mean", "std", "temperature", "threshold", "ood_score",
    "activation_ranges", "reference", "sha256",
}  # fmt: skip
# Of `training` in the JSON file: what the model card needs of each run.
TRAINING_KEYS = {"params", "classes", "photos", "photos_sha256", "seconds"}


def read_card(card_file: Path, keys: set[str] = CARD_KEYS) -> dict[str, Any]:
    """The JSON file of weights, with current key names even if an earlier version wrote it.

    Raises UsageError if it can't be read or lacks one of `keys`.
    """
    return read_json(card_file, keys, partial(renamed, names=CARD_NAMES))


def check_weights(weights: Path) -> dict[str, Any]:
    """The JSON file of `weights`, after checking both.

    Raises UsageError for a missing file, a wrong sha256 or input size, or tensors that don't fit
    SimpleCNN.
    """
    card_file = weights.with_suffix(".json")
    for path in (weights, card_file):
        if not path.is_file():
            raise UsageError(f"{path}: missing; `python -m training release RUN` writes it")
    card = read_card(card_file)
    if sha256_of(weights) != card["sha256"]:
        raise UsageError(
            f"{weights}: its sha256 is not the one in {card_file}; restore or recreate both"
        )
    try:
        check_input_size(card)
    except RuntimeError as error:
        raise UsageError(f"{card_file}: {error}") from error
    checked_network(weights, load_torch(weights), len(card["classes"]))
    return card


def checked_network(path: Path, state: State, classes: int) -> SimpleCNN:
    """The network with the weights `state`, read from `path`, in evaluation mode.

    Raises UsageError, naming `path`, if they don't fit SimpleCNN with `classes` classes, or if the
    training diverged.
    """
    try:
        network = load_network(state, classes)
    except Exception as error:  # `state` may be anything that torch.save writes
        raise UsageError(f"{path}: not a state dict of SimpleCNN: {one_line(error)}") from error
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise UsageError(
            f"{path}: contains NaN or infinity: the training diverged; lower learning_rate"
        )
    return network


def check_version(version: str) -> str:
    """`version`, valid in a URL. Raises UsageError for anything but numbers and dots."""
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise UsageError(f"version {version!r}: give numbers with dots, such as 1.2")
    return version


def start_from(start: Path, training: Training) -> None:
    """Load the weights `start`, the folder of a run or a file, into `training`.

    Raises UsageError for weights that don't fit. Also raises it for a run that is unfinished or was
    trained on other photos: it may have seen this test split. A file can't be checked for that.
    """
    of_file = start.is_file() or start.suffix == ".pt"
    training.before, state = (weights_of_file if of_file else weights_of_run)(start, training)
    for model in (training.model, training.average.module):
        model.load_state_dict(model.state_dict() | state)


def weights_of_run(run: Path, training: Training) -> tuple[dict[str, Any], State]:
    """The content of run.json, and the best weights."""
    about, params, state = read_run(run)
    if about["photos_sha256"] != training.photos_sha256:
        raise UsageError(
            f"{run}: was trained on other photos or splits; start from a file of weights"
        )
    done = about.get("finished_epochs", params.epochs)  # not in runs of 1.1
    if done < params.epochs:
        raise UsageError(
            f"{run}: stopped after {done} of {params.epochs} epochs; finish it with --resume"
        )
    checked_network(run / BEST, state, len(training.classes))
    return about, state


def weights_of_file(weights: Path, training: Training) -> tuple[dict[str, Any], State]:
    """How they were trained, and the weights; without the last layer if the classes differ."""
    card, card_file = check_weights(weights), weights.with_suffix(".json")
    for name in ("mean", "std"):
        if card[name] != (wanted := getattr(training.params, name)):
            raise UsageError(
                f"{card_file}: {name} is {card[name]}, but {wanted} in the parameters; "
                "copy it to params.yaml"
            )
    if missing := sorted(TRAINING_KEYS - card.get("training", {}).keys()):
        raise UsageError(
            f"{card_file}: `training` lacks {', '.join(missing)}; use weights that `release` wrote"
        )
    state: State = load_torch(weights)
    if card["classes"] != training.classes:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc3.")}
        if rank() == 0:
            known, wanted = (", ".join(names) for names in (card["classes"], training.classes))
            print(f"{weights}: trained for {known}; the last layer is re-initialised for {wanted}")
    about = card["training"] | {"sha256": card["sha256"]}
    if card["version"] != UNRELEASED:
        about["version"] = card["version"]
    return about, state
