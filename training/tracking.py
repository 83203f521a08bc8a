"""MLflow at the edge of training: parameters, metrics and the loss curve of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else it tells of each table it makes

import mlflow
import numpy as np
from matplotlib.figure import Figure

from training.checkpoint import HISTORY
from training.params import TrainParams
from training.train import Log

logging.getLogger("alembic").setLevel(logging.WARNING)

EXPERIMENT = "cats-dogs-classification"
RUN_ID = "mlflow-run-id"  # so that a resumed run goes on in the same MLflow run


@contextmanager
def mlflow_tracker(run: Path, params: TrainParams) -> Iterator[Log]:
    """A tracker for `train` that logs to MLflow, by default to the SQLite store beside `run`.

    MLFLOW_TRACKING_URI names another store or server.
    """
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{(run.parent / 'mlflow.db').resolve()}")
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        artifacts = (run.parent / "mlflow-artifacts").resolve().as_uri()
        mlflow.create_experiment(EXPERIMENT, artifacts)
    mlflow.set_experiment(EXPERIMENT)
    id_file = run / RUN_ID
    known_id = id_file.read_text() if id_file.exists() else None
    if known_id:
        try:
            mlflow.get_run(known_id)
        except mlflow.MlflowException:  # another store, or an emptied one
            known_id = None
    with mlflow.start_run(run_id=known_id, run_name=None if known_id else run.name) as active:
        if known_id is None:
            mlflow.log_params(asdict(params))
            id_file.write_text(active.info.run_id)

        def log(row: dict[str, float]) -> None:
            metrics = {name: value for name, value in row.items() if name != "epoch"}
            mlflow.log_metrics(metrics, step=int(row["epoch"]))

        yield log
        plot_loss(run / HISTORY, run / "loss.png")
        mlflow.log_artifact(str(run / "loss.png"))


def plot_loss(history: Path, picture: Path) -> None:
    """Draw training and validation loss, and validation accuracy, over the epochs."""
    rows = np.atleast_1d(np.genfromtxt(history, delimiter=",", names=True))
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(rows["epoch"], rows["loss"], label="training (smoothed labels)")
    left.plot(rows["epoch"], rows["validation_loss"], label="validation")
    left.set(xlabel="epoch", ylabel="cross-entropy", ylim=(0, None))
    left.legend()
    right.plot(rows["epoch"], 100 * rows["validation_accuracy"], color="tab:green")
    right.set(xlabel="epoch", ylabel="validation accuracy, %")
    right.grid(alpha=0.3)
    figure.savefig(picture, dpi=100)
