from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from testing.repository import CARD, CLASSES, REPOSITORY
from testing.traffic import PER_STEP, STEP, Photo, firing, rule_test
from tests.conftest import needs
from training.drift import WINDOWS, drift_rules

MONITORING = REPOSITORY / "monitoring"
ALERTS = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
LOOKBACK = 5 * 60  # s; Prometheus ignores older samples


@needs("promtool")
def test_the_configuration_and_all_rules_are_valid() -> None:
    command = ["promtool", "check", "config", MONITORING / "prometheus.yml"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs("promtool")
def test_alerts_are_silent_before_a_fault_and_fire_after_it() -> None:
    command = ["promtool", "test", "rules", MONITORING / "alerts_test.yml"]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_but_those_of_drift_is_tested() -> None:
    tested = (MONITORING / "alerts_test.yml").read_text()
    for group in ALERTS:
        if group["name"] != "drift":
            for rule in group["rules"]:
                assert f'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"' in tested


@needs("promtool")
def test_each_alert_says_in_words_and_figures_what_is_wrong(tmp_path: Path) -> None:
    faults = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())
    faults["rule_files"] = [str(MONITORING / name) for name in faults["rule_files"]]
    for test in faults["tests"]:
        samples = [row for row in test["promql_expr_test"] if row["exp_samples"]]
        test["alert_rule_test"] = [
            {"alertname": alert, "eval_time": row["eval_time"]}
            for row in samples
            for alert in re.findall(r'alertname="(\w+)"', row["exp_samples"][0]["labels"])
        ]
    shifted = {"brightness": 0.1, "confidence": 0.6, "class_name": CLASSES[0]}
    drift = rule_test([*photos(15, seed=1), *photos(10, seed=2, **shifted)])
    rules = [rule for group in ALERTS for rule in group["rules"]]
    drift["tests"][0]["alert_rule_test"] = [
        {"alertname": alert, "eval_time": "25m"} for alert in {rule["alert"] for rule in rules}
    ]
    shown = ""
    for number, content in enumerate((faults, drift)):
        (tmp_path / f"{number}.yml").write_text(json.dumps(content))
        command = ["promtool", "test", "rules", tmp_path / f"{number}.yml"]
        # No alert is expected, so that promtool prints the texts of those that fire.
        shown += subprocess.run(command, capture_output=True, text=True, check=False).stderr
    for rule in rules:
        summary = rule["annotations"]["summary"].replace("a day", "10 minutes")
        filled = re.sub(r"\\{\\{.*?\\}\\}", r"[\\w.%:-]+", re.escape(summary))
        assert re.search(f'summary="{filled}"', shown), summary


def test_the_rules_of_drift_are_those_of_the_released_weights() -> None:
    assert (MONITORING / "drift_rules.yml").read_text() == drift_rules(CARD)


def photos(minutes: int, seed: int, **shifted: object) -> list[list[Photo]]:
    """A photo per second, with drift features as in the reference except the `shifted` ones."""
    random = np.random.default_rng(seed)
    known = CARD["reference"]
    draws = {}
    count = minutes * 60
    for name, row in known["drift_features"].items():
        values = np.array([*row["edges"], row["edges"][-1] + 1])
        draws[name] = random.choice(values, count, p=row["shares"] / np.sum(row["shares"]))
    names, shares = zip(*known["class_shares"].items(), strict=True)
    draws["class_name"] = random.choice(names, count, p=shares)
    all_photos = [
        {name: column[number].item() for name, column in draws.items()} | shifted
        for number in range(count)
    ]
    return [all_photos[start : start + STEP] for start in range(0, count, STEP)]


@needs("promtool")
def test_photos_as_on_validation_raise_no_alert() -> None:
    assert firing(photos(30, seed=0)) == {}


@needs("promtool")
@pytest.mark.parametrize(
    ("shifted", "alert"),
    [
        ({"brightness": 0.1}, "PhotosDrifted brightness"),
        ({"sharpness": 0.0}, "PhotosDrifted sharpness"),
        ({"megapixels": 12.0}, "PhotosDrifted megapixels"),
        ({"confidence": 0.6}, "ConfidenceDrifted confidence"),
        ({"class_name": CLASSES[0]}, f"ClassSharesShifted {CLASSES[0]}"),
    ],
)
def test_a_shift_raises_its_alert_within_ten_minutes(shifted: Photo, alert: str) -> None:
    found = firing([*photos(15, seed=1), *photos(10, seed=2, **shifted)])
    assert min(found) > 15
    assert {name.split()[1] for name in set().union(*found.values())} <= {*shifted, *CLASSES}
    assert alert in found[25]


def seconds_between_evaluations() -> dict[str, int]:
    """Of each group of recording rules, by its name."""
    files = [yaml.safe_load(file.read_text()) for file in MONITORING.glob("*_rules.yml")]
    usual = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]
    intervals = {
        group["name"]: group.get("interval", usual["evaluation_interval"])
        for file in files
        for group in file["groups"]
    }
    units = {"s": 1, "m": 60, "h": 3600}
    return {name: int(text[:-1]) * units[text[-1]] for name, text in intervals.items()}


@needs("promtool")
@pytest.mark.parametrize("window", WINDOWS)
def test_an_alert_fires_although_its_rules_are_being_evaluated(window: str, tmp_path: Path) -> None:
    test = rule_test([*photos(60, seed=4), *photos(90, seed=5, brightness=0.1)])
    # promtool evaluates all groups at once, in this order. So the alerts see the last samples but
    # one, of an interval and a second ago: the rules over a day take half a second.
    rules = f"drift over {window}"
    test["evaluation_interval"] = f"{seconds_between_evaluations()[rules] + 1}s"
    test["group_eval_order"] = ["drift", rules]
    labels = f'alertname="PhotosDrifted", quantity="brightness", window="{window}"'
    alert = f'ALERTS{{{labels}, alertstate="firing", severity="ticket"}}'
    test["tests"][0]["promql_expr_test"] = [
        {"expr": alert, "eval_time": "60m", "exp_samples": []},
        {"expr": alert, "eval_time": "150m", "exp_samples": [{"labels": alert, "value": 1}]},
    ]
    (tmp_path / "test.yml").write_text(json.dumps(test))
    command = ["promtool", "test", "rules", tmp_path / "test.yml"]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_lost_evaluation_leaves_a_sample_that_is_young_enough() -> None:
    for name, seconds in seconds_between_evaluations().items():
        assert 2 * seconds < LOOKBACK, name


@needs("promtool")
def test_a_few_odd_photos_are_no_drift() -> None:
    few = [step[:1] if number % (5 * PER_STEP) == 0 else [] for number, step in
           enumerate(photos(60, seed=3, brightness=0.0, confidence=0.5))]  # fmt: skip
    assert firing(few) == {}


def test_the_reference_has_shares_that_add_up() -> None:
    known = CARD["reference"]
    of_features = [row["shares"] for row in known["drift_features"].values()]
    for shares in [list(known["class_shares"].values()), *of_features]:
        assert sum(shares) == pytest.approx(1)
