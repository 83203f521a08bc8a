"""compose.yaml, as far as it can be checked without an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY


def configuration() -> dict[str, Any]:
    command = [Path(sys.executable).with_name("docker-compose"), "config", "--format", "json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CATSDOGS_")}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def test_only_the_gateway_is_published_and_only_on_loopback() -> None:
    ports = {name: service.get("ports") for name, service in configuration().items()}
    (published,) = ports.pop("gateway")
    assert published["host_ip"] == "127.0.0.1"
    assert not any(ports.values())


def test_every_service_is_limited_watched_and_without_new_privileges() -> None:
    for name, service in configuration().items():
        assert service["mem_limit"], name
        assert service["cpus"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # Of the others the image says how.
        if name in ("mlflow", "prometheus"):
            assert service["healthcheck"]["interval"] == "30s", name
            assert ":v" in service["image"], name
    assert "--interval=30s" in (REPOSITORY / "Dockerfile").read_text()


def test_gateway_and_torchserve_are_told_of_as_many_large_photos() -> None:
    told = {
        name: configuration()[name]["environment"]["CATSDOGS_LARGE_PLACES"]
        for name in ("gateway", "classifier")
    }
    assert told == {"gateway": "2", "classifier": "2"}
