from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.evaluate import (
    calibration_error,
    certain_threshold,
    figures,
    fit_temperature,
    format_figures,
)


def test_the_temperature_that_made_the_logits_is_found_again() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20_000, 2) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits * 0.5, labels) == pytest.approx(0.5, rel=0.05)


@given(
    hnp.arrays(np.float64, 30, elements=st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])),
    hnp.arrays(np.bool_, 30),
    st.sampled_from([0.5, 0.9, 0.99]),
)
@settings(deadline=None)
def test_the_threshold_is_the_lowest_that_keeps_the_accuracy(
    confidence: np.ndarray, right: np.ndarray, accuracy: float
) -> None:
    threshold = certain_threshold(confidence, right, accuracy)
    kept = {t: right[confidence >= t].mean() for t in np.unique(confidence)}
    enough = [t for t, share in kept.items() if share >= accuracy]
    assert threshold == (min(enough) if enough else 1.0)


def test_the_calibration_error_is_the_distance_of_confidence_from_accuracy() -> None:
    confidence = np.repeat([0.65, 0.95], 100)
    right = np.concatenate([np.arange(100) < 65, np.arange(100) < 75])
    assert calibration_error(confidence, right) == pytest.approx((0 + 0.2) / 2)
    assert calibration_error(np.ones(10), np.ones(10, bool)) == 0


def test_figures_agree_with_counting_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    predicted = torch.tensor([0, 0, 1, 1, 0])
    logits = F.one_hot(predicted, 2).float() * torch.tensor([[9], [1], [9], [9], [1]])
    result = figures(logits, labels, ["cat", "dog"], threshold=0.9)
    assert result["confusion"] == [[2, 1], [1, 1]]
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["classes"]["cat"] == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "photos": 3,
    }
    assert result["certain_share"] == pytest.approx(3 / 5)
    assert result["certain_accuracy"] == pytest.approx(2 / 3)
    assert "accuracy 0.6000 on 5 test photos" in format_figures(result)
