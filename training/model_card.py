"""Write the model card and README's figures from the JSON file of the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from files.atomic import write_atomically
from training.dataset import FOREIGN
from training.markdown import percent, table, wrapped
from training.model import count_parameters
from training.params import photos_in_epoch
from training.sources import photos, stages_of

FIGURES = "figures, written by `python -m training release`"  # the README's marks


def write_model_card(card: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda partial: partial.write_text(model_card(card)))


def model_card(card: dict[str, Any]) -> str:
    """docs/MODEL_CARD.md: data, procedure, metrics, limits, how to reproduce."""
    return wrapped("\n\n".join(filter(None, (section(card) for section in SECTIONS)))) + "\n"


def interval(split: dict[str, Any]) -> str:
    """Accuracy with its 95 % CI, for a table."""
    return f"{percent(split['accuracy'])} ({ci(split)})" if split["photos"] else "–"


def ci(split: dict[str, Any]) -> str:
    """The 95 % confidence interval of the accuracy, in percent."""
    low, high = split["accuracy_interval"]
    return f"{100 * low:.1f}–{100 * high:.1f}"


def class_table(corner: str, split: dict[str, Any]) -> str:
    """Precision, recall and F1 of each class in the figures of a split."""
    rows = [
        [name, *(percent(row[figure]) for figure in ("precision", "recall", "f1"))]
        + [f"{row['photos']:,}"]
        for name, row in split["classes"].items()
    ]
    return table([corner, "precision", "recall", "F1", "photos"], rows)


def summary(card: dict[str, Any]) -> str:
    """A paragraph and a table for the README."""
    test = card["metrics"]["test"]
    return wrapped(f"""\
Version {card["version"]}: **{percent(test["accuracy"])} accuracy** (95 % CI {ci(test)}) on a
held-out test split of {test["photos"]:,} photos.

{class_table("", test)}

{certainty(test)} The expected calibration error (ECE) is
{percent(test["calibration_error"])}.{strangers(card)}""")


def certainty(split: dict[str, Any]) -> str:
    share, right = (percent(split[f"certain_{name}"]) for name in ("share", "accuracy"))
    return f"{share} of answers are marked `certain`; {right} of those are correct."


def strangers(card: dict[str, Any]) -> str:
    """A paragraph on accuracy on foreign photos, if measured."""
    if FOREIGN not in card["metrics"]:
        return ""
    split = card["metrics"][FOREIGN]
    return f"""

**{percent(split["accuracy"])} accuracy** (95 % CI {ci(split)}) on {split["photos"]:,} validation
photos by other people with other cameras, from sources that are not in the training set.
{certainty(split)}"""


def head(card: dict[str, Any]) -> str:
    return f"""# Model card: catsdogs {card["version"]}

Written by `python -m training release` from `models/catsdogs.json`; don't edit it by hand.

SimpleCNN, four convolutions and three linear layers,
{count_parameters(len(card["classes"])) / 1e6:.1f} million parameters, {origin(card)}.
It distinguishes {listed(card["classes"], "and")}. Input: the middle of the photo, cropped to at
most 4:3 and resized to {card["input_size"]} x {card["input_size"]} pixels. Licence: Apache-2.0.
SHA-256 of the weights: `{card["sha256"]}`."""


def origin(card: dict[str, Any]) -> str:
    """Where the weights came from: the last file that a run started from, or random weights."""
    starts = list(filter(None, map(start_of, stages_of(card))))
    if not starts:
        return "trained from random weights"
    return starts[-1].replace("started from", "fine-tuned from")


def listed(names: Sequence[str], last: str) -> str:
    """A list in a sentence; `last` is the word before the last name."""
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def data(card: dict[str, Any]) -> str:
    training, metrics, params = card["training"], card["metrics"], card["params"]
    excluded = training["params"]["excluded"]
    validation = metrics.get("validation") or metrics[FOREIGN]
    cleaned = (
        f"Training excludes the photos in `{excluded}`: their label is wrong, or they show several "
        "classes or none."
        if excluded and training.get("left_out", True)  # not counted in 1.1, but there were some
        else "Training includes photos with wrong labels."
    )
    return f"""## Data

{params["data"]["about"]}{" Their sources are listed [below](#photos)." if photos(card) else ""}

The training split has {training["photos"]:,} photos. The validation split
({validation["photos"]:,} photos) was used to choose epoch, temperature and threshold. The
test split ({metrics["test"]["photos"]:,} photos) was used only for this card. Look-alikes
(perceptual hashes that differ in at most {params["prepare"]["look_alike_distance"]} of 64 bits) are
always in the same split. {cleaned} Validation and test photos were not cleaned."""


def procedure(card: dict[str, Any]) -> str:
    stages = stages_of(card)
    lines = "\n".join(f"{number}. {stage(run, card)}" for number, run in enumerate(stages, start=1))
    machines = dict.fromkeys(f" on {run['machine']}" for run in stages if "machine" in run)
    took = f"{duration(sum(run['seconds'] for run in stages))}{' and'.join(machines)}"
    return f"""## Procedure

{lines}

The first run started from random weights. Each run uses AdamW, a one-cycle schedule and random
augmentation. All hyper-parameters are in `models/catsdogs.json`; [training.md](training.md)
explains them. Training took {took}. The weights are from epoch
{stages[-1]["best"]["epoch"]} of the last run, the epoch with the highest validation accuracy."""


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def stage(run: dict[str, Any], card: dict[str, Any]) -> str:
    """One training run in a sentence."""
    params = run["params"]
    epochs = run.get("finished_epochs", params["epochs"])  # 1.1 only had finished runs
    parts = [f"{epochs} epochs {photos_of(run, card)}"]
    if small := min(params["small_epochs"], epochs):
        parts.append(f"the first {small} at {params['small_side']} pixels")
    if start := start_of(run):
        parts.append(start)
    if params["ema_decay"]:
        parts.append("weights averaged over the steps")
    if params["teacher_labels"] or params["teacher_maps"] or params["teacher_features"]:
        # Runs without this parameter had the smaller teacher.
        teacher = "EfficientNet-Lite1" if "epoch_photos" in params else "EfficientNet-Lite0"
        parts.append(
            f"distilled from {teacher} (Apache-2.0, trained on ImageNet), which is not served"
        )
    return ", ".join(parts)


def photos_of(run: dict[str, Any], card: dict[str, Any]) -> str:
    """The photos of an epoch, in words."""
    photos = run["photos"]
    taken = photos_in_epoch(photos, run["params"].get("epoch_photos", 0))
    kind = ""
    if of_others(run, card):
        kind = f" photos of another set ({', '.join(run['classes'])})"
    if taken < photos:
        return f"of {taken:,} photos drawn from {photos:,}{kind}"
    return f"on {photos:,}{kind or ' photos'}"


def start_of(run: dict[str, Any]) -> str | None:
    """The file of weights that a run started from; None for random weights and those of a run."""
    before = run.get("before") or {}
    if "sha256" not in before:
        return None
    digest = f"sha256 `{before['sha256'][:16]}…`"
    if "version" in before:
        return f"started from the weights of version {before['version']} ({digest})"
    return f"started from the weights with {digest}"


def of_others(run: dict[str, Any], card: dict[str, Any]) -> bool:
    """Whether a run had other photos or splits than the last one."""
    return bool(run["photos_sha256"] != card["training"]["photos_sha256"])


def measured(card: dict[str, Any]) -> str:
    metrics = card["metrics"]
    names = {"validation": "validation", "test": "test", FOREIGN: "foreign validation"}
    splits = {text: metrics[name] for name, text in names.items() if name in metrics}
    lines: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("photos", lambda split: f"{split['photos']:,}"),
        ("accuracy (95 % CI, Wilson)", interval),
        ("ROC AUC", roc_auc),
        ("cross-entropy (NLL)", lambda split: f"{split['cross_entropy']:.4f}"),
        ("Brier score", lambda split: f"{split['brier_score']:.4f}"),
        ("ECE (15 bins)", lambda split: percent(split["calibration_error"], 2)),
        ("marked `certain`", lambda split: percent(split["certain_share"])),
        ("accuracy where `certain`", lambda split: percent(split["certain_accuracy"])),
    ]
    before, params = metrics["uncalibrated"], card["params"]["evaluate"]
    others = " on foreign validation and on the other validation photos"
    kinds = others if FOREIGN in metrics else " on validation"
    return f"""## Metrics

{table(["", *splits], [[text, *map(show, splits.values())] for text, show in lines])}

{class_table("test", metrics["test"])}{foreign(metrics)}

Logits are divided by a temperature of {card["temperature"]:.3f}, fitted on validation. Without it,
the test split has a cross-entropy of {before["cross_entropy"]:.4f}, a Brier score of
{before["brier_score"]:.4f} and an ECE of {percent(before["calibration_error"], 2)}.

An answer is `certain` if both hold:

- its confidence is at least {card["threshold"]:.3f}, the lowest threshold with an accuracy of
  {100 * params["certain_accuracy"]:g} %{kinds};
- the photo's out-of-distribution (OOD) score is at most {card["ood_score"]["limit"]:.2f}, which
  {100 * params["in_distribution_share"]:g} % of validation photos satisfy. The score is the mean
  squared distance, in standard deviations, of the averages of the last 256 feature maps from those
  of validation photos (Mahalanobis distance without covariances; Lee and others 2018)."""


def roc_auc(split: dict[str, Any]) -> str:
    return "–" if split["roc_auc"] is None else f"{split['roc_auc']:.4f}"  # of one class


def foreign(metrics: dict[str, Any]) -> str:
    """A paragraph and two tables about foreign photos, if any were used for validation."""
    if FOREIGN not in metrics:
        return ""
    split = metrics[FOREIGN]
    rows = [[name, f"{row['photos']:,}", interval(row)] for name, row in split["sources"].items()]
    return f"""

{class_table("foreign validation", split)}

Foreign photos were taken by other people with other cameras than the training photos. None of their
sources is in the training split. Epoch, temperature and threshold were chosen on them and on the
validation split, at equal weight, so their metrics are not those of a test:

{table(["source", "photos", "accuracy (95 % CI)"], rows)}"""


def parts(card: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['photos']:,}", interval(row)]
        for name, row in card["metrics"]["slices"].items()
        if row["photos"]
    ]
    if not rows:
        return ""
    return f"""## Slices of the test split

{table(["photos", "n", "accuracy (95 % CI)"], rows)}"""


def same_answers(card: dict[str, Any]) -> str:
    half, served = card["metrics"]["half_precision"], card["metrics"]["served"]
    cost = (
        "What this costs was not measured, since the run's checkpoint is missing"
        if half is None
        else "Measured with the last epoch's weights on all "
        f"{half['photos']:,} validation photos, the accuracy is {percent(half['accuracy'], 2)} "
        f"instead of {percent(half['accuracy_float32'], 2)} in float32. The label is the same for "
        f"{percent(half['same_label'], 2)}, and probabilities differ by at most "
        f"{half['largest_difference']:.4f}"
    )
    foreign = card["metrics"].get(FOREIGN, {})
    of_foreign = (
        f" On photos by other people it is {both_accuracies(foreign['served'], foreign)}."
        if "served" in foreign
        else ""
    )
    return f"""## Stored and served model

Weights are stored in half precision. {cost}.

The served model ({served["backend"]}) was compared with PyTorch in float32 on test photos. The
label is the same for {percent(served["same_label"], 2)}, probabilities differ by at most
{served["largest_difference"]:.4f}, and the accuracy is \
{both_accuracies(served, card["metrics"]["test"])}.{of_foreign}"""


def both_accuracies(served: dict[str, Any], exact: dict[str, Any]) -> str:
    here, there = (percent(metrics["accuracy"], 2) for metrics in (served, exact))
    return f"{here} instead of {there}" if here != there else f"{here} in both"


def limits(card: dict[str, Any]) -> str:
    rows = [
        [group, str(row["pictures"]), percent(row["certain_share"])]
        for group, row in card["metrics"]["not_a_pet"].items()
    ]
    return f"""## Limits

The model labels every picture {listed(card["classes"], "or")}, whatever it shows. These shares of
pictures of other things are wrongly marked `certain`:

{table(["pictures of other things", "n", "certain"], rows)}

{card["params"]["data"]["limits"]} Don't use it where a wrong answer does harm."""


def reproduce(card: dict[str, Any]) -> str:
    folders = listed([f"`{name}`" for name in card["classes"]], "and")
    how = "run `dvc repro`: it prepares, teaches, trains, evaluates and archives"
    where = "`runs/train/run.json`"
    if starts := [run["sha256"] for run in stages_of(card) if "sha256" in run]:
        how = f"run `make train START=WEIGHTS`, with the weights of sha256 `{starts[-1][:16]}…`"
        where = "the run's `run.json`"
    return f"""## Reproduce

Put the photos into the folders {folders} of `data.folder` (`params.yaml`). Copy the parameters of
the runs from `models/catsdogs.json` into `params.yaml`. Then {how}. If photos and splits are the
same, {where} has the digest `{card["training"]["photos_sha256"][:16]}…`. Metrics then differ within
the spread over seeds that [training.md](training.md) gives."""


# The sources come last: they are most of the card.
SECTIONS = (head, data, procedure, measured, parts, same_answers, limits, reproduce, photos)
