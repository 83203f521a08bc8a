"""compose.yaml, as far as it can be checked without an engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from testing.repository import REPOSITORY
from tools.server import sizes


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
    (published,) = ports.pop("server")
    assert published["host_ip"] == "127.0.0.1"
    assert published["target"] == 8000
    assert not any(ports.values())


def test_every_service_is_limited_watched_and_without_new_privileges() -> None:
    for name, service in configuration().items():
        assert service["mem_limit"], name
        assert service["cpus"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # The server's health check is in the image.
        if name in ("mlflow", "prometheus"):
            assert service["healthcheck"]["interval"] == "30s", name
            assert ":v" in service["image"], name
    assert "--interval=30s" in (REPOSITORY / "Dockerfile").read_text()


def test_after_a_restart_of_the_machine_each_service_starts_without_another() -> None:
    """Docker before version 29 doesn't wait for the container whose network it shares."""
    for name, service in configuration().items():
        assert service["restart"] == "unless-stopped", name
        assert not service.keys() & {"network_mode", "ipc", "pid", "links", "volumes_from"}, name


def test_mlflow_runs_no_jobs_and_sends_no_telemetry() -> None:
    environment = configuration()["mlflow"]["environment"]
    assert environment == {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def test_memory_has_room_for_a_worker_a_processor() -> None:
    server = configuration()["server"]
    needed = sizes.OTHERS + int(server["cpus"]) * sizes.WORKER
    assert int(server["mem_limit"]) >= needed * 1e6


def test_uploads_are_on_disk_where_the_image_says() -> None:
    (folder,) = re.findall(r"CATSDOGS_UPLOADS=(\S+)", (REPOSITORY / "Dockerfile").read_text())
    (mount,) = configuration()["server"]["volumes"]
    assert (mount["type"], mount["target"]) == ("volume", folder)


def test_prometheus_finds_the_server_by_its_name(tmp_path: Path) -> None:
    """Its command runs up to Prometheus itself, on copies of the files."""
    (command,) = configuration()["prometheus"]["command"]
    prepare, _, options = command.partition("exec prometheus ")
    assert "--config.file=/tmp/prometheus.yml" in options
    prepare = prepare.replace("/tmp/", f"{tmp_path}/").removesuffix("&& ")
    prepare = prepare.replace("/etc/prometheus/catsdogs", str(REPOSITORY / "monitoring"))
    subprocess.run(["sh", "-c", prepare], check=True)
    copied = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    targets = {
        target
        for job in copied["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    }
    assert targets == {"server:8002"}
    assert all((tmp_path / name).exists() for name in copied["rule_files"])


def test_clients_are_limited_and_a_proxy_in_front_may_name_them() -> None:
    environment = configuration()["server"]["environment"]
    assert environment["CATSDOGS_CLIENT_LIMIT"] == "on"
    assert environment["CATSDOGS_TRUSTED_PROXIES"] == ""
