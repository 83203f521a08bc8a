from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.evaluate import format_metrics
from training.metrics import (
    accuracy_of,
    agreement,
    calibration,
    calibration_error,
    certain_threshold,
    classification_metrics,
    fit_temperature,
    reliability,
    roc_auc,
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


def test_metrics_agree_with_counting_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    predicted = torch.tensor([0, 0, 1, 1, 0])
    logits = F.one_hot(predicted, 2).float() * torch.tensor([[9], [1], [9], [9], [1]])
    certain = np.array([True, False, True, True, False])
    result = classification_metrics(logits, labels, ["cat", "dog"], certain)
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
    assert "accuracy 0.6000 on 5 test photos" in format_metrics(result)


def test_the_interval_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    low, high = accuracy_of(np.arange(263) < 81)["accuracy_interval"]
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert accuracy_of(np.array([], bool))["accuracy"] is None


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(60, 2), torch.arange(60) % 2
    margin = (logits[:, 1] - logits[:, 0]).double()
    pairs = margin[labels == 1][:, None] > margin[labels == 0][None]
    assert roc_auc(logits, labels) == pytest.approx(pairs.double().mean().item())
    assert roc_auc(logits * 1000, labels) == pytest.approx(roc_auc(logits, labels))
    assert roc_auc(logits, torch.zeros(60, dtype=torch.long)) is None


def test_calibration_of_known_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.8, 0.2]]))
    found = calibration(logits, torch.tensor([0, 1]))
    assert found["brier_score"] == pytest.approx((0.2**2 + 0.8**2) / 2)
    assert found["cross_entropy"] == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2)
    assert found["calibration_error"] == pytest.approx(0.3)


@given(hnp.arrays(np.float64, 40, elements=st.floats(0.5, 1)), hnp.arrays(np.bool_, 40))
@settings(deadline=None)
def test_reliability_counts_every_photo_once(confidence: np.ndarray, right: np.ndarray) -> None:
    bins = reliability(confidence, right)
    assert sum(row["photos"] for row in bins) == 40
    assert sum(row["photos"] * row["accuracy"] for row in bins) == pytest.approx(right.sum())


def test_agreement_tells_labels_and_the_largest_difference() -> None:
    one, other = np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([[0.8, 0.2], [0.4, 0.6]])
    found = agreement(one, other)
    assert found == {
        "photos": 2,
        "same_label": 0.5,
        "largest_difference": pytest.approx(0.2),
    }
