from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.tools.test_sizes import tool

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
        re.findall(r'"(torchserve_\w+)"', (REPOSITORY / "tools/exporter.py").read_text())
    )
    gateway = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in tool("watcher").Watcher(REPOSITORY).registry.collect()
    }
    return names | exported | gateway | {rule["record"] for rule in RECORDED} | {"up"}


def metrics_of(expression: str) -> set[str]:
    """Names of metrics, without what Prometheus adds to those of a histogram."""
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
