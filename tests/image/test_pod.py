"""The rendered pod, run by Docker as a kubelet would: `make chart-test`.

Same images, arguments, environment, mounts, user, limits and probes, in one network namespace. What
no test here does is install the chart into a cluster.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.chart.conftest import app_version, needs_helm, quantity, render
from tests.conftest import CLASSES, REPOSITORY
from tests.e2e.load import CAT, Load
from tests.e2e.servers import wait_until
from tests.image.conftest import DOCKER, Container, docker
from tests.image.test_image import GONE
from training.archive import archive

pytestmark = needs_helm


class Pod:
    """The stable Deployment's pod of the chart with `values`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.manifests = render(values)
        deployment = self.manifests["Deployment", "pets-catsdogs"]
        self.spec = deployment["spec"]["template"]["spec"]
        self.name = f"pod-{uuid.uuid4().hex[:8]}"
        self.containers: dict[str, Container] = {}

    def start(self) -> None:
        """As far as the first container; then each in its turn."""
        image = self.spec["containers"][0]["image"]
        docker("run", "--detach", "--name", self.name, "--entrypoint", "sleep", image, "infinity")
        for volume in self.spec["volumes"]:
            assert volume.keys() == {"name", "emptyDir"}
            # What fsGroup does.
            mount = f"{self.name}-{volume['name']}:/volume"
            root = ["--user", "0", "--entrypoint", "chmod", "--volume", mount]
            docker("run", "--rm", *root, image, "0777", "/volume")
        for container in self.spec.get("initContainers", []):
            self.run(container)
            code = docker("wait", self.containers[container["name"]].name).strip()
            assert code == "0", self.containers[container["name"]].logs()
        for container in self.spec["containers"]:
            self.run(container)

    def run(self, container: dict[str, Any]) -> None:
        security = self.spec["securityContext"] | container["securityContext"]
        limits = container["resources"]["limits"]
        memory = str(int(quantity(limits["memory"])))
        options = [
            "--network", f"container:{self.name}",
            "--user", f"{security['runAsUser']}:{security['runAsGroup']}",
            *(["--read-only"] if security["readOnlyRootFilesystem"] else []),
            *(f"--cap-drop={name}" for name in security["capabilities"]["drop"]),
            "--security-opt", "no-new-privileges",
            "--memory", memory, "--memory-swap", memory, "--cpus", str(quantity(limits["cpu"])),
        ]  # fmt: skip
        for source in container.get("envFrom", []):
            data = self.manifests["ConfigMap", source["configMapRef"]["name"]]["data"]
            options += [f"--env={name}={value}" for name, value in data.items()]
        for mount in container["volumeMounts"]:
            mode = "ro" if mount.get("readOnly") else "rw"
            options += [f"--volume={self.name}-{mount['name']}:{mount['mountPath']}:{mode}"]
        program, *words = container.get("command", [""])
        if program:
            options += ["--entrypoint", program]
        arguments = [*words, *container.get("args", [])]
        name = docker("run", "--detach", *options, container["image"], *arguments).strip()
        self.containers[container["name"]] = Container(name)

    def address(self, name: str = "gateway") -> str:
        return Container(self.name).address(name)

    def probe(self, name: str, kind: str) -> bool:
        """One try of a container's startupProbe, readinessProbe or livenessProbe."""
        (container,) = [c for c in self.spec["containers"] if c["name"] == name]
        probe = container[kind]
        if "exec" in probe:
            command = [DOCKER, "exec", self.containers[name].name, *probe["exec"]["command"]]
            try:
                done = subprocess.run(command, timeout=probe["timeoutSeconds"], capture_output=True)
            except subprocess.TimeoutExpired:
                return False
            return done.returncode == 0
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        url = self.address().replace(":8000", f":{ports[probe['httpGet']['port']]}")
        try:
            got = requests.get(
                url + probe["httpGet"]["path"], timeout=probe.get("timeoutSeconds", 1)
            )
        except requests.RequestException:
            return False
        return got.status_code < 400

    def wait_until_ready(self) -> None:
        for container in self.spec["containers"]:
            startup = container["startupProbe"]
            window = startup["failureThreshold"] * startup["periodSeconds"]
            name = container["name"]
            wait_until(functools.partial(self.probe, name, "startupProbe"), window)
        wait_until(lambda: self.probe("gateway", "readinessProbe"), 60)

    def stop(self) -> dict[str, int]:
        """preStop, then SIGTERM to all at once, as a kubelet does; exit codes."""
        (pre_stop,) = {
            tuple(container["lifecycle"]["preStop"]["exec"]["command"])
            for container in self.spec["containers"]
        }
        running = [self.containers[container["name"]].name for container in self.spec["containers"]]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: docker("exec", name, *pre_stop), running))
        docker("kill", "--signal", "TERM", *running)
        codes = docker("wait", *running).split()
        return dict(zip((c["name"] for c in self.spec["containers"]), map(int, codes), strict=True))

    def remove(self) -> None:
        names = [container.name for container in self.containers.values()]
        docker("rm", "--force", "--volumes", *names, self.name, check=False)
        for volume in self.spec["volumes"]:
            docker("volume", "rm", f"{self.name}-{volume['name']}", check=False)


@pytest.fixture
def start_pod(image: str) -> Iterator[Callable[..., Pod]]:
    pods: list[Pod] = []

    def start(values: dict[str, Any] | None = None) -> Pod:
        pods.append(Pod({"image": {"repository": image}} | (values or {})))
        pods[-1].start()
        return pods[-1]

    yield start
    for pod in pods:
        pod.remove()


def test_the_pod_gets_ready_classifies_and_is_idle_below_its_requests(
    start_pod: Callable[..., Pod],
) -> None:
    pod = start_pod()
    pod.wait_until_ready()
    for name in ("torchserve", "gateway"):
        assert pod.probe(name, "livenessProbe")
    answer = requests.post(f"{pod.address()}/predict", data=CAT, timeout=30).json()
    assert answer["label"] in CLASSES
    assert answer["model_version"] == app_version()

    used = {name: container.working_set() for name, container in pod.containers.items()}
    requested = {
        container["name"]: quantity(container["resources"]["requests"]["memory"]) / 1e6
        for container in pod.spec["containers"]
    }
    print({name: f"{used[name]:.0f} of {requested[name]:.0f} MB" for name in used})
    assert sum(used.values()) < 0.7 * sum(requested.values())
    for name in used:
        assert used[name] < 0.7 * requested[name], name

    # What `helm test` runs.
    (smoke,) = pod.manifests["Pod", "pets-catsdogs-test"]["spec"]["containers"]
    program, *words = smoke["command"]
    (url, *options) = smoke["args"]
    assert url == "http://pets-catsdogs:80"
    told = docker(
        "run", "--rm", "--network", f"container:{pod.name}", "--read-only", "--cap-drop", "ALL",
        "--entrypoint", program, smoke["image"], *words, "http://127.0.0.1:8000", *options,
    )  # fmt: skip
    assert "FAILED" not in told
    assert "ok      prediction: " in told


def test_a_pod_that_is_stopped_under_load_loses_no_photo(start_pod: Callable[..., Pod]) -> None:
    pod = start_pod()
    pod.wait_until_ready()
    with Load(pod, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(100)
        began = time.monotonic()
        assert pod.stop() == {"torchserve": 0, "gateway": 0}
        assert time.monotonic() - began < pod.spec["terminationGracePeriodSeconds"]
    assert [a for a in load.failed() if a.status or a.error not in GONE] == []


def test_an_archive_is_fetched_by_its_checksum_and_no_other_is_taken(
    start_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    archive(REPOSITORY / "models/catsdogs.pt", "2.0", tmp_path / "two.mar")
    checksum = hashlib.sha256((tmp_path / "two.mar").read_bytes()).hexdigest()
    host = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer((host.strip(), 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{host.strip()}:{server.server_port}/two.mar"
        pod = start_pod({"archive": {"url": url, "sha256": checksum}})
        pod.wait_until_ready()
        answer = requests.post(f"{pod.address()}/predict", data=CAT, timeout=30).json()
        assert answer["model_version"] == "2.0"
        with pytest.raises(AssertionError, match="its sha256 is"):
            start_pod({"archive": {"url": url, "sha256": "0" * 64}})
        server.shutdown()
