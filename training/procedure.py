"""The sections of the model card that tell how the weights were trained, and how to do it again."""

from __future__ import annotations

from typing import Any

from training.params import photos_in_epoch


def procedure(card: dict[str, Any]) -> str:
    stages = stages_of(card)
    lines = "\n".join(f"{number}. {stage(run, card)}" for number, run in enumerate(stages, start=1))
    machines = dict.fromkeys(f" on {run['machine']}" for run in stages if "machine" in run)
    took = f"{duration(sum(run['seconds'] for run in stages))}{' and'.join(machines)}"
    return f"""## Procedure

{lines}

AdamW with a one-cycle schedule each time; photos are changed at random. All numbers are in
`models/catsdogs.json`, the reasons in [training.md](training.md). Training took {took}. The
weights are those of epoch {stages[-1]["best"]["epoch"]} of the last run, the best on validation."""


def stages_of(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The training runs, each of which started from the weights of the one before."""
    stages = [card["training"]]
    while before := stages[0].get("before"):
        stages.insert(0, before)
    return stages


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def stage(run: dict[str, Any], card: dict[str, Any]) -> str:
    """One training run in a sentence."""
    params = run["params"]
    epochs = run.get("finished_epochs", params["epochs"])  # 1.1 told of whole runs alone
    parts = [f"{epochs} epochs {photos_of(run, card)}"]
    if small := min(params["small_epochs"], epochs):
        parts.append(f"the first {small} at {params['small_side']} pixels")
    if start := start_of(run):
        parts.append(start)
    if params["ema_decay"]:
        parts.append("weights averaged over the steps")
    if params["teacher_labels"] or params["teacher_maps"] or params["teacher_features"]:
        # Runs that don't know this number had the smaller teacher.
        teacher = "EfficientNet-Lite1" if "epoch_photos" in params else "EfficientNet-Lite0"
        parts.append(
            f"with {teacher} (Apache-2.0, trained on ImageNet) as teacher, which is no part of "
            "what is served"
        )
    return ", ".join(parts)


def photos_of(run: dict[str, Any], card: dict[str, Any]) -> str:
    """What an epoch goes over."""
    photos = run["photos"]
    taken = photos_in_epoch(photos, run["params"].get("epoch_photos", 0))
    kind = ""
    if of_others(run, card):
        kind = f" other photos ({', '.join(run['classes'])})"
    if taken < photos:
        return f"of {taken:,} photos drawn from {photos:,}{kind}"
    return f"on {photos:,}{kind or ' photos'}"


def start_of(run: dict[str, Any]) -> str | None:
    """The weights of a file that a training run started from; None for random ones and a run's."""
    before = run.get("before") or {}
    if "sha256" not in before:
        return None
    digest = f"sha256 `{before['sha256'][:16]}…`"
    if "version" in before:
        return f"started from the weights of version {before['version']} ({digest})"
    return f"started from the weights with {digest}"


def of_others(run: dict[str, Any], card: dict[str, Any]) -> bool:
    """Whether a training run saw other photos than the last one, or in other splits."""
    return bool(run["photos_sha256"] != card["training"]["photos_sha256"])


def reproduce(card: dict[str, Any]) -> str:
    folders = " and ".join(f"`{name}`" for name in card["classes"])
    how = "run `dvc repro`: it prepares, teaches, trains, evaluates and archives"
    where = "`runs/train/run.json`"
    if starts := [run["sha256"] for run in stages_of(card) if "sha256" in run]:
        how = f"run `make train START=WEIGHTS`, with the weights of sha256 `{starts[-1][:16]}…`"
        where = "`run.json` of the run"
    return f"""## Reproduce

Put the photos into the folders {folders} of `data.folder` (`params.yaml`), and {how}. Equal photos
and splits have the digest `{card["training"]["photos_sha256"][:16]}…` in {where}. Figures then
differ within the spread over seeds that [training.md](training.md) gives."""
