from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handler.drift_features import bin_of
from training.dataset import Split
from training.drift import BINS, deciles, drift_rules, reference, write_drift_rules

FEW = st.sampled_from([0.04, 0.19, 12.0])  # few values, like sizes from cameras


@given(arrays(float, st.integers(1, 300), elements=st.one_of(FEW, st.floats(0, 20))))
def test_no_bin_of_the_reference_is_empty(values: np.ndarray) -> None:
    found = deciles(values)
    counts = np.bincount([bin_of(value, found["edges"]) for value in values])
    assert len(found["shares"]) == len(found["edges"]) + 1 <= BINS
    assert counts / len(values) == pytest.approx(found["shares"])
    assert counts.min() > 0
    assert found["edges"] == sorted(set(found["edges"]))


def test_many_different_values_fall_into_tenths() -> None:
    found = deciles(np.random.default_rng(0).normal(size=5000))
    assert found["shares"] == pytest.approx([0.1] * 10, abs=1e-3)


def test_the_reference_tells_shares_and_confidence_of_a_split(index: Path, tmp_path: Path) -> None:
    split = Split(index, "train")
    confidence = np.linspace(0.5, 1, len(split)).astype(np.float32)
    known = reference(split, np.arange(len(split)), confidence, [0] * len(split))
    assert known["photos"] == len(split)
    assert known["class_shares"] == {"cat": 1.0, "dog": 0.0}
    means, shares = known["confidence_means"], known["drift_features"]["confidence"]["shares"]
    assert means == sorted(means)
    assert np.dot(means, shares) == pytest.approx(confidence.mean())
    assert known["drift_features"]["aspect"]["shares"]
    write_drift_rules({"reference": known}, tmp_path / "rules.yml")
    rules = yaml.safe_load((tmp_path / "rules.yml").read_text())["groups"]
    recorded = [rule["record"] for group in rules for rule in group["rules"]]
    assert recorded.count("prediction_confidence:reference_mean") == len(means)
    assert {"photo_quantity:psi_10m", "photo_quantity:psi_1d"} <= set(recorded)


def test_shares_of_the_reference_are_written_with_their_labels() -> None:
    row = {"edges": [0.5], "shares": [0.25, 0.75]}
    card = {
        "reference": {
            "class_shares": {"fox": 1.0},
            "confidence_means": [0.6, 0.9],
            "drift_features": {"confidence": row},
        }
    }
    (constants, *_) = yaml.safe_load(drift_rules(card))["groups"]
    assert constants["rules"][1] == {
        "record": "photo_quantity:reference_share",
        "expr": "vector(0.75)",
        "labels": {"quantity": "confidence", "bin": "1"},
    }
