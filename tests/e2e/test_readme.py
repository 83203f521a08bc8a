"""README's commands, unchanged and in order."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testing.repository import REPOSITORY
from testing.servers import Server
from tests.conftest import needs
from tests.test_documents import commands

RUN_HERE = (
    "curl ",
    ".venv/bin/python tools/",
    ".venv/bin/python -m training archive",
    ".venv/bin/python -m training predict",
)


@pytest.fixture
def checkout(server: Server) -> Iterator[Path]:
    """The server's folder, with the repository's files except model store and logs."""
    links = [server.folder / name for name in ("files", "models", "tests", "tools", "training")]
    for link in links:
        link.symlink_to(REPOSITORY / link.name)
    python = server.folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    yield server.folder
    for link in links:
        link.unlink()
    shutil.rmtree(server.folder / ".venv")


@pytest.mark.slow
@needs("curl")
def test_the_readmes_commands_work_in_their_order(server: Server, checkout: Path) -> None:
    given = [line for line in commands(REPOSITORY / "README.md") if line.startswith(RUN_HERE)]
    assert len(given) > 15
    for command in given:
        result = subprocess.run(
            ["bash", "-ec", on_its_ports(command, server)],
            cwd=checkout, env=server.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        if "/predict" in command:
            assert '"label": "' in result.stdout, command


def on_its_ports(command: str, server: Server) -> str:
    ports = {8000: "gateway", 8002: "gateway_metrics", 8081: "management"}
    for port, name in ports.items():
        command = re.sub(rf"(http://)?127\.0\.0\.1:{port}", server.address(name), command)
    return command.replace("curl ", "curl -sS --fail-with-body ", 1)
