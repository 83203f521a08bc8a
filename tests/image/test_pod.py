"""The rendered pod, run by Docker as a kubelet would: `make chart-test`.

Same images, arguments, environment, mounts, user, limits and probes, in one network namespace. What
no test here does is install the chart into a cluster.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import http.server
import json
import re
import resource
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from testing.load import CAT, Load
from testing.repository import CLASSES, REPOSITORY
from testing.servers import wait_until
from tests.chart.conftest import app_version, needs_helm, quantity, render
from tests.image.conftest import DOCKER, SECONDS_TO_START, Container, docker
from tests.image.test_image import GONE, peak
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
        """Create the pod with its first container; the others follow one by one."""
        image = self.spec["containers"][0]["image"]
        docker("run", "--detach", "--name", self.name, "--entrypoint", "sleep", image, "infinity")
        for volume in self.spec["volumes"]:
            assert volume.keys() == {"name", "emptyDir"}
            # Like fsGroup.
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
        """One attempt of a container's startupProbe, readinessProbe or livenessProbe."""
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
        wait_until(lambda: self.probe("gateway", "readinessProbe"), SECONDS_TO_START)

    def restart_what_ended(self) -> None:
        """As a kubelet does."""
        for container in self.containers.values():
            if not container.state()["Running"]:
                docker("start", container.name)

    @functools.cached_property
    def where(self) -> tuple[str, int]:
        """The gateway's address. The engine takes a tenth of a second to tell it."""
        host, _, port = self.address().removeprefix("http://").partition(":")
        return host, int(port)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.where, timeout=60)

    def uploads(self) -> int:
        """Photos in progress in the gateway."""
        url = f"{Container(self.name).address('metrics')}/metrics/gateway"
        metrics = requests.get(url, timeout=10).text
        (count,) = re.findall(r"^gateway_uploads (\d+)", metrics, re.MULTILINE)
        return int(count)

    def stop(self) -> dict[str, int]:
        """Run preStop, then send SIGTERM to all, as a kubelet does; return exit codes."""
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

    used = {name: container.memory() for name, container in pod.containers.items()}
    requested = {
        container["name"]: quantity(container["resources"]["requests"]["memory"]) / 1e6
        for container in pod.spec["containers"]
    }
    print({name: f"{used[name]:.0f} of {requested[name]:.0f} MB" for name in used})
    assert sum(used.values()) < 0.7 * sum(requested.values())
    for name in used:
        assert used[name] < 0.7 * requested[name], name

    # As in `helm test`.
    (smoke,) = pod.manifests["Pod", "pets-catsdogs-test"]["spec"]["containers"]
    program, *words = smoke["command"]
    (url, *options) = smoke["args"]
    assert url == "http://pets-catsdogs:80"
    output = docker(
        "run", "--rm", "--network", f"container:{pod.name}", "--read-only", "--cap-drop", "ALL",
        "--entrypoint", program, smoke["image"], *words, "http://127.0.0.1:8000", *options,
    )  # fmt: skip
    assert "FAILED" not in output
    assert "ok      prediction: " in output


def test_a_pod_that_is_stopped_under_load_loses_no_photo(start_pod: Callable[..., Pod]) -> None:
    pod = start_pod()
    pod.wait_until_ready()
    with Load(pod, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(100)
        began = time.monotonic()
        assert pod.stop() == {"torchserve": 0, "gateway": 0}
        assert time.monotonic() - began < pod.spec["terminationGracePeriodSeconds"]
    assert [a for a in load.failed() if a.status or a.error not in GONE] == []


def slow_upload(pod: Pod, begun: threading.Barrier, seconds: int) -> int:
    """Send a photo over `seconds`; return the status, or 0 without an answer."""
    with pod.connect() as client:
        client.sendall(b"PUT /predict HTTP/1.1\r\nHost: pets\r\nConnection: close\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n" % len(CAT))
        begun.wait(60)
        size = len(CAT) // seconds + 1
        try:
            for start in range(0, len(CAT), size):
                time.sleep(1)
                client.sendall(CAT[start : start + size])
            response = http.client.HTTPResponse(client)
            response.begin()
        except (OSError, http.client.HTTPException):
            return 0
        return response.status


def test_uploads_that_last_are_answered_during_a_stop_for_25_seconds(
    start_pod: Callable[..., Pod],
) -> None:
    """5 of preStop and 20 of nginx's worker_shutdown_timeout."""
    pod = start_pod()
    pod.wait_until_ready()
    begun = threading.Barrier(4)
    with ThreadPoolExecutor() as pool:
        statuses = pool.map(functools.partial(slow_upload, pod, begun), (8, 18, 40))
        begun.wait(60)
        began = time.monotonic()
        assert pod.stop() == {"torchserve": 0, "gateway": 0}
        assert time.monotonic() - began < pod.spec["terminationGracePeriodSeconds"]
        assert list(statuses) == [200, 200, 0]


@contextmanager
def stalled_uploads(pod: Pod, sizes: Iterable[int]) -> Iterator[None]:
    """Clients that send all but 100 bytes, and then one every 3 s, since the gateway waits 10."""
    with ExitStack() as clients:
        stalled: list[socket.socket] = []
        ended = threading.Event()

        def trickle() -> None:
            while not ended.wait(3):
                for client in list(stalled):
                    with suppress(OSError):
                        client.send(b"0")

        thread = threading.Thread(target=trickle)
        thread.start()
        clients.callback(thread.join)
        clients.callback(ended.set)
        for size in sizes:
            client = clients.enter_context(pod.connect())
            client.sendall(b"PUT /predict HTTP/1.1\r\nHost: pets\r\n")
            client.sendall(b"Content-Length: %d\r\n\r\n" % size + bytes(size - 100))
            stalled.append(client)
        yield


def test_stalled_uploads_do_not_get_the_gateway_killed(start_pod: Callable[..., Pod]) -> None:
    """Nearly as many small uploads as it accepts, and large ones of 660 MB."""
    pod = start_pod()
    pod.wait_until_ready()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    sizes = [11 * 2**20] * 60 + [50_000] * 1400
    with peak(pod.containers["gateway"]) as used, stalled_uploads(pod, sizes):
        wait_until(lambda: pod.uploads() == len(sizes), 60)
        answer = requests.post(f"{pod.address()}/predict", data=CAT, timeout=30)
        assert answer.status_code == 200
        wait_until(lambda: pod.uploads() == len(sizes))
    print(f"\n{used[0]:.0f} MB at most")
    for container in pod.containers.values():
        assert container.state()["Running"]
        assert not container.state()["OOMKilled"]
    wait_until(lambda: pod.uploads() == 0)


# Ids and command lines of the processes in a container but this one and zombies.
OTHERS = """import json, os, psutil
found = {p.pid: p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid()}
print(json.dumps([(pid, command) for pid, command in found.items() if command]))"""
KILL = "import os, sys; os.kill(int(sys.argv[1]), 9)"


def others(container: Container) -> list[tuple[int, list[str]]]:
    found: list[tuple[int, list[str]]] = json.loads(container.run("python", "-c", OTHERS))
    return sorted(found)


@pytest.mark.parametrize("name", ["torchserve", "gateway"])
def test_whichever_process_is_killed_photos_are_answered_again(
    start_pod: Callable[..., Pod], name: str
) -> None:
    pod = start_pod()
    pod.wait_until_ready()
    container = pod.containers[name]

    def is_back(since: float) -> bool:
        pod.restart_what_ended()
        return pod.probe("gateway", "readinessProbe") and load.good(since) >= 50

    with Load(pod, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(50)
        count = len(others(container))
        for number in range(count):
            wait_until(lambda: len(others(container)) == count)  # all that ended were replaced
            (pid, command), before = others(container)[number], len(load.failed())
            killed = time.monotonic()
            if pid == 1:  # ignores signals from its own namespace
                docker("kill", "--signal", "KILL", container.name)
            else:
                container.run("python", "-c", KILL, str(pid))
            time.sleep(3)  # nginx's workers answer until the launcher notices, which ends them
            wait_until(functools.partial(is_back, killed), 180)
            print(f"{len(load.failed()) - before} lost by the end of {' '.join(command)[:80]}")
    assert [answer for answer in load.failed() if not answer.is_fair()] == []
    # /tmp outlives the container; what the killed ones had unpacked there is gone.
    assert len(container.run("sh", "-c", "echo /tmp/catsdogs-*").split()) == 1


def test_an_archive_is_fetched_by_its_checksum_and_no_other_is_taken(
    start_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    archive(REPOSITORY / "models/catsdogs.pt", "3.0", tmp_path / "two.mar")
    checksum = hashlib.sha256((tmp_path / "two.mar").read_bytes()).hexdigest()
    # The engine itself doesn't always tell the address of its bridge.
    bridge = psutil.net_if_addrs()["docker0"]
    host = next(address.address for address in bridge if address.family == socket.AF_INET)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer((host, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{host}:{server.server_port}/two.mar"
        pod = start_pod({"archive": {"url": url, "sha256": checksum}})
        pod.wait_until_ready()
        answer = requests.post(f"{pod.address()}/predict", data=CAT, timeout=30).json()
        assert answer["model_version"] == "3.0"
        with pytest.raises(AssertionError, match="its sha256 is"):
            start_pod({"archive": {"url": url, "sha256": "0" * 64}})
        server.shutdown()
