from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from testing.repository import REPOSITORY
from training.checkpoint import BEST, HISTORY
from training.devices import CPU, autocast, choose_device, device_of, machine, memory_used
from training.files import UsageError
from training.params import Params

EPOCHS = 4
HERE = torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "mps:0", "auto "]
)
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="give auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", *([] if HERE else ["cuda"])])
def test_a_gpu_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"device {name}: PyTorch finds {HERE} CUDA GPUs here"):
        choose_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="an Apple GPU is here")
def test_an_apple_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="device mps: PyTorch finds no Apple GPU here; give cpu"):
        choose_device("mps")


def test_auto_is_a_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if HERE else "cpu")
    assert choose_device("cpu") == CPU


def test_each_process_of_several_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="finds 2 CUDA GPUs"):
        choose_device("auto")


def test_what_a_device_is_in_words_and_in_memory(device: torch.device) -> None:
    module = torch.nn.Linear(2, 2).to(device)
    assert device_of(module).type == device.type
    assert machine(2, device).startswith("2 times ")
    assert (memory_used(device) > 0) == (device.type == "cuda")
    with autocast(device, enabled=False):
        assert module(torch.zeros(1, 2, device=device)).dtype == torch.float32


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
