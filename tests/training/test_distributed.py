from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import REPOSITORY
from training.checkpoint import BEST, HISTORY
from training.params import Params

EPOCHS = 4


def train(
    index: Path, run: Path, params: Params, *, batch_size: int, seed: int, processes: int
) -> list[float]:
    """Train by the command line; the losses of the epochs."""
    numbers = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    numbers["train"] = asdict(params.train) | {
        "batch_size": batch_size, "seed": seed, "epochs": EPOCHS
    }  # fmt: skip
    run.parent.mkdir(exist_ok=True)
    file = run.parent / f"{run.name}.yaml"
    file.write_text(yaml.safe_dump(numbers))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", "--", "training", "train", "--no-mlflow"]
    options = ["--index", index, "--params", file, "--run", run]
    done = subprocess.run(
        [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (run / HISTORY).open(newline="") as rows:
        return [float(row["loss"]) for row in csv.DictReader(rows)]


@pytest.mark.slow
def test_two_processes_learn_as_one_does_with_the_doubled_batch(
    index: Path, params: Params, tmp_path: Path
) -> None:
    seed = params.train.seed
    one = train(index, tmp_path / "one", params, batch_size=16, seed=seed, processes=1)
    two = train(index, tmp_path / "two", params, batch_size=8, seed=seed, processes=2)
    assert len(two) == EPOCHS
    assert two[-1] < 0.8 * two[0]
    # Another seed changes the losses of so few photos by up to 0.2, too.
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 0.35
    weights = torch.load(tmp_path / "two" / BEST, weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
