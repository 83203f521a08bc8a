"""The image on a real Docker engine."""

from __future__ import annotations

import io
import json
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from handler.upload_folder import MAX_UPLOAD_BYTES
from testing.load import CAT, REFUSED, Load
from testing.repository import CLASSES, REPOSITORY
from testing.servers import wait_until
from tests.image.conftest import HARDENED, SECONDS_TO_START, Container, docker
from training.archive import archive

Start = Callable[..., Container]


def test_with_all_rights_dropped_it_classifies_and_logs_json(start: Start) -> None:
    container = start(*HARDENED, "--memory", "3g", "--cpus", "2")
    wait_until(lambda: container.state()["Health"]["Status"] == "healthy", SECONDS_TO_START)
    answer = requests.post(f"{container.address()}/predict", data=CAT, timeout=30)
    assert answer.json()["label"] in CLASSES
    assert container.run("id", "-u").strip() == "10001"
    assert "CapEff:\t0000000000000000" in container.run("cat", "/proc/1/status")
    registered = "import urllib.request as u; u.urlopen(u.Request(%r, method='POST'))"
    url = "http://127.0.0.1:8081/models?url=catsdogs.mar"
    with pytest.raises(AssertionError, match="405"):
        container.run("python", "-c", registered % url)
    lines = container.logs().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(line.get("label") in CLASSES for line in logged)  # of the photo
    assert any(line.get("path") == "/predict" for line in logged)
    others = [line for line in lines if not line.startswith("{")]
    assert len(others) < 40, others


def test_nothing_is_written_but_in_tmp_and_uploads(start: Start) -> None:
    container = start()
    wait_until(container.ready, SECONDS_TO_START)
    assert requests.post(f"{container.address()}/predict", data=CAT, timeout=30).status_code == 200
    changed = [line.split()[1] for line in docker("diff", container.name).splitlines()]
    assert [path for path in changed if not f"{path}/".startswith("/tmp/")] == []
    assert container.run("find", "/uploads", "-mindepth", "2") == ""  # once it is answered
    # Besides these two, folders that Debian makes writable for all; read-only if the root is.
    find = "find / -xdev -writable -not -type l -not -path '/tmp*' 2>/dev/null; true"
    assert set(container.run("sh", "-c", find).split()) <= {"/uploads", "/run/lock", "/var/tmp"}


def test_what_is_there_serves_and_nothing_else(start: Start) -> None:
    container = start("--entrypoint", "sleep", command=("600",))
    assert sorted(container.run("ls", "/app").split()) == [
        "config.properties", "files", "gateway", "handler", "log4j2.xml", "model_store", "tools"
    ]  # fmt: skip
    packages = container.run("ls", "/opt/venv/lib/python3.11/site-packages").lower()
    for name in ("mlflow", "pytest", "dvc", "model_archiver", "nvidia", "triton"):
        assert name not in packages
    for program in ("gcc", "cc", "make", "git"):
        assert container.run("sh", "-c", f"command -v {program} || true") == ""


def test_a_stop_under_load_loses_no_photo(start: Start) -> None:
    container = start(*HARDENED, "--memory", "3g", "--cpus", "2")
    wait_until(container.ready, SECONDS_TO_START)
    with Load(container, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(100)
        docker("stop", "--time", "60", container.name)
    state = container.state()
    assert state["ExitCode"] == 0
    assert load.good() >= 100
    lost = [a for a in load.failed() if a.status or a.error not in GONE]
    assert lost == []


def without_weights(archive: Path) -> None:
    """TorchServe's archiver would create one too."""
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(f"{archive}.part", "w") as part:
        for name in whole.namelist():
            if not name.endswith(".pt"):
                part.writestr(name, whole.read(name))
    Path(f"{archive}.part").replace(archive)


# Errors of a client whose connection nobody accepted or, later, whose address is unused.
GONE = (*REFUSED, "OSError", "TimeoutError")


def test_alone_torchserve_waits_until_the_gateway_has_no_client_left(start: Start) -> None:
    gateway = start(*HARDENED, "--memory", "512m", command=("--only", "gateway"))
    shared = ("--network", f"container:{gateway.name}", "--volumes-from", gateway.name)
    torchserve = start(*HARDENED, *shared, "--memory", "3g", command=("--only", "torchserve"))
    wait_until(gateway.ready, SECONDS_TO_START)
    with Load(gateway, clients=8) as load:  # type: ignore[arg-type]
        load.wait_for(100)
        docker("kill", "--signal", "TERM", torchserve.name, gateway.name)
        docker("wait", torchserve.name, gateway.name)
    assert torchserve.state()["ExitCode"] == gateway.state()["ExitCode"] == 0
    lost = [a for a in load.failed() if a.status or a.error not in GONE]
    assert lost == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda path: path.write_bytes(b"half an archive"), "is not an archive"),
        (lambda path: path.unlink(), "is missing in this folder"),
        (without_weights, "the workers can't load the model"),
    ],
)
def test_a_broken_archive_is_reported_and_ends_the_container(
    start: Start, tmp_path: Path, fault: Callable[[Path], None], message: str
) -> None:
    archive(REPOSITORY / "models/catsdogs.pt", None, tmp_path / "catsdogs.mar")
    (tmp_path / "catsdogs.mar.sha256").unlink()
    fault(tmp_path / "catsdogs.mar")
    tmp_path.chmod(0o755)
    container = start(*HARDENED, "--volume", f"{tmp_path}:/app/model_store:ro")
    assert docker("wait", container.name).strip() == "2"
    (complaint,) = [line for line in container.logs().splitlines() if line.startswith("error: ")]
    assert message in complaint


def largest_photos() -> list[bytes]:
    """The photos that need most memory: 50 megapixels of progressive JPEG, 16 of WebP and TIFF."""
    noise = np.random.default_rng(0).integers(0, 255, (100, 125, 3), np.uint8)
    photos = []
    for size, kind, options in (
        ((7900, 6300), "JPEG", {"progressive": True, "quality": 30}),
        ((4600, 3400), "WEBP", {"quality": 20}),
        ((4600, 3400), "TIFF", {"compression": "tiff_adobe_deflate"}),
    ):
        file = io.BytesIO()
        Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(file, kind, **options)
        photos.append(file.getvalue())
    assert all(len(photo) < MAX_UPLOAD_BYTES for photo in photos), [len(photo) for photo in photos]
    return photos


@contextmanager
def peak(container: Container) -> Iterator[list[float]]:
    """The most memory so far, in megabytes, as the one element of a list."""
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            most[0] = max(most[0], container.memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def restarts(container: Container) -> float:
    """Of workers, between the calls of this function."""
    metrics = requests.get(f"{container.address('metrics')}/metrics/workers", timeout=10).text
    (count,) = re.findall(r"^torchserve_worker_restarts_total{.*} (\S+)$", metrics, re.MULTILINE)
    return float(count)


@pytest.mark.parametrize(("cpus", "memory"), [("1", "1g"), ("2", "2g")])
def test_the_largest_photos_do_not_get_it_killed(start: Start, cpus: str, memory: str) -> None:
    container = start(*HARDENED, "--cpus", cpus, "--memory", memory, "--memory-swap", memory)
    wait_until(container.ready, SECONDS_TO_START)
    idle = container.memory()
    assert re.search(rf"served by {cpus} worker", container.logs())
    assert restarts(container) == 0
    # After the first explanation, a worker has the network twice in memory.
    asked = [*(("predict", p) for p in largest_photos() * 4), *[("explain", CAT)] * 6]
    asked += [(path, p) for p in largest_photos() * 2 for path in ("predict", "explain")]

    def ask(question: tuple[str, bytes]) -> int:
        path, photo = question
        url = f"{container.address()}/{path}"
        return requests.post(url, data=photo, timeout=60).status_code

    with peak(container) as most, ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(ask, asked))
    assert 200 in statuses
    assert set(statuses) <= {200, 504}  # too late, on a busy machine
    print(f"\n{cpus} CPU, {memory}: {idle:.0f} MB idle, {most[0]:.0f} at most")
    assert not container.state()["OOMKilled"]
    assert restarts(container) == 0
    assert container.ready()
