from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from testing.repository import REPOSITORY
from tools.server import watcher

MONITORING = REPOSITORY / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
WORDS = {
    "sum", "max", "min", "rate", "increase", "abs", "absent", "vector", "clamp_min", "ln", "by",
    "on", "and", "or", "group_left", "histogram_quantile",
}  # fmt: skip


def rules(*files: str) -> list[dict[str, Any]]:
    groups = [yaml.safe_load((MONITORING / file).read_text())["groups"] for file in files]
    return [rule for file in groups for group in file for rule in group["rules"]]


RECORDED = rules("slo_rules.yml", "drift_rules.yml")
ALERTS = rules("alerts.yml")


def known_metrics() -> set[str]:
    declared = yaml.safe_load((REPOSITORY / "handler/metrics.yaml").read_text())
    names = {
        metric["name"]
        for section in ("ts_metrics", "model_metrics")
        for metrics in declared[section].values()
        for metric in metrics
    }
    exported = set(
        re.findall(r'"(torchserve_\w+)"', (REPOSITORY / "tools/server/exporter.py").read_text())
    )
    gateway = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in watcher.Watcher(REPOSITORY).registry.collect()
    }
    return names | exported | gateway | {rule["record"] for rule in RECORDED} | {"up"}


def metrics_of(expression: str) -> set[str]:
    """Names of metrics, without the suffixes of histograms."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on) \([^)]*\)", "", expression)
    names = set(re.findall(r"\b[a-zA-Z_:][\w:]*", bare)) - WORDS
    return {re.sub(r"_seconds_(bucket|count|sum)$", "_seconds", name) for name in names}


@pytest.mark.parametrize(
    "expression",
    [target["expr"] for panel in PANELS for target in panel["targets"]]
    + [rule["expr"] for rule in ALERTS + RECORDED],
)
def test_expressions_use_metrics_that_exist(expression: str) -> None:
    assert metrics_of(expression) <= known_metrics()
    assert metrics_of(expression) or "vector" in expression


def test_each_query_asks_for_one_release_and_names_what_it_gets() -> None:
    annotations = [annotation["target"] for annotation in DASHBOARD["annotations"]["list"]]
    for query in [*annotations, *(target for panel in PANELS for target in panel["targets"])]:
        chosen = query["expr"].count('{namespace="$namespace", service="$service"')
        words = re.findall(r"\b[a-zA-Z_][\w:]*\{", query["expr"])
        assert chosen == len(words) >= len(metrics_of(query["expr"])) > 0
        assert query in annotations or query["legendFormat"]


@pytest.mark.parametrize(
    ("title", "steps", "rules"),
    [
        ("Good requests, last hour", [0.995], ["14.4 * 0.005"]),
        ("Burn rate of the error budget", [6, 14.4], ["_1h > 14.4 * 0.005", "_6h > 6 * 0.005"]),
        ("Batches in the handler", [0.25], ['seconds_bucket{le="0.25"}']),
        ("Photo requests at the gateway", [2.5], ['le="2.5"}[10m]']),
        ("Worker restarts in 15 minutes", [3], ["restarts_total[15m])) > 3"]),
        (
            "Distance from the validation photos (PSI)",
            [0.1, 0.25],
            ["psi_10m{quantity!=", "> 0.25"],
        ),
        ("Distance from the validation photos, over a day (PSI)", [0.1], ["psi_1d{", "> 0.1"]),
        ("Disk for uploads", [64 * 12 * 2**20], ["free_bytes < 64 * 12 * 2 ^ 20"]),
    ],
)
def test_lines_are_drawn_where_rules_compare(
    title: str, steps: list[float], rules: list[str]
) -> None:
    (panel,) = [panel for panel in PANELS if panel["title"] == title]
    drawn = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [step["value"] for step in drawn] == [None, *steps]
    compared = " ".join(rule["expr"] for rule in ALERTS + RECORDED)
    for rule in rules:
        assert rule in compared


def test_panels_have_titles_units_and_room_of_their_own() -> None:
    places = set()
    for panel in PANELS:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places
        assert place["x"] + place["w"] <= 24
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_dashboard_asks_in_the_order_of_a_readers_questions() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic", "Errors", "Latency", "Batches, queue and workers", "Model", "Resources"
    ]  # fmt: skip


def test_each_alert_says_how_urgent_it_is_and_where_its_runbook_is() -> None:
    headings = re.findall(r"^## (\w+)$", (MONITORING / "RUNBOOK.md").read_text(), re.MULTILINE)
    assert headings == list(dict.fromkeys(alert["alert"] for alert in ALERTS))
    for alert in ALERTS:
        assert re.fullmatch(r"\d+[mh]", alert["for"])
        assert alert["labels"]["severity"] in ("page", "ticket")
        assert alert["annotations"]["summary"].endswith(".")
        assert (
            alert["annotations"]["runbook_url"] == f"monitoring/RUNBOOK.md#{alert['alert'].lower()}"
        )
