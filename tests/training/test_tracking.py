from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from testing.servers import free_ports, listens, wait_until
from training.checkpoint import BEST
from training.dataset import Split
from training.files import UsageError
from training.model import Classifier, SimpleCNN
from training.params import Params
from training.train import train

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MLflow's use of SQLAlchemy
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture
def default_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No store is set, and one set by a test is reset after it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # reverts what MLflow writes there
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    yield
    mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_of_several_trainings_begun_at_once_each_finds_a_store(
    tmp_path: Path, default_store: None
) -> None:
    from training.tracking import open_store

    fork = multiprocessing.get_context("fork")  # others would import MLflow for seconds
    processes = [fork.Process(target=open_store, args=[tmp_path]) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        (None, "file is not a database"),
        (
            "sqlite:////proc/none/mlflow.db",
            "No such file or directory: '/proc/none/mlflow.db.lock'",
        ),
        ("nonsense://store", "unsupported URI 'nonsense://store'"),
    ],
)
def test_a_store_that_can_not_be_opened_is_reported_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_store: None,
    uri: str | None,
    reason: str,
) -> None:
    import mlflow

    from training.tracking import open_store

    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
    (tmp_path / "mlflow.db").write_text("text")
    with pytest.raises(UsageError, match=f"{uri or tmp_path}.*{reason}.*--no-mlflow$"):
        open_store(tmp_path)


@pytest.mark.slow
def test_a_server_keeps_the_files_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_store: None
) -> None:
    import mlflow

    from training.tracking import EXPERIMENT, open_store

    [port] = free_ports(1)
    command = [
        sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination", str(tmp_path / "kept"),
    ]  # fmt: skip
    log = (tmp_path / "log").open("wb")
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
        wait_until(lambda: listens(port), 60)
        open_store(tmp_path / "own")
        assert mlflow.get_experiment_by_name(EXPERIMENT) is not None
        with mlflow.start_run():
            mlflow.log_text("text", "note.txt")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        log.close()
    assert [path.read_text() for path in (tmp_path / "kept").rglob("note.txt")] == ["text"]
    assert not (tmp_path / "own").exists()


@pytest.mark.slow
def test_a_run_is_logged_to_mlflow_and_its_best_weights_are_registered(
    index: Path, params: Params, tmp_path: Path, default_store: None
) -> None:
    import mlflow

    from training.tracking import CHAMPION, EXPERIMENT, MODEL, mlflow_tracker

    run = tmp_path / "runs/logged"
    short = dataclasses.replace(params.train, epochs=2, small_epochs=1)

    def go_on(*, resume: bool) -> None:
        tracker = mlflow_tracker(run, index, short)
        train(index, run, short, teacher_stats=Path("none"), resume=resume, tracker=tracker)

    go_on(resume=False)
    go_on(resume=True)  # nothing is left to train; the same MLflow run is opened again
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED"
    assert logged.data.params["epochs"] == "2"
    assert logged.data.tags["photos_sha256"] == Split(index, "train").photos_sha256
    assert len(logged.data.tags["git_commit"].rstrip("+")) in (40, len("unknown"))
    for name in (
        "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate",
        "photos_per_second",
    ):  # fmt: skip
        steps = client.get_metric_history(logged.info.run_id, name)
        assert [metric.step for metric in steps] == [1, 2], name
    plots = {item.path for item in client.list_artifacts(logged.info.run_id, "validation")}
    names = ("confusion", "history", "mistakes", "reliability")
    assert plots == {f"validation/{name}.png" for name in names}
    (weights,) = client.list_artifacts(logged.info.run_id, "weights")
    assert weights.path == f"weights/{BEST}"

    (version,) = client.search_model_versions(f"name='{MODEL}'")
    champion = client.get_model_version_by_alias(MODEL, CHAMPION)
    assert champion.run_id == logged.info.run_id
    model = mlflow.pytorch.load_model(f"models:/{MODEL}@{CHAMPION}")
    pixels = np.ascontiguousarray(Split(index, "test").pixels[:2])
    probabilities = model(torch.from_numpy(pixels))
    assert torch.allclose(probabilities.sum(1), torch.ones(2))


def test_a_mistake_is_another_answer_than_the_label_whatever_its_probability(
    index: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from training import tracking

    shown: list[str] = []
    monkeypatch.setattr(tracking, "plot_mistakes", lambda photos, titles, _: shown.extend(titles))
    split = Split(index, "validation")
    logits = torch.zeros(len(split), 3)  # as of three classes, of which none has a half
    logits[range(len(split)), split.labels] = 0.1
    logits[0, 2] = 0.2
    tracking.plot_worst_mistakes(split, logits, tmp_path / "mistakes.png")
    assert [title.split()[0] for title in shown] == [split.photos[0].path]


def test_weights_are_logged_contiguous_or_pytorch_would_warn(
    index: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import tracking

    logged: list[Classifier] = []

    def log_model(model: Classifier, **_: object) -> SimpleNamespace:
        logged.append(model)
        return SimpleNamespace(registered_model_version="1")

    monkeypatch.setattr(tracking.mlflow, "pytorch", SimpleNamespace(log_model=log_model))
    monkeypatch.setattr(tracking.mlflow, "MlflowClient", lambda: None)
    monkeypatch.setattr(tracking, "alone_with_store", nullcontext)
    monkeypatch.setattr(tracking, "make_champion", lambda *_: None)
    train = params.train
    model = Classifier(SimpleCNN(2), train.mean, train.std, temperature=1.0).eval()
    tracking.register(model, Split(index, "validation"), 0.9)
    assert all(weight.is_contiguous() for weight in logged[0].state_dict().values())


def test_a_worse_run_does_not_become_champion(
    tmp_path: Path,
) -> None:
    import mlflow

    from training.tracking import CHAMPION, MODEL, make_champion

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_registered_model(MODEL)
    champions = []
    for accuracy in (0.8, 0.9, 0.85):
        version = client.create_model_version(MODEL, source=str(tmp_path)).version
        make_champion(client, version, accuracy)
        champions.append(int(client.get_model_version_by_alias(MODEL, CHAMPION).version))
    assert champions == [1, 2, 2]


def test_a_title_of_a_mistake_is_no_formula_and_need_not_be_utf_8(tmp_path: Path) -> None:
    from training.plots import plot_mistakes

    plot_mistakes([np.zeros((9, 9, 3), np.uint8)] * 2, ["$1_$2.jpg", "\udcff.jpg"], tmp_path / "m")
    assert (tmp_path / "m").exists()


@pytest.mark.slow
def test_a_run_that_is_deleted_in_mlflow_or_had_other_photos_is_logged_anew_and_errors_only_warn(
    index: Path,
    params: Params,
    tmp_path: Path,
    default_store: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    from training import tracking

    run = tmp_path / "runs/logged"
    run.mkdir(parents=True)
    monkeypatch.setattr(tracking, "log_outcome", lambda *_: None)
    ids: list[str] = []
    for change in ("", "deleted", "other photos"):
        client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
        if change == "deleted":
            client.delete_run(ids[-1])
        if change == "other photos":
            client.set_tag(ids[-1], "photos_sha256", "0" * 64)
        with tracking.mlflow_tracker(run, index, params.train):
            ids.append((run / tracking.RUN_ID).read_text())
    assert len(set(ids)) == 3

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("the server is away")

    monkeypatch.setattr(mlflow, "log_metrics", unreachable)
    with tracking.mlflow_tracker(run, index, params.train) as log:
        log({"epoch": 1.0, "loss": 0.5})
    assert "warning: not logged to MLflow: the server is away" in capsys.readouterr().err
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    assert client.get_run(ids[-1]).info.status == "FINISHED"

    def broken(*_: object) -> None:
        outcomes.append(1)
        raise ConnectionError

    outcomes: list[int] = []
    monkeypatch.setattr(tracking, "log_outcome", broken)
    (run / tracking.RUN_ID).unlink()
    for _ in range(2):  # the second resumes the run, and tries once more
        with tracking.mlflow_tracker(run, index, params.train):
            ids.append((run / tracking.RUN_ID).read_text())
    assert len(outcomes) == 2
    assert ids[-1] == ids[-2]
    assert client.get_run(ids[-1]).info.status == "FAILED"
