"""Log runs to MLflow: parameters, progress, plots and weights."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault(
    "MLFLOW_LOGGING_LEVEL", "WARNING"
)  # otherwise it logs each table that it creates
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # 7 would stop training for minutes

import mlflow
import numpy as np
import torch
import torch.nn.functional as F
from mlflow.entities import LifecycleStage, Run

from training.checkpoint import BEST, HISTORY, RUN_ID, Log, read_run
from training.dataset import Split
from training.devices import CPU
from training.files import UsageError, locked, one_line
from training.inference import split_logits
from training.metrics import confidences, confusion, reliability
from training.model import Classifier, load_network
from training.params import TrainParams
from training.plots import plot_confusion, plot_history, plot_mistakes, plot_reliability

logging.getLogger("alembic").setLevel(logging.WARNING)

EXPERIMENT = "cats-dogs-classification"
MODEL = "catsdogs"  # in the registry
CHAMPION = "champion"  # the alias of the version with the highest validation accuracy
PHOTOS = "photos_sha256"  # a tag
MISTAKES = 20


@contextmanager
def mlflow_tracker(
    run: Path, index: Path, params: TrainParams, device: torch.device = CPU
) -> Iterator[Log]:
    """A tracker for `train` that logs to MLflow, by default to a SQLite store next to `run`.

    MLFLOW_TRACKING_URI names another store or server. Raises UsageError if it can't be opened.
    """
    open_store(run.parent)
    photos = Split(index, "train").photos_sha256
    known = known_run(run, params, photos)
    known_id = known.info.run_id if known else None
    active = mlflow.start_run(run_id=known_id, run_name=None if known_id else run.name)
    status, rows = "FAILED", 0
    try:
        if known_id is None:
            mlflow.log_params(asdict(params))
            mlflow.set_tag("git_commit", git_commit())
            mlflow.set_tag(PHOTOS, photos)
            (run / RUN_ID).write_text(active.info.run_id)

        def log(row: dict[str, float]) -> None:
            nonlocal rows
            rows += 1
            metrics = {name: value for name, value in row.items() if name != "epoch"}
            tried(mlflow.log_metrics, metrics, step=int(row["epoch"]))

        yield log
        is_known = not rows and known is not None and known.info.status == "FINISHED"
        if is_known or tried(log_outcome, run, index, device):  # 160 MB, so only once
            status = "FINISHED"
    finally:
        tried(mlflow.end_run, status)


def tried(call: Callable[..., object], *arguments: Any, **named: Any) -> bool:
    """Call MLflow; whether it worked. Only warns if not: a training doesn't depend on it."""
    try:
        call(*arguments, **named)
    except Exception as error:  # from MLflow, its store, its server or the network
        print(f"warning: not logged to MLflow: {one_line(error)}", file=sys.stderr)
        return False
    return True


def open_store(folder: Path) -> None:
    """Choose the store, by default in `folder`, and the experiment; create them if missing.

    A server keeps the files of its runs itself. Raises UsageError if the store can't be opened.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    try:
        with alone_with_store():
            if mlflow.get_experiment_by_name(EXPERIMENT) is None:
                own = (folder / "mlflow-artifacts").resolve().as_uri()
                server = mlflow.get_tracking_uri().startswith("http")
                mlflow.create_experiment(EXPERIMENT, None if server else own)
            mlflow.set_experiment(EXPERIMENT)
    except Exception as error:  # from MLflow, SQLAlchemy, alembic or the operating system
        raise UsageError(
            f"{mlflow.get_tracking_uri()}: the MLflow store can't be opened: {one_line(error)}; "
            "name another with MLFLOW_TRACKING_URI, or train with --no-mlflow"
        ) from error


def alone_with_store() -> AbstractContextManager[None]:
    """A lock for a SQLite store: if two processes create its tables at once, one fails.

    A server has its own locks.
    """
    kind, _, path = mlflow.get_tracking_uri().partition(":///")
    return locked(Path(f"{path}.lock")) if kind == "sqlite" else nullcontext()


def known_run(run: Path, params: TrainParams, photos_sha256: str) -> Run | None:
    """The MLflow run of `run`; None if this store has none with the same parameters and photos."""
    try:
        known = mlflow.get_run((run / RUN_ID).read_text())
    except (FileNotFoundError, mlflow.MlflowException):  # a new run; another store
        return None
    same = known.data.params == {name: str(value) for name, value in asdict(params).items()}
    same &= known.data.tags.get(PHOTOS) == photos_sha256
    return known if same and known.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def git_commit() -> str:
    """The commit of the working tree, with a + if files differ; `unknown` without git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


def log_outcome(run: Path, index: Path, device: torch.device) -> None:
    """Log plots, mistakes on validation and the best weights; register the weights as a version.

    The version gets the alias `champion` if none has a higher validation accuracy.
    """
    about, params, state = read_run(run)
    split = Split(index, "validation")
    network = load_network(state, len(split.classes))
    logits, labels = split_logits(network.to(device), split, params)
    network.cpu()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plot_history(run / HISTORY, folder / "history.png")
        plot_confusion(confusion(logits, labels), split.classes, folder / "confusion.png")
        bins = {"validation": reliability(*confidences(logits, labels))}
        plot_reliability(bins, len(split.classes), folder / "reliability.png")
        plot_worst_mistakes(split, logits, folder / "mistakes.png")
        mlflow.log_artifacts(name, "validation")
    mlflow.log_artifact(str(run / BEST), "weights")
    model = Classifier(network, params.mean, params.std, temperature=1.0).eval()
    register(model, split, about["best"]["validation_accuracy"])


def plot_worst_mistakes(split: Split, logits: torch.Tensor, picture: Path) -> None:
    """Draw a contact sheet of wrong answers, lowest probability of the label first."""
    probabilities = F.softmax(logits, dim=1)[range(len(split)), split.labels]
    wrong = logits.argmax(dim=1) != torch.tensor(split.labels)
    worst = [int(n) for n in probabilities.argsort() if wrong[n]][:MISTAKES]
    titles = [f"{split.photos[n].path} {probabilities[n]:.3f}" for n in worst]
    plot_mistakes([split.pixels[split.rows[n]] for n in worst], titles, picture)


def register(model: Classifier, split: Split, accuracy: float) -> None:
    """Log `model` as a torch.export program, without Python code, and register a new version."""
    example = np.ascontiguousarray(split.pixels[split.rows[:2]])
    with torch.inference_mode():
        answer = model(torch.from_numpy(example)).numpy()
    model = model.to(memory_format=torch.contiguous_format)  # PyTorch warns about channels-last
    schema: dict[str, Any] = {
        "signature": mlflow.models.infer_signature(example, answer),
        "input_example": example,
        "serialization_format": "pt2",
        "registered_model_name": MODEL,
    }
    logged = mlflow.pytorch.log_model(model, name="model", **schema)
    with alone_with_store():
        make_champion(mlflow.MlflowClient(), logged.registered_model_version, accuracy)


def make_champion(client: mlflow.MlflowClient, version: str, accuracy: float) -> None:
    """Make `version` the champion, unless the champion has a higher validation accuracy."""
    client.set_model_version_tag(MODEL, version, "validation_accuracy", str(accuracy))
    if accuracy >= champion_accuracy(client):
        client.set_registered_model_alias(MODEL, CHAMPION, version)


def champion_accuracy(client: mlflow.MlflowClient) -> float:
    """Validation accuracy of the champion; 0 if there is none."""
    aliases = client.get_registered_model(MODEL).aliases
    if CHAMPION not in aliases:
        return 0.0
    version = client.get_model_version(MODEL, aliases[CHAMPION])
    return float(version.tags.get("validation_accuracy", 0))
