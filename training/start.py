"""The weights that a training starts from: those of a finished run, or of a file with its JSON.

python -m training train --run runs/mine --finetune models/catsdogs.pt
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.checkpoint import BEST, Training, read_run
from training.distributed import rank
from training.errors import UsageError
from training.files import load_torch
from training.model import State
from training.weights import UNRELEASED, check_weights, checked_network

# Of the training in the JSON file: what the model card tells of each run.
TOLD = {"params", "classes", "photos", "photos_sha256", "seconds"}


def start_from(start: Path, training: Training) -> None:
    """Give `training` the weights `start`, a folder of a run or a file.

    Raises UsageError for weights that don't fit, and for a run that is not finished or was trained
    on other photos: it may have learned this test split. Of a file, nobody can tell that.
    """
    of_file = start.is_file() or start.suffix == ".pt"
    training.before, state = (weights_of_file if of_file else weights_of_run)(start, training)
    for model in (training.model, training.average.module):
        model.load_state_dict(model.state_dict() | state)


def weights_of_run(run: Path, training: Training) -> tuple[dict[str, Any], State]:
    """What run.json tells, and the best weights."""
    about, params, state = read_run(run)
    if about["photos_sha256"] != training.photos_sha256:
        raise UsageError(f"{run}: was trained on other photos or splits")
    done = about.get("finished_epochs", params.epochs)  # 1.1 didn't tell
    if done < params.epochs:
        raise UsageError(
            f"{run}: stopped after {done} of {params.epochs} epochs; finish it with --resume"
        )
    checked_network(run / BEST, state, len(training.classes))
    return about, state


def weights_of_file(weights: Path, training: Training) -> tuple[dict[str, Any], State]:
    """How they were trained, and the weights; without the last layer where classes are others."""
    card, card_file = check_weights(weights), weights.with_suffix(".json")
    for name in ("mean", "std"):
        if card[name] != (wanted := getattr(training.params, name)):
            raise UsageError(f"{card_file}: {name} is {card[name]}, but {wanted} in the parameters")
    if missing := sorted(TOLD - card.get("training", {}).keys()):
        raise UsageError(f"{card_file}: doesn't tell of its training: {', '.join(missing)}")
    state: State = load_torch(weights)
    if card["classes"] != training.classes:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("fc3.")}
        if rank() == 0:
            known, wanted = (", ".join(names) for names in (card["classes"], training.classes))
            print(f"{weights}: knows {known}; the last layer starts anew for {wanted}")
    about = card["training"] | {"sha256": card["sha256"]}
    if card["version"] != UNRELEASED:
        about["version"] = card["version"]
    return about, state
