"""The chart in a real cluster: `make cluster-test`, which ci.yml runs in kind.

The cluster is that of kubectl's context; a namespace of these tests' own is made there and deleted.
The cluster has to have the image, and this machine to reach the cluster's nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testing.load import Load
from testing.repository import REPOSITORY, VERSION
from testing.servers import wait_until

collect_ignore_glob = [] if "CATSDOGS_CLUSTER_TEST" in os.environ else ["test_*.py"]

IMAGE = os.environ.get("CATSDOGS_IMAGE", "catsdogs")
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# Small requests, so that a few pods, and one more in each rollout, fit on a runner.
VALUES = {
    "image.repository": IMAGE,
    "image.tag": VERSION,
    "service.type": "NodePort",
    "service.port": "8000",
    "torchserve.resources.requests.cpu": "100m",
    "gateway.resources.requests.cpu": "50m",
}
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def run(*command: str | Path, text: str = "", check: bool = True) -> str:
    """The standard output of a command, given `text`. Fails the test if it fails."""
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"PATH": PATH}, input=text, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Release:
    """The chart as release "pets" in a namespace; each upgrade gets all values."""

    name, deployment = "pets", "pets-catsdogs"
    first_deploy = ""  # what `make deploy` printed

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        return run("kubectl", "--namespace", self.namespace, *arguments, check=check)

    def helm(self, *arguments: str) -> str:
        return run("helm", "--namespace", self.namespace, *arguments)

    def get(self, what: str, *options: str) -> Any:
        return json.loads(self.kubectl("get", what, *options, "--output", "json"))

    def deploy(
        self, values: dict[str, str] | None = None, timeout: str = "5m"
    ) -> subprocess.CompletedProcess[str]:
        """`make deploy` with VALUES and these."""
        given = " ".join(
            f"--set {name}={value}" for name, value in (VALUES | (values or {})).items()
        )
        return subprocess.run(
            ["make", "deploy", f"RELEASE={self.name}", f"NAMESPACE={self.namespace}",
             f"TIMEOUT={timeout}", f"VALUES={given}"],
            cwd=REPOSITORY, env=os.environ | {"PATH": PATH}, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def deployed(self, values: dict[str, str] | None = None) -> str:
        """What `make deploy` printed."""
        done = self.deploy(values)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def revision(self) -> int:
        return int(json.loads(self.helm("history", self.name, "--output", "json"))[-1]["revision"])

    def pods(self, component: str = "stable") -> list[dict[str, Any]]:
        """Pods that are not terminating."""
        labels = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        found = self.get("pods", "--selector", labels)["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, component: str = "stable") -> int:
        """The number of ready pods."""
        return sum(
            {"type": "Ready", "status": "True"}.items() <= condition.items()
            for pod in self.pods(component)
            for condition in pod["status"].get("conditions", [])
        )

    def address(self, name: str = "gateway") -> str:
        """URL of the Service at a node port, through kube-proxy, as for clients inside."""
        assert name == "gateway"
        service = self.get(f"service/{self.deployment}")
        node, *_ = json.loads(run("kubectl", "get", "nodes", "--output", "json"))["items"]
        (ip,) = [a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]
        return f"http://{ip}:{service['spec']['ports'][0]['nodePort']}"

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Clients that must not lose a photo meanwhile."""
        with Load(self, clients=8) as load:  # type: ignore[arg-type]
            load.wait_for(100)
            yield load
            load.wait_for(load.good() + 100)
        assert load.failed() == []

    @contextmanager
    def available(self) -> Iterator[list[int]]:
        """All numbers of available pods of the stable Deployment meanwhile."""
        numbers: list[int] = []
        template = "jsonpath={.status.availableReplicas}{'\\n'}"
        command = ["kubectl", "--namespace", self.namespace, "get", "deployment", self.deployment]
        process = subprocess.Popen(
            [*command, "--watch", "--output", template],
            env=os.environ | {"PATH": PATH}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        thread = threading.Thread(target=lambda: numbers.extend(int(line or 0) for line in lines))
        thread.start()
        try:
            wait_until(lambda: numbers)
            yield numbers
        finally:
            process.terminate()
            process.wait()
            thread.join()
            process.stdout.close()


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    """Installed with the default number of pods, in a namespace for restricted pods."""
    namespace = f"catsdogs-{uuid.uuid4().hex[:8]}"
    run("kubectl", "create", "namespace", namespace)
    try:
        labels = [f"{name}={value}" for name, value in RESTRICTED.items()]
        run("kubectl", "label", "namespace", namespace, *labels)
        release = Release(namespace)
        release.first_deploy = release.deployed()
        wait_until(lambda: release.ready() == 2, 120)
        yield release
    finally:
        run("kubectl", "delete", "namespace", namespace, check=False)
