from __future__ import annotations

import json

from benchmarks import ablation, report, training
from tests.conftest import REPOSITORY
from training.markdown import wrapped


def between(path: str, mark: str) -> str:
    text = (REPOSITORY / path).read_text()
    return text.split(f"<!-- {mark} -->")[1].split(f"<!-- end of {mark} -->")[0].strip()


def test_the_table_of_servers_is_the_measured_one() -> None:
    result = json.loads((REPOSITORY / "benchmarks/serving.json").read_text())
    assert report.table(result) in between("docs/benchmarks.md", report.MARK)
    assert wrapped(report.about(result)) == between("README.md", report.README_MARK)


def test_the_tables_about_training_are_the_measured_ones() -> None:
    for module in (ablation, training):
        result = json.loads(module.RESULT.read_text())
        assert module.table(result).strip() == between("docs/training.md", module.MARK)
