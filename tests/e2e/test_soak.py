from __future__ import annotations

import pytest

from benchmarks.soak import soak
from testing.servers import Server


@pytest.mark.slow
def test_two_thousand_requests_a_quarter_hostile_harm_nobody(server: Server) -> None:
    """Hostile files among good photos, from 16 clients at once."""
    seen = soak(server, 2000)
    assert seen["wrong"] == []
    assert seen["workers lost"] == 0
    early, late = seen["early"], seen["late"]
    assert late["open files"] <= early["open files"] + 20  # connections
    assert late["temporary files"] <= early["temporary files"]
    workers = [name for name in early if name.startswith("worker")]
    assert workers
    for worker in workers:
        assert late[worker] < 1.2 * early[worker]  # still warming up; the long form is stricter
