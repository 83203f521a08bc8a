"""compose.yaml on a real Docker engine. MLFLOW_IMAGE and PROMETHEUS_IMAGE set other images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from testing.load import CAT
from testing.repository import CLASSES, REPOSITORY
from testing.servers import free_ports, wait_until
from tests.image.conftest import docker

COMPOSE = Path(sys.executable).with_name("docker-compose")


class Project:
    """The services of compose.yaml, under a separate project name."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.environment = os.environ | {"CATSDOGS_PUBLISH": self.address}

    def compose(self, *arguments: str) -> str:
        command = [COMPOSE, "--project-name", "catsdogs-test", *arguments]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def counted(self, query: str) -> bool:
        """Whether Prometheus returns one sample with the value 1."""
        command = ("promtool", "query", "instant", "http://127.0.0.1:9090", query)
        try:
            return "=> 1 " in self.compose("exec", "-T", "prometheus", *command)
        except AssertionError:  # it has just been started
            return False

    def answers(self) -> bool:
        try:
            answer = requests.post(f"http://{self.address}/predict", data=CAT, timeout=30)
        except requests.RequestException:
            return False
        return answer.status_code == 200


@pytest.fixture(scope="module")
def project(image: str) -> Iterator[Project]:
    project = Project()
    try:
        project.compose("up", "--wait", "--no-build", "--wait-timeout", "180")
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "60")


def test_a_photo_is_classified_and_found_in_prometheus(project: Project) -> None:
    url = f"http://{project.address}"
    answer = requests.post(f"{url}/predict", data=CAT, timeout=30)
    assert answer.json()["label"] in CLASSES
    smoke = [sys.executable, REPOSITORY / "tools/smoke", url, "--wait", "30"]
    assert subprocess.run(smoke, capture_output=True, text=True).returncode == 0

    wait_until(lambda: project.counted("sum(prediction_requests_total) >= bool 1"), 90)
    wait_until(lambda: project.counted('min(up{job=~"cats-dogs-.*"})'), 90)


def test_a_run_is_logged_to_mlflow_from_beside_it(project: Project) -> None:
    log = (
        "import mlflow; mlflow.set_tracking_uri('http://mlflow:5000'); mlflow.start_run();"
        "mlflow.log_metric('accuracy', 0.95); mlflow.log_dict({'a': 1}, 'a.json');"
        "run = mlflow.active_run(); mlflow.end_run();"
        "print(mlflow.get_run(run.info.run_id).data.metrics['accuracy'])"
    )
    assert project.compose("exec", "-T", "mlflow", "python", "-c", log).splitlines()[-1] == "0.95"


def test_only_the_gateway_is_published_and_only_on_loopback(project: Project) -> None:
    running = [json.loads(line) for line in project.compose("ps", "--format", "json").splitlines()]
    assert {service["Service"] for service in running} == {
        "server", "mlflow", "prometheus"
    }  # fmt: skip
    assert {service["Health"] for service in running} == {"healthy"}
    published = [
        p["URL"] for service in running for p in service["Publishers"] if p["PublishedPort"]
    ]
    assert published == ["127.0.0.1"]


def test_any_service_may_be_restarted_by_itself(project: Project) -> None:
    """The engine restarts only this service, as after a crash."""
    for service in ("server", "prometheus", "mlflow"):
        docker("restart", "--time", "60", project.compose("ps", "--quiet", service).strip())
        since = time.time()
        wait_until(project.answers, 180)
        fresh = f'min(timestamp(up{{job=~"cats-dogs-.*"}} == 1)) > bool {since:.0f}'
        wait_until(lambda query=fresh: project.counted(query), 90)  # type: ignore[misc]
