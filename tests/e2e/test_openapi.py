"""The API description, and real servers' conformity with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests
import yaml
from openapi_spec_validator import validate

from testing.repository import REPOSITORY
from testing.servers import Server

DESCRIPTION = REPOSITORY / "gateway/page/openapi.yaml"


def test_the_description_is_valid_and_names_each_endpoint(server: Server) -> None:
    described = yaml.safe_load(DESCRIPTION.read_text())
    validate(described)
    accept = {"Accept": "application/json"}
    listed = requests.get(server.address("gateway"), headers=accept, timeout=30).json()
    paths = {path.replace("/{version}", "[/VERSION]") for path in described["paths"]}
    assert {name.split()[1] for name in listed} == paths - {"/predictions/catsdogs"}
    assert requests.get(f"{server.address('gateway')}/openapi.yaml", timeout=30).text == (
        DESCRIPTION.read_text()
    )


@pytest.mark.slow
def test_the_gateway_does_what_it_describes(server: Server, tmp_path: Path) -> None:
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", DESCRIPTION,
        "--url", server.address("gateway"), "--max-examples", "30",
        # A schema can't describe a valid photo.
        "--checks", "all", "--exclude-checks", "positive_data_acceptance",
        "--seed", "1", "--request-timeout", "30", "--no-color",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-6000:]
