"""Servers as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from testing.servers import Server, new_server, started
from training.archive import archive


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the released weights as catsdogs.mar and, as version 3.0, catsdogs-3.0.mar."""
    folder = tmp_path_factory.mktemp("archives")
    for version, name in ((None, "catsdogs.mar"), ("3.0", "catsdogs-3.0.mar")):
        archive(REPOSITORY / "models/catsdogs.pt", version, folder / name)
    return folder


@pytest.fixture(scope="session")
def server(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A shared server for tests that don't stop it."""
    with started(new_server(tmp_path_factory.mktemp("server"), archives)) as server:
        yield server


@pytest.fixture
def own_server(archives: Path, tmp_path: Path) -> Iterator[Server]:
    """A server, not yet started, to stop or break; with one worker, it starts faster."""
    server = new_server(tmp_path, archives)
    server.environment["TS_DEFAULT_WORKERS_PER_MODEL"] = "1"
    yield server
    server.stop()
