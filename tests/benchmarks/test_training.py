from __future__ import annotations

import pytest
import torch

from benchmarks import training
from training.devices import CPU


@pytest.mark.slow
def test_every_kind_of_row_can_still_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "STEPS", 1)
    monkeypatch.setattr(training, "EPOCH", 64)
    monkeypatch.setattr(training, "product", lambda *_: [(64, 32, None), (64, 32, 2**40)])
    torch.manual_seed(0)
    for setting in (training.PLAIN, {"recipe": 64}):
        assert training.measure(setting) > 0
    names = " ".join(training.epochs_on(CPU, 1))
    assert "photos read ahead" in names
    assert "photos on the GPU" in names
