"""dvc.yaml on generated photos, and the release of its run, in a copy of the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from testing.repository import REPOSITORY

COPIED = (
    ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml",
)  # fmt: skip
PICTURE = REPOSITORY / "tests/pictures/cat.jpg"


class Clone:
    """A copy of the repository in which commands run with this environment's programs."""

    def __init__(self, folder: Path, photos: Path) -> None:
        self.folder = folder
        for name in COPIED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
        for name in ("files", "handler", "training"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
        (folder / "model_store").mkdir()
        shutil.copytree(photos, folder / "data/photos")
        self.change("train", epochs=2, small_epochs=1, batch_size=16)
        self.change("finetune", epochs=1, batch_size=16)
        for command in ("init --quiet", "add .", "commit --quiet --message all"):
            self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", *command.split())

    def change(self, section: str, **values: object) -> None:
        path = self.folder / "params.yaml"
        numbers = yaml.safe_load(path.read_text())
        numbers[section] |= values
        path.write_text(yaml.safe_dump(numbers, sort_keys=False))

    def run(self, *command: str | Path) -> str:
        programs = Path(sys.executable).parent
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site-cache"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.folder.parent / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.folder.parent / "system"),
            "DVC_NO_ANALYTICS": "1",
        }
        result = subprocess.run(
            list(map(str, command)), cwd=self.folder, env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def clone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("pipeline") / "catsdogs", photos)
    clone.run("dvc", "repro")
    return clone


@pytest.mark.slow
def test_photos_become_an_archive_and_a_second_time_nothing_is_done(clone: Clone) -> None:
    assert (clone.folder / "model_store/catsdogs-candidate.mar").is_file()
    assert (clone.folder / "runs/teacher/label_issues.csv").is_file()
    second = clone.run("dvc", "repro")
    assert second.count("didn't change, skipping") == 6
    assert "Running stage" not in second
    assert clone.run("git", "status", "--short").split() == ["??", "dvc.lock"]


@pytest.mark.slow
def test_metrics_params_and_plots_can_be_looked_at(clone: Clone) -> None:
    metrics = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    (shown,) = metrics[""]["data"].values()
    assert 0 <= shown["data"]["test"]["accuracy"] <= 1
    clone.change("evaluate", certain_accuracy=0.95)
    assert "certain_accuracy" in clone.run("dvc", "params", "diff")
    assert "evaluate" in clone.run("dvc", "status")
    clone.change("evaluate", certain_accuracy=0.99)
    clone.run("dvc", "plots", "show", "--out", clone.folder.parent / "plots")
    page = (clone.folder.parent / "plots/index.html").read_text()
    assert "validation_accuracy" in page
    assert "reliability.png" in page
    clone.run("dvc", "push")
    assert list((clone.folder / ".dvc/storage").rglob("*"))


@pytest.mark.slow
def test_the_run_is_released_with_its_model_card_and_classifies(clone: Clone) -> None:
    (clone.folder / "README.md").write_text((REPOSITORY / "README.md").read_text())
    output = clone.run("python", "-m", "training", "release", "runs/finetune")
    assert "accuracy" in output.splitlines()[-1]  # a first release can't be undone
    card = json.loads((clone.folder / "models/catsdogs.json").read_text())
    assert card["version"] == "1.0"
    readme = " ".join((clone.folder / "README.md").read_text().split())
    assert "held-out test split of 8 photos" in readme
    assert "Model card: catsdogs 1.0" in (clone.folder / "docs/MODEL_CARD.md").read_text()
    clone.run("python", "-m", "training", "archive")
    answer = clone.run("python", "-m", "training", "predict", PICTURE)
    assert answer.startswith(f"{PICTURE}: ")
