"""A network that is trained in a temporary folder."""

from __future__ import annotations

import csv
import dataclasses
import tempfile
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from training.checkpoint import BEST
from training.dataset import FILE_NAMES, Split
from training.files import load_torch
from training.model import SimpleCNN, load_network
from training.params import TrainParams
from training.train import train


def trained(
    index: Path, params: TrainParams, left_out: Collection[str], **options: Any
) -> SimpleCNN:
    """The best weights of a run without the paths `left_out`; `options` as for `train`."""
    with tempfile.TemporaryDirectory() as name:
        listed, run = Path(name, "left-out.csv"), Path(name, "run")
        with listed.open("w", newline="", errors=FILE_NAMES) as file:
            csv.writer(file).writerows([["path"], *([path] for path in sorted(left_out))])
        params = dataclasses.replace(params, excluded=str(listed))
        train(index, run, params, tracker=nullcontext(lambda row: None), **options)
        return load_network(load_torch(run / BEST), len(Split(index, "validation").classes))
