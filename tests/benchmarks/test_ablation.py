from __future__ import annotations

import pytest

from benchmarks.ablation import PLAIN, ROWS, check_photos, table
from training.files import UsageError


def test_what_a_row_switches_on_is_off_in_the_rows_above() -> None:
    switched_on = [field for fields in ROWS.values() for field in fields]
    assert sorted(switched_on) == sorted(PLAIN)


def test_a_deleted_row_is_named_with_the_command_that_measures_it() -> None:
    with pytest.raises(UsageError, match=r"lacks '\+ teacher'.*-m benchmarks\.ablation"):
        table(dict.fromkeys(list(ROWS)[:-1], {}))


def test_rows_of_other_photos_are_refused() -> None:
    results = {"old": {"accuracy": 0.7}, "new": {"accuracy": 0.7, "photos_sha256": "a"}}
    check_photos(results, "a")  # old rows didn't note it
    with pytest.raises(UsageError, match="'new' was measured on other photos"):
        check_photos(results, "b")
