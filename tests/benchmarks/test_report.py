from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import (
    ablation,
    classify,
    decoding,
    drift,
    faults,
    finetuning,
    gateway,
    overhead,
    precision,
    report,
    scale,
    soak,
    sweep,
    training,
)
from testing.repository import REPOSITORY
from training.markdown import wrapped


def between(path: Path, mark: str) -> str:
    return path.read_text().split(f"<!-- {mark} -->")[1].split(f"<!-- end of {mark} -->")[0].strip()


def test_the_table_of_servers_is_the_measured_one() -> None:
    result = json.loads((REPOSITORY / "benchmarks/serving.json").read_text())
    document = between(report.DOCUMENT, report.MARK)
    assert report.throughput_table(result) in document
    assert report.latency_table(result) in document
    assert wrapped(report.about(result)) == between(report.README, report.README_MARK)


@pytest.mark.parametrize(
    ("module", "mark", "written"),
    [
        (ablation, ablation.MARK, ablation.table),
        (classify, classify.MARK, classify.report),
        (decoding, decoding.MARK, decoding.report),
        (drift, drift.SHIFTS, drift.shift_report),
        (drift, drift.ESTIMATES, drift.estimate_report),
        (faults, faults.MARK, faults.report),
        (finetuning, finetuning.MARK, finetuning.report),
        (gateway, gateway.MARK, gateway.report),
        (overhead, overhead.MARK, overhead.report),
        (precision, precision.MARK, precision.report),
        (scale, scale.MARK, scale.table),
        (soak, soak.MARK, soak.report),
        (sweep, sweep.MARK, sweep.report),
        (training, training.MARK, training.table),
    ],
)
def test_what_a_document_tells_is_what_was_measured(
    module: ModuleType, mark: str, written: Callable[[object], str]
) -> None:
    result = json.loads(module.RESULT.read_text())
    assert written(result).strip() == between(module.DOCUMENT, mark)
