from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from handler.integrity import check_digests

GRAPH = ("int8/graph.bin", "int8/graph.xml")


@pytest.fixture
def card(tmp_path: Path) -> dict[str, Any]:
    """A model's folder, and the content of its catsdogs.json."""
    (tmp_path / "int8").mkdir()
    for name in ("catsdogs.pt", *GRAPH):
        (tmp_path / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("catsdogs.pt", *GRAPH)}
    return {"sha256": digests.pop("catsdogs.pt"), "graph_sha256": digests}


def test_files_as_described_pass(card: dict[str, Any], tmp_path: Path) -> None:
    check_digests(tmp_path, card)


@pytest.mark.parametrize("name", ["catsdogs.pt", *GRAPH])
def test_the_file_that_differs_or_is_missing_is_named(
    card: dict[str, Any], tmp_path: Path, name: str
) -> None:
    for spoil in ((tmp_path / name).write_bytes, lambda _: (tmp_path / name).unlink()):
        spoil(b"other")
        with pytest.raises(RuntimeError, match=f"^{name} is missing or differs from"):
            check_digests(tmp_path, card)


def test_a_graph_made_where_it_runs_needs_no_digest(card: dict[str, Any], tmp_path: Path) -> None:
    del card["graph_sha256"]
    (tmp_path / GRAPH[0]).write_text("converted here")
    check_digests(tmp_path, card)
