"""What the workflows promise beyond their form, which `make lint` checks."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.conftest import REPOSITORY


def workflow(name: str) -> dict[Any, Any]:
    text = (REPOSITORY / ".github/workflows" / name).read_text()
    loaded: dict[Any, Any] = yaml.safe_load(text)
    loaded["on"] = loaded.pop(True)  # as YAML 1.1 reads it
    return loaded


def test_nothing_is_pushed_or_deployed_that_has_not_passed_the_checks() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["check"] == {
        "uses": "$/.github/workflows/ci.yml", "permissions": {"contents": "read"}
    }  # fmt: skip
    assert jobs["push"]["needs"] == "check"
    assert jobs["deploy"]["needs"] == "push"


def test_the_checks_run_once_for_each_push_and_skip_no_test() -> None:
    release, ci = workflow("release.yml")["on"]["push"], workflow("ci.yml")
    assert ci["on"]["push"] == {"branches-ignore": release["branches"]}
    assert ci["env"]["CATSDOGS_REQUIRE"] == "all"


def test_every_python_that_make_takes_is_tested_and_named_by_readme() -> None:
    taken = re.findall(r"python(3\.\d+) ", (REPOSITORY / "Makefile").read_text())
    tested = workflow("ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    assert sorted(taken) == tested
    assert f"{', '.join(tested[:-1])} or {tested[-1]}" in (REPOSITORY / "README.md").read_text()
