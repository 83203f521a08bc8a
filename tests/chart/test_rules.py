"""The chart's rules: those of monitoring/, for one of several releases in a Prometheus."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.traffic import rule_test
from tests.chart.conftest import needs_helm, render
from tests.conftest import needs
from tests.monitoring.test_dashboard import MONITORING, WORDS
from tests.monitoring.test_rules import photos

pytestmark = needs_helm

FILES = [MONITORING / f"{name}.yml" for name in ("slo_rules", "drift_rules", "alerts")]
Labels = dict[str, str]
# Release and namespace, and another: names that occur in expressions, too.
PAIRS = [
    (("pets", "default"), ("more-pets", "default")),
    (("up", "photo"), ("up", "torchserve")),
]


def groups(release: str = "pets", namespace: str = "default", **values: Any) -> list[Any]:
    manifests = render({"prometheusRule": {"enabled": True} | values}, release, namespace)
    ((_, rule),) = [item for item in manifests.items() if item[0][0] == "PrometheusRule"]
    return list(rule["spec"]["groups"])


def labels_of(release: str, namespace: str) -> Labels:
    """That the Prometheus operator gives to what the ServiceMonitor names."""
    return {"namespace": namespace, "service": f"{release}-catsdogs-metrics"}


def with_labels(series: str, labels: Labels) -> str:
    """A series as promtool's tests write it."""
    more = ", ".join(f'{name}="{value}"' for name, value in labels.items())
    name, _, rest = series.partition("{")
    return f"{name}{{{more}, {rest}" if rest else f"{name}{{{more}}}"


def test_rules_are_those_of_the_monitoring_folder_but_for_whose_they_are() -> None:
    own = labels_of("pets", "default")
    rendered = groups()
    for group in rendered:
        for rule in group["rules"]:
            assert own.items() <= rule["labels"].items()
            rule["labels"] = {k: v for k, v in rule["labels"].items() if k not in own}
            selector = with_labels("", own)[1:-1]
            rule["expr"] = re.sub(rf"\{{{selector}(, )?", "{", rule["expr"]).replace("{}", "")
    written = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    for group in written:
        for rule in group["rules"]:
            rule.setdefault("labels", {})
    assert rendered == written


@pytest.mark.parametrize("whose", [one for one, _ in PAIRS])
def test_no_series_of_another_release_is_read(whose: tuple[str, str]) -> None:
    selector = with_labels("", labels_of(*whose)).removesuffix("}")
    for group in groups(*whose):
        for rule in group["rules"]:
            left = re.sub(r"\b(by|on|group_left) \([^)]*\)|\[\w+\]", "", rule["expr"])
            left = re.sub(r'"[^"]*"', "", left.replace(selector, "#").replace("{", "+"))
            for matchers in re.findall(r"#[^}]*", left):
                left = left.replace(matchers, "#")
            for name, after in re.findall(r"([a-zA-Z_:][\w:]*)(#?)", left):
                assert after or name in WORDS, (name, rule["expr"])


def run_promtool(folder: Path, tests: dict[str, Any], *whose: tuple[str, str], drift: bool) -> None:
    """Test the rules of all these releases. Raises AssertionError with promtool's message."""
    tests["rule_files"] = []
    for number, release in enumerate(whose):
        rules = folder / f"{number}.yml"
        rules.write_text(json.dumps({"groups": groups(*release, drift=drift)}))
        tests["rule_files"].append(str(rules))
    (folder / "tests.yml").write_text(json.dumps(tests))
    command = ["promtool", "test", "rules", folder / "tests.yml"]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@needs("promtool")
@pytest.mark.parametrize(
    ("faulty", "well"), [pytest.param(*PAIRS[0], marks=pytest.mark.slow), PAIRS[1]]
)
def test_a_release_that_is_well_hides_no_fault_of_another(
    faulty: tuple[str, str], well: tuple[str, str], tmp_path: Path
) -> None:
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())  # none of drift
    for test in tests["tests"]:
        theirs = copy.deepcopy(test["input_series"])
        for row in theirs:  # continues as it began
            row["series"] = with_labels(row["series"], labels_of(*well))
            row["values"] = re.sub(r"x\d+$", "x800", row["values"].split()[0])
        for row in test["input_series"]:
            row["series"] = with_labels(row["series"], labels_of(*faulty))
        test["input_series"] += theirs
        test["input_series"] += [
            {"series": with_labels(series, labels_of(*whose)), "values": "1x800"}
            for series in ('up{job="cats-dogs-classifier"}', "torchserve_workers_ready")
            for whose in (faulty, well)
            if not any(series.partition("{")[0] in row["series"] for row in theirs)
        ]
        for asked in test["promql_expr_test"]:
            for sample in asked["exp_samples"]:
                sample["labels"] = with_labels(sample["labels"], labels_of(*faulty))
    run_promtool(tmp_path, tests, faulty, well, drift=False)


@needs("promtool")
def test_photos_of_a_release_drift_by_themselves(tmp_path: Path) -> None:
    one, other = PAIRS[0]
    dark = rule_test([*photos(15, seed=1), *photos(10, seed=2, brightness=0.1)])
    usual = rule_test(photos(25, seed=3))
    (test,) = dark["tests"]
    (theirs,) = usual["tests"]
    for rows, whose in ((test["input_series"], one), (theirs["input_series"], other)):
        for row in rows:
            row["series"] = with_labels(row["series"], labels_of(*whose))
    test["input_series"] += theirs["input_series"]
    firing = 'count by (service) (ALERTS{alertname="PhotosDrifted", alertstate="firing"})'
    drifted = {"labels": with_labels("", {"service": labels_of(*one)["service"]}), "value": 1}
    test["promql_expr_test"] = [
        {"expr": firing, "eval_time": "15m", "exp_samples": []},
        {"expr": firing, "eval_time": "25m", "exp_samples": [drifted]},
    ]
    run_promtool(tmp_path, dark, one, other, drift=True)


def test_rules_of_drift_can_be_left_out() -> None:
    assert [group["name"] for group in groups(drift=False)] == ["ratios", "slo", "servers"]


def test_groups_have_names_of_their_own() -> None:
    """Kubernetes and Prometheus refuse them otherwise."""
    names = [group["name"] for group in groups()]
    assert len(names) == len(set(names))


def test_alerts_lead_to_a_runbook_that_people_can_open() -> None:
    address = "https://git.example.org/catsdogs/monitoring/RUNBOOK.md"
    alerts = [
        rule for group in groups(runbookUrl=address) for rule in group["rules"] if "alert" in rule
    ]
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"{address}#{alert['alert'].lower()}"
