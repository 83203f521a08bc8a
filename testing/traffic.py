"""Simulated traffic through the rules of monitoring/, by promtool."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from handler.drift_features import bin_of
from testing.repository import CARD, REPOSITORY

STEP = 15  # s between scrapes
PER_STEP = 60 // STEP
FIRING = re.compile(r'alertname="(\w+)", alertstate="firing", (?:class_name|quantity)="(\w+)"')
ALERTS = 'ALERTS{alertname=~".*(Drifted|Shifted)", alertstate="firing"}'

# What the handler counts of one photo: drift features by name, and its class as "class_name".
Photo = Mapping[str, Any]


def firing(traffic: Iterable[Iterable[Photo]]) -> dict[int, set[str]]:
    """The alerts of drift that fire, with their quantity or class, by minute.

    `traffic` has the photos between one scrape and the next; each minute is looked at.
    """
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder, "traffic.yml")
        test.write_text(json.dumps(rule_test(list(traffic))))  # which YAML takes too
        done = subprocess.run(
            ["promtool", "test", "rules", test], capture_output=True, text=True, check=False
        )
    output = done.stdout + done.stderr
    found = {
        minutes(time): {" ".join(alert) for alert in FIRING.findall(got)}
        for time, got in re.findall(r"time: (\w+),\s+exp: nil\s+got: (.*)", output)
    }
    if done.returncode and not found:
        raise RuntimeError(output)
    return found


def rule_test(traffic: list[Iterable[Photo]]) -> dict[str, Any]:
    """A test in promtool's form that expects no alert at any minute."""
    times = [f"{minute}m" for minute in range(1, len(traffic) // PER_STEP + 1)]
    return {
        "rule_files": [
            str(REPOSITORY / "monitoring" / name) for name in ("drift_rules.yml", "alerts.yml")
        ],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": series(traffic),
                "promql_expr_test": [
                    {"expr": ALERTS, "eval_time": time, "exp_samples": []} for time in times
                ],
            }
        ],
    }


def series(traffic: list[Iterable[Photo]]) -> list[dict[str, str]]:
    """The counters of the handler, each from 0 on."""
    known = CARD["reference"]
    counts = Counter(
        {
            f'photo_quantity_total{{quantity="{name}", bin="{number}"}}': 0
            for name, row in known["drift_features"].items()
            for number in range(len(row["shares"]))
        }
        | {f'predictions_by_class{{class_name="{name}"}}': 0 for name in known["class_shares"]}
    )
    values: dict[str, list[int]] = {name: [0] for name in counts}
    for photos in traffic:
        for photo in photos:
            counts[f'predictions_by_class{{class_name="{photo["class_name"]}"}}'] += 1
            for name, row in known["drift_features"].items():
                number = bin_of(photo[name], row["edges"])
                counts[f'photo_quantity_total{{quantity="{name}", bin="{number}"}}'] += 1
        for name in counts:
            values[name].append(counts[name])
    return [
        {"series": name, "values": " ".join(map(str, column))} for name, column in values.items()
    ]


def minutes(duration: str) -> int:
    """Of Go's way to write it, like 1h2m0s."""
    hours, rest = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:0s)?", duration).groups()
    return 60 * int(hours or 0) + int(rest or 0)
